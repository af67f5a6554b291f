"""How to take the trace of the flow's Jacobian, from products with probes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.analytic import Gaussian
from scoresde.errors import require_integer
from scoresde.likelihood.jacobian import Jacobian
from scoresde.likelihood.probes import Probes, Rademacher
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

    def exact_in(self, d: int) -> bool:
        """Return whether the estimate is the trace itself for samples of d dimensions."""
        return False


@dataclass(frozen=True)
class ExactTrace(Trace):
    """The trace itself, by a product with every unit vector: D products a call."""

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x = jacobian.like
        d = math.prod(x.shape[1:])
        basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(1, d, *x.shape[1:])
        total = jacobian.quadratic(basis.expand(len(x), *basis.shape[1:])).sum(1)
        return Estimate(total, torch.zeros_like(total))

    def exact_in(self, d: int) -> bool:
        return True


@dataclass(frozen=True)
class Hutchinson(Trace):
    """Hutchinson's estimate, the mean of e^T M e over probes e (doi:10.1080/03610919008812866).

    Attributes:
        n: probes; the standard error needs two.
        probes: their law.

    Raises:
        ValueError: n that is no integer from 1.
    """

    n: int = 8
    probes: Probes = field(default_factory=Rademacher)

    def __post_init__(self) -> None:
        check_products(self.n, 1)

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x = jacobian.like
        values = jacobian.quadratic(self.probes.draw(x, self.n, noise))
        return mean_of(values, self.probes.left(self.n, math.prod(x.shape[1:])))

    def exact_in(self, d: int) -> bool:
        return self.probes.left(self.n, d) == 0.0


@dataclass(frozen=True)
class Flipped(Trace):
    """Another trace, of the Jacobian between signs that change with the level.

    Along a path M = sum_i w_i J_i, and with signs F_i = diag(+-1) for every level

        sum_i w_i F_i J_i F_i

    has the trace of M and its diagonal. The probes see F_i J_i F_i, so that what they add besides
    the trace has another sign at every level. Where the J_i are much alike and so are the weights,
    N calls leave about 1 / sqrt(N) of the standard error of signs. The flips are given, not drawn,
    and leave no bias. They make the integrand rough: adaptive solvers step by the sample alone.
    Where weights are large and of both signs, as those of high orders' stages, flips do harm.

    Attributes:
        trace: one of quadratic forms, such as `Hutchinson`; low rank does not outlast the flips.
    """

    trace: Trace

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        return self.trace.estimate(jacobian.flipped(), noise)

    def exact_in(self, d: int) -> bool:
        return self.trace.exact_in(d)


@dataclass(frozen=True)
class ControlVariate(Trace):
    """Another trace, of what a Gaussian's flow leaves of the Jacobian.

    A Gaussian's flow is linear, and its Jacobian and trace are known at every level. Taken off
    the integrand, they leave nothing for the probes to err on if the data are that Gaussian.

    Attributes:
        trace: of the rest.
        gaussian: such as `Gaussian.fit(train)`; any is without bias.

    Raises:
        ValueError: a Gaussian over another number of dimensions than the samples.
    """

    trace: Trace
    gaussian: Gaussian

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        d, own = math.prod(jacobian.like.shape[1:]), self.gaussian.means.shape[1]
        if own != d:
            raise ValueError(f"gaussian: over R^{own}, for samples of {d} numbers")
        rest, known = jacobian.less(self.gaussian)
        found = self.trace.estimate(rest, noise)
        return Estimate(found.trace + known, found.stderr)

    def exact_in(self, d: int) -> bool:
        return self.trace.exact_in(d)

    def __repr__(self) -> str:
        # a covariance has no place in a line
        return f"ControlVariate(trace={self.trace})"


def mean_of(values: Tensor, left: float = 1.0) -> Estimate:
    """Return the mean of estimates (B, K) of one law, and its standard error.

    Args:
        values: the estimates.
        left: share of the variance of independent ones that they have, 0 where they are exact.
    """
    k = values.shape[1]
    mean = values.mean(1)
    if left == 0.0:
        return Estimate(mean, torch.zeros_like(mean))
    squares = (values - mean[:, None]).square().sum(1)
    return Estimate(mean, (left * squares / (k * (k - 1))).sqrt())  # 0 / 0 for a single one


def check_products(n: int, multiple: int) -> None:
    """Raise the ValueError of a number of products that no estimate can do with."""
    require_integer(n, "n", multiple)
    if n % multiple:
        raise ValueError(f"n={n} must be a multiple of {multiple}")
