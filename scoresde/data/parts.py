"""A data set from a source of training samples and one of test samples, read alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scoresde.data.checks import naming
from scoresde.data.dataset import Dataset


@dataclass(frozen=True)
class Part:
    """What a file or a folder holds.

    Attributes:
        samples: (N, *).
        names: the name of the class of each sample, or () where they have none.
        classes: all names of classes, in order, where the source lists them.
    """

    samples: Tensor
    names: Sequence[str] = ()
    classes: tuple[str, ...] = ()


def read_parts(
    read: Callable[[Path], Part],
    train: str | Path,
    test: str | Path | None,
    levels: int | None = None,
) -> Dataset:
    """Return the data set of two sources; without a second one the test set is empty.

    Classes are numbered in the order that the training source lists, or else in that of the
    alphabet.

    Raises:
        ValueError: the test samples have classes that the training samples do not have, or only one
            of the two has classes at all; or what `Dataset` refuses.
    """
    path = Path(train).resolve()
    first = read(Path(train))
    second = Part(first.samples[:0]) if test is None else read(Path(test))
    known, met = set(first.names), set(second.names)
    if test is not None and not (bool(known) == bool(met) and met <= known):
        raise ValueError(
            f"{test} has the classes {sorted(met)}, {train} has {sorted(known)}: give both the "
            "same classes"
        )
    classes = first.classes or tuple(sorted(known))
    with naming(train, test):
        return Dataset(
            first.samples,
            second.samples,
            _numbers(first.names, classes) if known else None,
            _numbers(second.names, classes) if known else None,
            levels=levels,
            name=path.stem if path.is_file() else path.name,
            classes=classes if known else (),
        )


def _numbers(names: Sequence[str], classes: Sequence[str]) -> Tensor:
    number = {name: k for k, name in enumerate(classes)}
    return torch.tensor([number[name] for name in names], dtype=torch.int64)
