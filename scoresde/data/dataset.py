"""A data set: an immutable value that holds its training and test samples in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde.data.checks import (
    MAX_CLASSES,
    require_continuous,
    require_grey_levels,
    require_known_labels,
    require_labels,
    require_level_count,
)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test samples, with class labels where there are any.

    Attributes:
        train: (N, *) samples; images are (N, C, H, W). Grey levels stay integers (uint8 up to 256).
        test: (M, *) samples of the same shape and dtype; M may be 0.
        train_labels: (N,) class indices, or None. They are kept as int64.
        test_labels: (M,) class indices, or None.
        levels: data are integers 0..levels-1; None declares continuous floats.
        name: what reports call it.
        classes: the name of each class. Labels without names are numbered 0, 1, ... instead.

    Raises:
        ValueError: wrong rank, shapes or dtypes that differ, floats where integers were declared or
            the reverse, values outside 0..levels-1, values that are not finite, labels that do not
            match their samples or their classes, two classes of one name.
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    levels: int | None = None
    name: str = "data"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.levels is not None:
            require_level_count(self.levels)
        if self.train.ndim < 2 or self.train.numel() == 0:
            raise ValueError(
                f"train has shape {tuple(self.train.shape)}: give (N, *), at least one sample and "
                "one data axis (x[:, None] for scalars)"
            )
        if self.test.shape[1:] != self.train.shape[1:] or self.test.dtype != self.train.dtype:
            raise ValueError(
                f"test is {self.test.dtype} of shape {tuple(self.test.shape)}, train is "
                f"{self.train.dtype} of shape {tuple(self.train.shape)}: all axes but the first "
                "and the dtype must agree (train[:0] stands for no test set)"
            )
        for name, x in (("train", self.train), ("test", self.test)):
            if self.levels is None:
                require_continuous(name, x)
            else:
                require_grey_levels(name, x, self.levels)
        self._settle_labels()

    def _settle_labels(self) -> None:
        if self.train_labels is None or self.test_labels is None:
            for name, value in (
                ("train_labels", self.train_labels),
                ("test_labels", self.test_labels),
                ("classes", self.classes or None),
            ):
                if value is not None:
                    raise ValueError(
                        f"{name} is given, but train_labels and test_labels are not both: label "
                        "both sets (train_labels[:0] labels an empty test set) or neither"
                    )
            return
        require_labels("train_labels", self.train_labels, len(self.train))
        require_labels("test_labels", self.test_labels, len(self.test))
        used = 1 + int(torch.cat([self.train_labels, self.test_labels]).max())
        if not self.classes and used > MAX_CLASSES:
            raise ValueError(
                f"train_labels and test_labels reach {used - 1}: number the classes 0, 1, ... as "
                "there are some, or name them all by classes"
            )
        twice = next((name for name, n in Counter(self.classes).items() if n > 1), None)
        if twice is not None:
            raise ValueError(
                f"classes holds {twice!r} more than once: tell them apart, for samples are drawn "
                "by these names"
            )
        classes = tuple(self.classes) or tuple(str(k) for k in range(used))
        require_known_labels("train_labels", self.train_labels, len(classes))
        require_known_labels("test_labels", self.test_labels, len(classes))
        object.__setattr__(self, "train_labels", self.train_labels.long())
        object.__setattr__(self, "test_labels", self.test_labels.long())
        object.__setattr__(self, "classes", classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        return len(self.classes)

    def split(self, test_share: float, seed: int = 0) -> Dataset:
        """Set a random share of the training samples aside as the test set.

        Of all samples it is the nearest whole number, and of those of a class one next to the
        share, so that both sets keep the classes' proportions: the parts are rounded down, and up
        where most is lost by it (the method of largest remainders).

        Raises:
            ValueError: there is a test set already, or `test_share` is not in (0, 1) or leaves one
                of the sets empty.
        """
        if not 0 < test_share < 1:
            raise ValueError(f"test_share={test_share} must lie strictly between 0 and 1")
        if len(self.test):
            raise ValueError(f"{self!r} has a test set already: use it, or build one without")
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        labels = torch.zeros_like(order) if self.train_labels is None else self.train_labels[order]
        present, counts = labels.unique(return_counts=True)
        quotas = test_share * counts.double()
        taken = quotas.long()
        lost = round(test_share * len(order)) - int(taken.sum())
        taken[(quotas - taken).argsort(descending=True, stable=True)[:lost]] += 1
        test = torch.zeros(len(order), dtype=torch.bool)
        for label, count in zip(present, taken, strict=True):
            test[order[labels == label][:count]] = True
        if not 0 < test.sum() < len(order):
            raise ValueError(
                f"test_share={test_share} leaves {int(test.sum())} of {len(order)} samples to "
                "test on: give a share that leaves both sets some"
            )
        return replace(
            self,
            train=self.train[~test],
            test=self.train[test],
            train_labels=None if self.train_labels is None else self.train_labels[~test],
            test_labels=None if self.train_labels is None else self.train_labels[test],
        )

    def __repr__(self) -> str:
        kind = "continuous" if self.levels is None else f"{self.levels} levels"
        classes = f", {self.num_classes} classes" if self.classes else ""
        return (
            f"Dataset({self.name!r}: {len(self.train)} train, {len(self.test)} test, "
            f"shape {self.shape}, {kind}{classes})"
        )
