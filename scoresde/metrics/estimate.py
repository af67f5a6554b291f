"""What a metric takes and returns: two sets of features, and a number with its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of samples, with the name of the network that they come from.

    Attributes:
        features: (N, F).
        network: its name, which every number made of the features carries.
    """

    features: Tensor
    network: str

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor) -> Embedding:
        return Embedding(self.features[rows], self.network)


Samples = Tensor | Embedding
"""Samples (N, *) as they are, or their features."""


@dataclass(frozen=True)
class Estimate:
    """A metric of samples against a reference.

    Attributes:
        metric: its name.
        value: in the units that the metric says.
        stderr: standard error of the value; what it covers is said by the metric.
        samples: N, how many samples there were.
        reference: M, how many of the reference.
        network: of the features; "none" where the data themselves were compared.
        p_value: of the hypothesis that both have the same law, where the metric tests it.
    """

    metric: str
    value: float
    stderr: float
    samples: int
    reference: int
    network: str = "none"
    p_value: float | None = None

    def __str__(self) -> str:
        tested = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        return (
            f"{self.metric} {self.value:.4g} ± {self.stderr:.2g}{tested} "
            f"({self.samples} samples, {self.reference} of reference, features: {self.network})"
        )


class Pair(NamedTuple):
    """Two sets of rows in double precision.

    Attributes:
        x: of the samples (N, F).
        y: of the reference (M, F).
        network: the name of the network of both.
    """

    x: Tensor
    y: Tensor
    network: str

    def estimate(
        self, metric: str, value: float, stderr: float, p_value: float | None = None
    ) -> Estimate:
        """Return a result that says what it was made of."""
        return Estimate(metric, value, stderr, len(self.x), len(self.y), self.network, p_value)


def pair(samples: Samples, reference: Samples, least: int = 2) -> Pair:
    """Return two sets as rows in double precision, with the network of their features.

    Raises:
        ValueError: fewer than `least` samples in one; shapes that do not fit; values that are not
            finite; features of different networks.
    """
    (x, network), (y, other) = (_rows(s) for s in (samples, reference))
    if network != other:
        raise ValueError(
            f"samples have features of {network!r}, the reference of {other!r}: take both from "
            f"one network"
        )
    for name, rows in (("samples", x), ("reference", y)):
        if len(rows) < least:
            raise ValueError(f"{name}: {len(rows)} of them; at least {least} are needed")
        if not rows.isfinite().all():
            raise ValueError(f"{name}: has values that are not finite; leave those samples out")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"samples have {x.shape[1]} values each, the reference {y.shape[1]}: give both alike"
        )
    return Pair(x, y.to(x.device), network)


def _rows(samples: Samples) -> tuple[Tensor, str]:
    x, network = samples, "none"
    if isinstance(samples, Embedding):
        x, network = samples.features, samples.network
    assert isinstance(x, Tensor)
    if x.ndim < 2:
        raise ValueError(f"samples of shape {tuple(x.shape)}: give (N, *), x[:, None] for scalars")
    return x.detach().flatten(1).double(), network


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows in random order, so that parts of them are samples of the whole."""
    return rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
