"""Every number that a public value is made of is checked when it is made, and refused by name."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from inspect import isabstract

import pytest

import scoresde
from scoresde import DensityGrid, FittedGrid, FixedGrid, Grid, SASolver, Solver, Trace
from scoresde.interop import scipy, torchsde

KINDS = sorted(
    {
        value
        for module in (scoresde, scipy, torchsde)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Solver | Grid | Trace)
        and is_dataclass(value)
        and not isabstract(value)
    },
    key=lambda kind: kind.__name__,
)

WRONG = {
    int: (2.5, 2.0, math.nan, math.inf, -1, 0, True, "2", None),
    float: (math.nan, math.inf, -math.inf, -1.0, True, "0.5", None),
}
"""What makes no sense, by what the default of a field is."""

TAKEN = {
    (DensityGrid, "mean"): (-1.0,),  # of a logarithm
    (SASolver, "corrector"): (0,),  # corrects nothing
}
"""What makes sense, of the values above."""

NUMBERS = [
    (kind, field.name, type(field.default))
    for kind in KINDS
    for field in fields(kind)
    if field.init and type(field.default) in WRONG
]


@pytest.mark.parametrize(("kind", "name", "sort"), NUMBERS, ids=lambda v: getattr(v, "__name__", v))
def test_a_number_that_makes_no_sense_is_refused_by_its_name(kind, name, sort):
    for value in WRONG[sort]:
        if value in TAKEN.get((kind, name), ()):
            assert getattr(kind(**{name: value}), name) == value
            continue
        with pytest.raises(ValueError, match=rf"\b{name}="):
            kind(**{name: value})


def test_the_numbers_are_found():
    assert len(NUMBERS) > 40
    assert {kind for kind in KINDS if fields(kind)} > {FixedGrid, FittedGrid}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (FixedGrid, "nodes"),
        (lambda values: FittedGrid(values[::-1]), "lams"),
    ],
)
def test_a_row_of_numbers_is_refused_by_its_name(make, name):
    words = ("b", "a")
    for values in (
        (1.0, math.nan),
        (math.nan, 0.1),
        (math.inf, 0.1),
        (1.0, 1.0),
        (0.1, 1.0),
        words,
    ):
        with pytest.raises(ValueError, match=rf"{name}="):
            make(values)
