"""Where the steps of a solve are: a number of steps to noise levels, in float64 on the host."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import ClassVar

from scoresde.errors import require_integer, require_number
from scoresde.sde import SDE, Level

# lam is -inf where alpha is 0; grids in lam place their nodes above this and start at T itself
LOWEST_LAM = -7.0

# of neighbouring steps; below it a level is a slip of rounding
LEAST_RATIO = 1e-3


class Grid(ABC):
    """A rule that places n steps between T and t_min: an immutable value."""

    @property
    def steps(self) -> int | None:
        """The number of steps, where the grid has its own."""
        return None

    @abstractmethod
    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        """Return steps + 1 times that decrease from T to t_min."""

    def levels(self, sde: SDE, steps: int) -> tuple[Level, ...]:
        """Return the steps + 1 levels of a solve, from T down to t_min.

        Raises:
            ValueError: steps that are no integer from 1; times that do not decrease, leave [0, T],
                or are all but repeated.
        """
        require_integer(steps, "steps", 1)
        times = self.times(sde, steps)
        if len(times) != steps + 1:
            raise ValueError(f"{self} gives {len(times)} times for {steps} steps, not {steps + 1}")
        if not all(a > b for a, b in pairwise(times)):
            raise ValueError(f"{self} gives times that do not decrease: {times}; take fewer steps")
        if not 0.0 <= times[-1] < times[0] <= sde.T:
            raise ValueError(
                f"{self} leads from t={times[0]} to {times[-1]}, outside [0, {sde.T}] of {sde}; "
                f"take times within"
            )
        levels = tuple(sde.level(t) for t in times)
        gaps = [float(after.lam) - float(here.lam) for here, after in pairwise(levels)]
        for k, (gap, after) in enumerate(pairwise(gaps)):
            # a step from alpha = 0, or to sigma = 0, is as long as can be
            if math.isfinite(gap + after) and min(gap, after) < LEAST_RATIO * max(gap, after):
                raise ValueError(
                    f"{self} has steps of lengths {gap:.3g} and {after:.3g} in lam on both sides "
                    f"of t={times[k + 1]}; leave out levels that are all but repeated"
                )
        return levels


def _spaced(steps: int, node: Callable[[float], float]) -> tuple[float, ...]:
    return tuple(node(i / steps) for i in range(steps + 1))


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Times evenly spaced in t."""

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        return _spaced(steps, lambda u: (1.0 - u) * sde.T + u * sde.t_min)


@dataclass(frozen=True)
class QuadraticGrid(Grid):
    """Times evenly spaced in sqrt(t) (Song et al. 2021, arXiv:2010.02502, App. D.2)."""

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        top, bottom = math.sqrt(sde.T), math.sqrt(sde.t_min)
        return _ends(sde, _spaced(steps, lambda u: ((1.0 - u) * top + u * bottom) ** 2))


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Levels evenly spaced in lam = log(alpha / sigma) (Lu et al. 2022, arXiv:2206.00927)."""

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        low, high = _lam_range(sde)
        return _at_lams(sde, _spaced(steps, lambda u: (1.0 - u) * low + u * high))


@dataclass(frozen=True)
class KarrasGrid(Grid):
    """Levels evenly spaced in (sigma / alpha)^{1/rho}.

    Karras et al. 2022, arXiv:2206.00364, eq. 5.

    Attributes:
        rho: how strongly the steps crowd at low noise.

    Raises:
        ValueError: rho that is not positive and finite.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        require_number(self.rho, "rho", above=0.0)

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        low, high = (math.exp(-lam / self.rho) for lam in _lam_range(sde))
        node = _spaced(steps, lambda u: -self.rho * math.log((1.0 - u) * low + u * high))
        return _at_lams(sde, node)


@dataclass(frozen=True)
class DensityGrid(Grid):
    """Levels at equal shares of a density over log(sigma / alpha): the default.

    The density is a normal mixed with a uniform over the range of the solve. Most of what a
    network has to say of unit-variance data lies where sigma / alpha is between 0.01 and 10, and
    that is where the normal puts the steps.

    Attributes:
        mean: of the normal, in log(sigma / alpha).
        width: its standard deviation.
        uniform: share of the uniform part, in (0, 1].

    Raises:
        ValueError: numbers out of range; a normal that lies outside the range of a solve.
    """

    mean: float = -0.4
    width: float = 1.7
    uniform: float = 0.45

    def __post_init__(self) -> None:
        require_number(self.mean, "mean")
        require_number(self.width, "width", above=0.0)
        require_number(self.uniform, "uniform", above=0.0, most=1.0)

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        low, high = _lam_range(sde)

        def normal(lam: float) -> float:
            return math.erf((lam + self.mean) / (self.width * math.sqrt(2.0)))

        mass = normal(high) - normal(low)
        if not mass > 0.0:
            raise ValueError(
                f"mean={self.mean}, width={self.width}: the normal has no mass where {sde} is "
                f"solved, at log(sigma / alpha) from {-high:.3g} to {-low:.3g}; move or widen it"
            )

        def share(lam: float) -> float:
            bell = (normal(lam) - normal(low)) / mass
            return (1.0 - self.uniform) * bell + self.uniform * (lam - low) / (high - low)

        return _at_lams(sde, _spaced(steps, lambda u: _bisect(share, u, low, high)))


