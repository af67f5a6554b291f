"""Measured orders of convergence, against exact solutions.

The error is that of the end point against the exact probability flow for a deterministic solver,
and that of the exact law of the samples (`laws.law`) for a stochastic one. Both are free of
sampling error, so that slopes are good to a few hundredths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scoresde.analytic import Gaussian, GaussianMixture
from scoresde.denoiser import Field
from scoresde.grids import DensityGrid, Grid
from scoresde.noise import Noise
from scoresde.sampling import sample
from scoresde.sde import SDE, VESDE, VPSDE, Level, SubVPSDE
from scoresde.solvers import AdaptiveSolver, DormandPrince, Solver, Step
from scoresde.tensors import Scalar
from scoresde.testing.laws import law, marginal, weak_error
from scoresde.testing.samplers import Sampler, run

Family = Solver | Sampler | Callable[[int], Solver]
"""A sampler, or a solver for each number of steps: churn, say, falls as the steps get finer."""

# relative errors below this are rounding
FLOOR = 1e-13


@dataclass(frozen=True)
class Problem:
    """Data under a process, where the right answer is known.

    Attributes:
        data: a Gaussian, whose flow is known in closed form, or a mixture, whose flow is taken
            from a tight adaptive solve.
        sde: the process; a t_min well above 0 keeps the flow smooth on coarse grids.
        data_std: scale of the solver's frame. One that is not the data's own keeps the
            nonlinear part of the flow from vanishing.
        grid: where the steps are; that of `sample` by default.
    """

    data: GaussianMixture
    sde: SDE
    data_std: float = 1.0
    grid: Grid | None = None

    def error(self, sampler: Solver | Sampler, steps: int | None = None) -> float:
        """Return the error at t_min of a solve from T, relative to the scale of the states.

        Raises:
            ValueError: a stochastic sampler that is not affine (`NotAffine`), or on a mixture.
        """
        top, bottom = self.sde.level(self.sde.T), self.sde.level(self.sde.t_min)
        model = self.data.denoiser(self.sde, self.data_std)
        grid = None if isinstance(sampler, AdaptiveSolver) else self.grid
        how = {"grid": grid, "steps": steps, "denoise": False}
        if not sampler.stochastic:
            x = self._panel(top)
            exact = self.flow(x, top, bottom)
            found, _ = run(sampler, model, x, **how)
            return float((found - exact).abs().max() / exact.abs().max())
        if not isinstance(self.data, Gaussian):
            raise ValueError(f"data={self.data}: the law of samples is known for a Gaussian only")
        found = law(sampler, self.sde, self.data, model=model, **how)
        return weak_error(found, marginal(self.data, bottom))

    def flow(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """Return where the exact probability flow takes x (B, D) from one level to another.

        Raises:
            ValueError: data that are no Gaussian, between other levels than those of T and t_min.
        """
        if isinstance(self.data, Gaussian):
            return self.data.flow(x, here, there)
        if (here.t, there.t) != (self.sde.T, self.sde.t_min):
            raise ValueError(f"data={self.data}: no closed form of the flow from {here} to {there}")
        model = self.data.denoiser(self.sde, self.data_std)
        return sample(model, x=x, solver=DormandPrince(rtol=1e-12, atol=1e-12), denoise=False)

    def _panel(self, top: Level) -> Tensor:
        # a fixed set of starts within two deviations of the law at T
        d = len(self.data.mean)
        rows = torch.arange(4 * d, dtype=torch.float64).reshape(4, d)
        return float(top.sigma) * 2.0 * torch.sin(1.0 + rows)


def _gaussian(first: float, second: float) -> Gaussian:
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    variances = torch.tensor([first, second], dtype=torch.float64)
    return Gaussian(torch.tensor([0.5, -0.3], dtype=torch.float64), (turn * variances) @ turn.mT)


PANEL = tuple(
    Problem(_gaussian(*variances), sde, grid=DensityGrid(mean=-1.0))
    for sde in (VPSDE(t_min=0.05), SubVPSDE(t_min=0.05), VESDE(0.05, 20.0))
    for variances in ((0.25, 0.25), (1.5, 0.1), (2.0, 0.5))
)
"""Three processes times three covariances, all smooth: the problems that orders are measured on."""


@dataclass(frozen=True)
class AlternatingGrid(Grid):
    """Steps in lam that alternate between long and half as long.

    On a smooth grid neighbouring steps become equal as they become small, which hides a multistep
    method that forgets their ratio.
    """

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        low, high = float(sde.lam(sde.T)), float(sde.lam(sde.t_min))
        shares = ((i + i % 2 / 3.0) / steps for i in range(1, steps))
        inner = (float(sde.t_at((1.0 - u) * low + u * high)) for u in shares)
        return (sde.T, *inner, sde.t_min)


ROUGH = tuple(replace(problem, grid=AlternatingGrid()) for problem in PANEL[1::3])
"""One problem of each process, on grids that never become smooth."""


@dataclass(frozen=True)
class Convergence:
    """Errors of a solver on finer and finer grids.

    Attributes:
        steps: numbers of steps, increasing.
        errors: relative errors.
    """

    steps: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def slopes(self) -> tuple[float, ...]:
        """Order between each two neighbouring grids, while both errors are above rounding."""
        pairs = pairwise(zip(self.steps, self.errors, strict=True))
        return tuple(
            math.log(before / after) / math.log(n / m)
            for (m, before), (n, after) in pairs
            if after > FLOOR
        )

    @property
    def order(self) -> float:
        """Slope between the two finest grids whose errors are above rounding.

        NaN where no two are: the problem is too easy for the solver.
        """
        return self.slopes[-1] if self.slopes else math.nan

    def __str__(self) -> str:
        errors = ", ".join(f"{e:.1e}" for e in self.errors)
        return f"order {self.order:.2f} (errors {errors} at {self.steps} steps)"


def convergence(
    sampler: Family,
    problem: Problem,
    steps: Sequence[int] = (32, 64, 128, 256),
    *,
    exact_start: bool = False,
) -> Convergence:
    """Return a sampler's errors on a problem over several numbers of steps.

    Args:
        sampler: a solver or a whole loop, or a solver for each number of steps; an adaptive solver
            is run on the grid.
        problem: what it is measured on.
        steps: numbers of steps, increasing.
        exact_start: put the first quarter of the states on the exact flow of Gaussian data. This
            is the order that books state for a multistep method (Hairer, Norsett and Wanner 1993,
            Sec. III.2); without, the low-order steps at which such a method starts count too.

    Raises:
        ValueError: no exact answer is known (see `Problem`), or exact_start for a whole loop, whose
            states are its own.
    """
    errors = []
    for n in steps:
        each = on_grid(sampler(n) if callable(sampler) else sampler)
        if exact_start:
            if isinstance(each, Sampler):
                raise ValueError(f"exact_start: {each} is a whole loop, which hides its states")
            each = _ExactStart(each, problem, n // 4)
        errors.append(problem.error(each, n))
    return Convergence(tuple(steps), tuple(errors))


def measured_order(
    sampler: Family,
    problem: Problem,
    steps: Sequence[int] = (32, 64, 128, 256),
    *,
    exact_start: bool = False,
) -> float:
    """Return the order at which a sampler converges to the exact solution: see `convergence`."""
    return convergence(sampler, problem, steps, exact_start=exact_start).order


def on_grid(sampler: Solver | Sampler) -> Solver | Sampler:
    """Return a sampler for fixed grids: an adaptive one takes its steps as the grid gives them."""
    return _Wrapped(sampler) if isinstance(sampler, AdaptiveSolver) else sampler


@dataclass(frozen=True)
class _Wrapped(Solver):
    solver: Solver

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    @property
    def evals(self) -> int:
        return self.solver.evals

    @property
    def strong_order(self) -> int | None:
        return self.solver.strong_order

    def init(self, field: Field, x: Tensor, level: Level) -> Any:
        return self.solver.init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        return self.solver.step(field, x, here, there, state, noise)

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        return self.solver.finish(field, x, here, state, noise)

    def clock(self, level: Level) -> Scalar:
        return self.solver.clock(level)

    def nfe(self, steps: int, denoise: bool) -> int:
        return self.solver.nfe(steps, denoise)


@dataclass(frozen=True)
class _ExactStart(_Wrapped):
    """A solver whose first states are the exact ones, while its history builds up."""

    problem: Problem
    count: int

    def init(self, field: Field, x: Tensor, level: Level) -> Any:
        return 0, super().init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        done, inner = state
        new, inner, _ = super().step(field, x, here, there, inner, noise)
        new = self.problem.flow(x, here, there) if done < self.count else new
        return Step(new, (done + 1, inner))
