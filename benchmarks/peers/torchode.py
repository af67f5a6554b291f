"""torchode's integrators (Lienen and Guennemann 2022, arXiv:2210.12375).

Every sample has steps of its own. Both methods have seven stages, the first known from before.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.base import require
from benchmarks.peers.odes import Integrator, Slope, Span, density
from scoresde import TimeFrame

_library = require("torchode")


def _carry(method: str, slope: Slope, y: Tensor, span: Span, tol: float) -> tuple[Tensor, float]:
    term = _library.ODETerm(slope)
    controller = _library.IntegralController(atol=tol, rtol=tol, term=term)
    solver = _library.AutoDiffAdjoint(getattr(_library, method)(term=term), controller)
    start, stop = (torch.full((len(y),), end, dtype=torch.float64) for end in span)
    with torch.no_grad():
        found = solver.solve(_library.InitialValueProblem(y0=y, t_start=start, t_end=stop))
    assert not found.status.any(), f"torchode {method}: status {found.status}"
    # two for the size of the first step, and six for each step that a sample took
    return found.ys[:, -1], 2.0 + 6.0 * float(found.stats["n_steps"].double().mean())


INTEGRATORS = tuple(
    Integrator("torchode", name, partial(_carry, kind))
    for name, kind in (("dopri5", "Dopri5"), ("tsit5", "Tsit5"))
)
"""What it has for the probability flow."""

DENSITIES = tuple(density(method, TimeFrame(), f"{method.name} in t") for method in INTEGRATORS)
"""What is made of it for likelihoods."""
