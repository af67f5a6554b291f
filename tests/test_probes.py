"""The laws of probes: means and variances by enumeration and quadrature, none by chance."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch
from solver_examples import normal
from trace_helpers import Known, off_diagonal, trace_of

from scoresde import (
    Hadamard,
    Hutchinson,
    InjectedNoise,
    Rademacher,
    SeededNoise,
    Sphere,
    UnitNormal,
)

F64 = torch.float64
LAWS = [Rademacher(), UnitNormal(), Sphere(), Hadamard()]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_probes_are_of_the_samples_kind_and_each_samples_own(law, dtype):
    x = torch.zeros(5, 4, 6, dtype=dtype)
    drawn = law.draw(x, 4, SeededNoise(0))
    assert drawn.shape == (5, 4, 4, 6)
    assert drawn.dtype == dtype
    assert torch.equal(law.draw(x[3:4], 4, SeededNoise(0, start=3)), drawn[3:4])
    assert len({tuple(probe.flatten().tolist()) for probe in drawn.flatten(0, 1)}) == 20


def test_sphere_has_the_variance_of_its_formula():
    # points of a regular octagon are uniform on the circle up to the seventh power
    turn = torch.arange(8, dtype=F64) * (math.pi / 4)
    points = torch.stack([turn.cos(), turn.sin()], 1)
    matrix = normal(2, 2, dtype=F64)
    noise = InjectedNoise([3.0 * points])
    found = Hutchinson(1, Sphere()).estimate(Known(matrix.expand(8, 2, 2)), noise).trace
    symmetric = 0.5 * (matrix + matrix.mT)
    trace = float(matrix.trace())
    expected = 2 * 2 / (2 + 2) * (float(symmetric.square().sum()) - trace**2 / 2)
    assert float(found.mean()) == pytest.approx(trace, rel=1e-12)
    assert float(found.var(correction=0)) == pytest.approx(expected, rel=1e-12)


def test_probes_of_the_sphere_have_its_radius():
    drawn = Sphere().draw(torch.zeros(9, 2, 3, dtype=F64), 4, SeededNoise(0))
    assert torch.allclose(drawn.flatten(2).square().sum(2), torch.tensor(6.0, dtype=F64))


def every_set(d, rows):
    """Return the draws that give all signs, with all orders of the rows, one sample each."""
    signs = list(product((-1.0, 1.0), repeat=d))
    orders = list(permutations(range(rows)))
    pairs = [(o, s) for o in orders for s in signs]
    return [torch.tensor(column, dtype=F64) for column in zip(*pairs, strict=True)]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_orthogonal_signs_are_drawn_without_replacement(n):
    """Unbiased, of the variance of its formula, and with a standard error that has its mean."""
    matrix = normal(3, 3, dtype=F64)
    draws = every_set(3, 4)
    jacobian = Known(matrix.expand(len(draws[0]), 3, 3))
    found = Hutchinson(n, Hadamard()).estimate(jacobian, InjectedNoise(draws))
    expected = float(off_diagonal(matrix[None])) / n * (4 - n) / 3
    assert float(found.trace.mean()) == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert float(found.trace.var(correction=0)) == pytest.approx(expected, rel=1e-12, abs=1e-20)
    if n > 1:
        assert float(found.stderr.square().mean()) == pytest.approx(expected, rel=1e-12, abs=1e-20)


@pytest.mark.parametrize("d", [1, 2, 5, 8, 13])
def test_all_orthogonal_signs_give_the_trace(d):
    matrix = normal(3, d, d, dtype=F64)
    rows = 1 << (d - 1).bit_length()
    found = Hutchinson(rows, Hadamard()).estimate(Known(matrix), SeededNoise(0))
    assert torch.allclose(found.trace, trace_of(matrix), rtol=0, atol=1e-12)
    assert (found.stderr == 0.0).all()
    with pytest.raises(ValueError, match=f"n={rows + 1}: .*Hadamard.* has {rows} probes in {d}"):
        Hutchinson(rows + 1, Hadamard()).estimate(Known(matrix), SeededNoise(0))


def test_orthogonal_signs_are_orthogonal():
    drawn = Hadamard().draw(torch.zeros(3, 4, 4), 16, SeededNoise(0)).flatten(2)
    assert drawn.unique().tolist() == [-1.0, 1.0]
    assert torch.equal(drawn @ drawn.mT, 16.0 * torch.eye(16).expand(3, 16, 16))
