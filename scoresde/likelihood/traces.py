"""How to take the trace of the flow's Jacobian, from products with probes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.errors import require_integer
from scoresde.likelihood.jacobian import Jacobian
from scoresde.noise import Noise


class Estimate(NamedTuple):
    """An estimate of a trace.

    Attributes:
        trace: (B,).
        stderr: its standard error (B,); 0 where it is exact, NaN where nothing tells.
    """

    trace: Tensor
    stderr: Tensor


class Trace(ABC):
    """A way to take the trace of a matrix that is known by its products.

    A matrix belongs to a sample and its whole path, so probes are drawn once a solve, and each
    sample has its own.
    """

    @abstractmethod
    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        """Return the trace of every sample's matrix."""


@dataclass(frozen=True)
class ExactTrace(Trace):
    """The trace itself, by a product with every unit vector: D products a call."""

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x = jacobian.like
        d = math.prod(x.shape[1:])
        basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(1, d, *x.shape[1:])
        total = jacobian.quadratic(basis.expand(len(x), *basis.shape[1:])).sum(1)
        return Estimate(total, torch.zeros_like(total))


@dataclass(frozen=True)
class Hutchinson(Trace):
    """Hutchinson's estimate, the mean of e^T M e over probes e (doi:10.1080/03610919008812866).

    For S the symmetric part of M, a Rademacher probe has the variance 2 sum_{i != j} S_ij^2 and a
    Gaussian one 2 |S|_F^2.

    Attributes:
        n: probes; the standard error needs two.
        gaussian: unit normals instead of signs.

    Raises:
        ValueError: n that is no integer from 1.
    """

    n: int = 8
    gaussian: bool = False

    def __post_init__(self) -> None:
        require_integer(self.n, "n", 1)

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x = jacobian.like
        draws = torch.stack([noise.fold(k).normal(x) for k in range(self.n)], 1)
        probes = draws if self.gaussian else torch.where(draws < 0, -1.0, 1.0).to(x.dtype)
        return mean_of(jacobian.quadratic(probes))


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of independent estimates (B, K), and its standard error."""
    k = values.shape[1]
    mean = values.mean(1)
    squares = (values - mean[:, None]).square().sum(1)
    return Estimate(mean, (squares / (k * (k - 1))).sqrt())  # 0 / 0 for a single one
