"""Ladders: the processes of discrete chains, open to every solver of continuous time.

A chain has levels i = 1..n, x_i = alpha_i x_0 + sigma_i eps. A `Ladder` is a process with exactly
these levels at the times t = 1..n. Between two levels lam = log(alpha / sigma) is linear in t, so
that a grid of the levels gives the chain of the paper, and any other grid a solve of the same
model in log-SNR, where most solvers work anyway.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import neg

import torch
from torch import Tensor

from scoresde.errors import require_integer, require_number
from scoresde.sde import SDE, Level
from scoresde.tensors import Scalar, exp, softplus


@dataclass(frozen=True)
class Ladder(SDE):
    """A process given by n levels, at t = 1..n, between which lam is linear in t.

    It is solved from T = n to t_min = 1. Below level 1 lam goes on as it does from 2 to 1, as that
    of `VESDE` does; nothing is solved or trained there. Where alpha comes from lam by the rule of
    the subclass, `VPLadder` or `VELadder`, it holds between levels too.

    Attributes:
        n: number of levels.
        lams: lam of the levels 1..n, decreasing.

    Raises:
        ValueError: n that is no integer from 2; levels whose lam does not decrease.
    """

    n: int = 1000
    T: float = field(init=False, repr=False, compare=False)
    t_min: float = field(init=False, repr=False, compare=False)
    lams: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _table: Tensor = field(init=False, repr=False, compare=False)  # lams, and slopes after them

    def __post_init__(self) -> None:
        require_integer(self.n, "n", 2)
        lams = tuple(self._lams())
        slopes = [after - before for before, after in pairwise(lams)]
        if len(lams) != self.n or not all(-math.inf < slope < 0.0 for slope in slopes):
            raise ValueError(
                f"{self}: gives {len(lams)} levels for n={self.n}, or their alpha / sigma does not "
                f"decrease, with alpha > 0 and sigma > 0; give levels of rising noise"
            )
        table = torch.tensor([lams, (*slopes, slopes[-1])], dtype=torch.float64)
        values = {"T": float(self.n), "t_min": 1.0, "lams": lams, "_table": table}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    @abstractmethod
    def _lams(self) -> Sequence[float]:
        """Return lam of the levels 1..n."""

    def lam(self, t: Scalar) -> Scalar:
        return _like(self._at(t)[0], t)

    def t_at(self, lam: Scalar) -> Scalar:
        if not isinstance(lam, Tensor):
            k = min(max(bisect_left(self.lams, -lam, key=neg), 1), self.n - 1) - 1
            return k + 1.0 + (lam - self.lams[k]) / (self.lams[k + 1] - self.lams[k])
        levels, slopes = self._table_at(lam.device)
        fine = lam.double()
        k = torch.searchsorted(-levels, -fine).clamp(1, self.n - 1) - 1
        return (k + 1.0 + (fine - levels[k]) / slopes[k]).to(lam.dtype)

    def before(self, level: Level) -> Level:
        """Return the level below, at t - 1, and level 1 for level 1 itself."""
        t = level.t
        below = (t - 1.0).clamp(min=1.0) if isinstance(t, Tensor) else max(t - 1.0, 1.0)
        return self.level(below)

    def _table_at(self, device: torch.device) -> Tensor:
        return self._table.to(device, non_blocking=True)  # else each level would wait for a GPU

    def _at(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """Return lam and its slope at t, in float64 whatever the dtype of t."""
        if not isinstance(t, Tensor):
            k = min(max(int(t), 1), self.n - 1) - 1
            slope = self.lams[k + 1] - self.lams[k]
            return self.lams[k] + (t - (k + 1)) * slope, slope
        levels, slopes = self._table_at(t.device)
        fine = t.double()
        k = fine.detach().long().clamp(1, self.n - 1) - 1
        return levels[k] + (fine - (k + 1)) * slopes[k], slopes[k]


@dataclass(frozen=True)
class VPLadder(Ladder):
    """A variance-preserving ladder: alpha^2 + sigma^2 = 1, from the variances beta of its steps.

    alpha_i^2 = (1 - beta_1) ... (1 - beta_i) (Ho et al. 2020, arXiv:2006.11239, eq. 4). A ladder of
    your own is a subclass with `betas`.

    Raises:
        ValueError: as `Ladder`; betas that are not in (0, 1).
    """

    @abstractmethod
    def betas(self) -> Sequence[float]:
        """Return beta_1..beta_n."""

    def _lams(self) -> Sequence[float]:
        betas = self.betas()
        if not all(0.0 < beta < 1.0 for beta in betas):
            raise ValueError(
                f"{self}: betas from {min(betas):.4g} to {max(betas):.4g} must lie in (0, 1)"
            )
        logs = accumulate(math.log1p(-beta) for beta in betas)
        return [0.5 * (log - math.log(-math.expm1(log))) for log in logs]

    def alpha(self, t: Scalar) -> Scalar:
        return _like(exp(-0.5 * softplus(-2.0 * self._at(t)[0])), t)

    def sigma(self, t: Scalar) -> Scalar:
        return _like(exp(-0.5 * softplus(2.0 * self._at(t)[0])), t)

    def f(self, t: Scalar) -> Scalar:
        lam, slope = self._at(t)
        return _like(slope * exp(-softplus(2.0 * lam)), t)

    def g2(self, t: Scalar) -> Scalar:
        return -2.0 * self.f(t)

    def dsigma(self, t: Scalar) -> Scalar:
        # of sigma^2 = 1 / (1 + e^{2 lam}): the difference g^2 / (2 sigma) + f sigma cancels
        lam, slope = self._at(t)
        return _like(-slope * exp(-softplus(-2.0 * lam) - 0.5 * softplus(2.0 * lam)), t)


@dataclass(frozen=True)
class VELadder(Ladder):
    """A variance-exploding ladder: alpha = 1. A ladder of your own is a subclass with `sigmas`."""

    @abstractmethod
    def sigmas(self) -> Sequence[float]:
        """Return sigma_1..sigma_n, rising."""

    def _lams(self) -> Sequence[float]:
        return [-math.log(sigma) for sigma in self.sigmas()]

    def alpha(self, t: Scalar) -> Scalar:
        return torch.ones_like(t) if isinstance(t, Tensor) else 1.0

    def sigma(self, t: Scalar) -> Scalar:
        return _like(exp(-self._at(t)[0]), t)

    def f(self, t: Scalar) -> Scalar:
        return torch.zeros_like(t) if isinstance(t, Tensor) else 0.0

    def g2(self, t: Scalar) -> Scalar:
        lam, slope = self._at(t)
        return _like(-2.0 * slope * exp(-2.0 * lam), t)


@dataclass(frozen=True)
class LinearBetas(VPLadder):
    """The chain of DDPM: beta rises linearly from beta_min at level 1 to beta_max at level n.

    Ho et al. 2020, arXiv:2006.11239, Sec. 4. The defaults are those of 1000 levels. For n of them,
    both betas times 1000 / n lead as near to pure noise; these stop at alpha_n = 0.6 for 100.

    Raises:
        ValueError: as `VPLadder`.
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02

    def betas(self) -> Sequence[float]:
        shares = [i / (self.n - 1) for i in range(self.n)]
        return [(1.0 - u) * self.beta_min + u * self.beta_max for u in shares]