def default_grid(data_std: float, stochastic: bool = False) -> DensityGrid:
    """Return the default grid for data of a deviation: it moves with log(data_std).

    It is wider for a stochastic solver, whose output has the deviation of what is finer than the
    data's own only where steps are short at its level too.
    """
    mean = math.log(data_std) - 0.4
    return DensityGrid(mean, width=3.0, uniform=0.3) if stochastic else DensityGrid(mean)


@dataclass(frozen=True)
class FittedGrid(Grid):
    """Levels at equal shares of a density that `fit_grid` found, for any number of steps.

    Attributes:
        lams: quantiles of the density at even shares, from high noise to low.

    Raises:
        ValueError: quantiles that do not increase; at a solve, a process of another range.
    """

    lams: tuple[float, ...]

    RESOLUTION: ClassVar[int] = 128

    def __post_init__(self) -> None:
        real = all(isinstance(lam, Real) for lam in self.lams)
        rises = real and all(-math.inf < a < b < math.inf for a, b in pairwise(self.lams))
        if len(self.lams) < 2 or not rises:
            raise ValueError(f"lams={self.lams}: need two or more finite values that increase")

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        low, high = _lam_range(sde)
        span = self.lams[-1] - self.lams[0]
        if max(abs(self.lams[0] - low), abs(self.lams[-1] - high)) > 0.1 * span:
            raise ValueError(
                f"lams: from {self.lams[0]:.3g} to {self.lams[-1]:.3g}, but {sde} is solved from "
                f"{low:.3g} to {high:.3g}; fit a grid to a model of this process"
            )

        def node(share: float) -> float:
            k = min(int(share * (len(self.lams) - 1)), len(self.lams) - 2)
            part = share * (len(self.lams) - 1) - k
            return (1.0 - part) * self.lams[k] + part * self.lams[k + 1]

        return _at_lams(sde, _spaced(steps, node))


def _aligned(*ratios: float) -> FittedGrid:
    return FittedGrid(tuple(-math.log(ratio) for ratio in ratios))


# sigma / alpha: Sabour et al. 2024, arXiv:2404.14507, Table 3
AYS_SD15 = _aligned(14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Align Your Steps for Stable Diffusion 1.5: 10 steps, log-linear in sigma / alpha for others."""

AYS_SDXL = _aligned(14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""Align Your Steps for SDXL."""

AYS_DEEPFLOYD = _aligned(
    160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006
)
"""Align Your Steps for the first stage of DeepFloyd IF."""

AYS_SVD = _aligned(700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""Align Your Steps for Stable Video Diffusion."""


@dataclass(frozen=True)
class FixedGrid(Grid):
    """Given times, as many steps as lie between them.

    Attributes:
        nodes: times that decrease, from T to t_min. A solve from a given x may also start at a
            later node than T, where x is then taken to be, and end before t_min.

    Raises:
        ValueError: fewer than two nodes; nodes that do not decrease, or are negative or infinite;
            at a solve, nodes above T.
    """

    nodes: tuple[float, ...]

    def __post_init__(self) -> None:
        real = all(isinstance(t, Real) for t in self.nodes)
        falls = real and all(math.inf > a > b >= 0.0 for a, b in pairwise(self.nodes))
        if len(self.nodes) < 2 or not falls:
            raise ValueError(
                f"nodes={self.nodes} of a FixedGrid: need two times or more that decrease, from T "
                f"or below and not beyond 0; sort them, and leave out repeated ones"
            )

    @property
    def steps(self) -> int:
        return len(self.nodes) - 1

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        if steps != self.steps:
            raise ValueError(f"steps={steps}, but the grid has {self.steps} steps")
        return self.nodes


def _lam_range(sde: SDE) -> tuple[float, float]:
    low = float(sde.lam(sde.T))
    return low if math.isfinite(low) else LOWEST_LAM, float(sde.lam(sde.t_min))


def _at_lams(sde: SDE, lams: tuple[float, ...]) -> tuple[float, ...]:
    return _ends(sde, tuple(float(sde.t_at(lam)) for lam in lams))


def _ends(sde: SDE, times: tuple[float, ...]) -> tuple[float, ...]:
    # the ends are T and t_min to the last bit, whatever rounding made of them
    return (sde.T, *times[1:-1], sde.t_min)


def _bisect(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return 0.5 * (low + high)
