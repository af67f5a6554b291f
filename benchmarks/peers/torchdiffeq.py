"""torchdiffeq's integrators (Chen, github.com/rtqichen/torchdiffeq): a batch is one system.

An adaptive method would pass the end and interpolate, where a process may not reach; it is told to
step there.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.base import require
from benchmarks.peers.odes import Counted, Integrator, Slope, Span, density
from scoresde import EpsFrame

_library = require("torchdiffeq")


def _adaptive(
    method: str, slope: Slope, y: Tensor, span: Span, tol: float, **options: Any
) -> tuple[Tensor, float]:
    counted, u = Counted(slope), torch.tensor(span, dtype=torch.float64)
    ways = options if method == "scipy_solver" else {"step_t": u[1:], **options}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)  # of SciPy, for options it does not know
        path = _library.odeint(counted, y, u, rtol=tol, atol=tol, method=method, options=ways)
    return path[-1], counted.calls


def _fixed(method: str, slope: Slope, y: Tensor, span: Span, steps: float) -> tuple[Tensor, float]:
    counted, u = Counted(slope), torch.linspace(*span, int(steps) + 1, dtype=torch.float64)
    with torch.no_grad():
        path = _library.odeint(counted, y, u, method=method)
    return path[-1], counted.calls


def _of_pair(y: Tensor) -> Tensor:
    """Return the larger root mean square, of the states and of the integrals that stand last.

    What the library takes of a pair, as which k-diffusion hands it the two.
    """
    parts = y.reshape(-1, y.shape[-1]).split((y.shape[-1] - 1, 1), 1)
    return torch.maximum(*(part.square().mean().sqrt() for part in parts))


_STEPS = (1, 2, 3, 5, 6, 7, 10, 12, 15, 20, 25, 30, 40, 50)

INTEGRATORS = (
    *(
        Integrator("torchdiffeq", name, partial(_adaptive, name))
        for name in ("bosh3", "dopri5", "dopri8")
    ),
    Integrator(
        "torchdiffeq",
        "scipy_solver DOP853",
        partial(_adaptive, "scipy_solver", solver="DOP853"),
    ),
    *(
        Integrator("torchdiffeq", name, partial(_fixed, name), _STEPS, "uniform t")
        for name in ("midpoint", "rk4")
    ),
)
"""What it has for the probability flow."""

_PAIRED = Integrator("torchdiffeq", "dopri5", partial(_adaptive, "dopri5", norm=_of_pair))

DENSITIES = (density(_PAIRED, EpsFrame(), "dopri5 in sigma, as k-diffusion"),)
"""What is made of it for likelihoods."""