@dataclass(frozen=True)
class CosineBetas(VPLadder):
    """The chain of Improved DDPM: alpha_i^2 = F(i) / F(0), F(i) = cos^2((i/n + s)/(1 + s) pi/2).

    beta_i = 1 - F(i) / F(i-1), cut off at max_beta, which alone keeps alpha_n above 0 (Nichol and
    Dhariwal 2021, arXiv:2102.09672, eq. 17).

    Raises:
        ValueError: s not positive; as `VPLadder`.
    """

    s: float = 0.008
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        require_number(self.s, "s", above=0.0)
        require_number(self.max_beta, "max_beta", above=0.0, below=1.0)
        super().__post_init__()

    def betas(self) -> Sequence[float]:
        rate = 0.5 * math.pi / (1.0 + self.s)
        angles = [(i / self.n + self.s) * rate for i in range(self.n + 1)]
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no difference of like terms
        exact = (math.sin(b - a) * math.sin(b + a) / math.cos(a) ** 2 for a, b in pairwise(angles))
        return [min(beta, self.max_beta) for beta in exact]


@dataclass(frozen=True)
class GeometricSigmas(VELadder):
    """The ladder of NCSN: sigma rises in equal ratios from sigma_min, level 1, to sigma_max.

    The paper counts from the noisiest level down. Song and Ermon 2019, arXiv:1907.05600, Sec. 4.3;
    NCSNv2 has rules for n and sigma_max, as `ncsnv2_ladder`.

    Raises:
        ValueError: as `Ladder`; other than 0 < sigma_min < sigma_max.
    """

    n: int = 10
    sigma_max: float = 1.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        require_number(self.sigma_min, "sigma_min", above=0.0)
        require_number(self.sigma_max, "sigma_max", above=self.sigma_min)
        super().__post_init__()

    def sigmas(self) -> Sequence[float]:
        rate = math.log(self.sigma_max / self.sigma_min) / (self.n - 1)
        low = [self.sigma_min * math.exp(i * rate) for i in range(self.n - 1)]
        return [*low, self.sigma_max]


def feed_index(level: Level) -> Scalar:
    """Feed the network t - 1: 0 at level 1 of a `Ladder`, n - 1 at level n, fractional between."""
    return level.t - 1.0


def require_ladder(sde: SDE, name: str) -> Ladder:
    """Return the process of what works on the levels of a chain.

    Raises:
        ValueError: a process that has no levels, naming what asks for them.
    """
    if not isinstance(sde, Ladder):
        raise ValueError(
            f"{name}: works on the levels of a chain, and {sde} has none; take a Ladder such as "
            f"scoresde.chains.LinearBetas()"
        )
    return sde


def _like(value: Scalar, t: Scalar) -> Scalar:
    return value.to(t.dtype) if isinstance(value, Tensor) and isinstance(t, Tensor) else value
