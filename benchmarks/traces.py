"""Standard error of a log-likelihood from its trace estimate, against network evaluations.

An evaluation is one product of the network's Jacobian with a probe, forwards or backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.problems import PROBLEMS, FlowProblem
from scoresde import (
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    AdaptiveSolver,
    ExactTrace,
    Flipped,
    Hadamard,
    Hutchinson,
    PolarFrame,
    SeededNoise,
    Solver,
    Trace,
    XTrace,
    log_likelihood,
    solve,
)
from scoresde.denoiser import Field

PROBLEM_NAMES = ("64-D", "learned digits")
PRODUCTS = (4, 8, 16, 32)
SAMPLES = 8
DRAWS = 32
STEPS = 30
PLAIN = "Rademacher"


class Row(NamedTuple):
    """One estimator on one problem.

    Attributes:
        problem: whose likelihood is estimated.
        estimator: how.
        products: network evaluations for every step of the solve.
        stderr: root mean square, over samples, of the estimate's error, in nats.
    """

    problem: str
    estimator: str
    products: int
    stderr: float


def rademacher(s: Tensor) -> Tensor:
    """Return the variance (B,) of e^T S e for random signs e, of symmetric S (B, D, D)."""
    return 2.0 * (_squares(s) - s.diagonal(dim1=1, dim2=2).square().sum(1))


def gaussian(s: Tensor) -> Tensor:
    """Return the variance (B,) of e^T S e for unit normals e, of symmetric S (B, D, D)."""
    return 2.0 * _squares(s)


def sphere(s: Tensor) -> Tensor:
    """Return the variance (B,) of e^T S e for e on the sphere of radius sqrt(D)."""
    d = s.shape[-1]
    return 2.0 * d / (d + 2) * (_squares(s) - s.diagonal(dim1=1, dim2=2).sum(1).square() / d)


def _squares(s: Tensor) -> Tensor:
    return s.square().sum((1, 2))


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    PLAIN: rademacher,
    "Gaussian": gaussian,
    "sphere": sphere,
}
"""Probes whose variance is known, of the Jacobian's integral along the flow."""

DRAWN: dict[str, tuple[Callable[[int], Trace], Solver]] = {
    "default": (lambda n: Flipped(Hutchinson(n)), AdaptiveAdams()),
    "default on a grid": (lambda n: Flipped(Hutchinson(n)), AdamsPC()),
    "orthogonal signs": (lambda n: Hutchinson(n, Hadamard()), AdamsPC()),
    "XTrace": (XTrace, AdamsPC()),
}
"""Traces of `log_likelihood` by the products that they may take, and the solver that is asked."""


def measure(name: str, products: Sequence[int] = PRODUCTS) -> list[Row]:
    """Measure every estimator on one problem."""
    problem = PROBLEMS[name](VPSDE(), 1, SAMPLES)
    jacobian = integrated_jacobian(problem)
    symmetric = 0.5 * (jacobian + jacobian.mT)
    one = {known: math.sqrt(float(of(symmetric).mean())) for known, of in KNOWN.items()}
    rows = [Row(name, known, n, one[known] / math.sqrt(n)) for known in KNOWN for n in products]
    return [*rows, *(Row(name, *found) for found in _drawn(problem, products))]


def integrated_jacobian(problem: FlowProblem, steps: int = 4 * STEPS) -> Tensor:
    """Return the integral of dv/dy (B, D, D) over phi along the flow, by the trapezoidal rule.

    Probes e are drawn once a solve, so that the estimate is e^T of this e.
    """
    field, frame = Field(problem.model), PolarFrame()
    c = field.data_std
    path = solve(problem.model, x=problem.start, steps=steps, denoise=False, trajectory=True)
    assert path.trajectory is not None
    d = problem.start.shape[1]
    basis = torch.eye(d, dtype=problem.start.dtype)[:, None].expand(-1, len(problem.start), -1)
    slopes = []
    for level, state in zip(path.levels, path.trajectory, strict=True):
        x = state.detach().requires_grad_()
        (rows,) = torch.autograd.grad(frame.slope(field, x, level), x, basis, is_grads_batched=True)
        slopes.append(float(frame.scale(level, c)) * rows.movedim(0, 1))
    angles = [float(frame.variable(level, c)) for level in path.levels]
    pairs = zip(pairwise(angles), pairwise(slopes), strict=True)
    return sum((0.5 * (b - a) * (f + g) for (a, b), (f, g) in pairs), torch.zeros(()))


def _drawn(problem: FlowProblem, products: Sequence[int]) -> Iterator[tuple[str, int, float]]:
    many = problem.end.repeat_interleave(DRAWS, 0)

    def nats(x: Tensor, trace: Trace, solver: Solver) -> Tensor:
        steps = None if isinstance(solver, AdaptiveSolver) else STEPS
        found = log_likelihood(
            problem.model, x, trace=trace, solver=solver, steps=steps, noise=SeededNoise(0)
        )
        return found.nats

    for name, (trace, solver) in DRAWN.items():
        exact = nats(problem.end, ExactTrace(), solver).repeat_interleave(DRAWS)
        for n in products:
            error = nats(many, trace(n), solver) - exact
            yield name, n, float(error.square().mean().sqrt())
