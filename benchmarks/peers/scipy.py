"""SciPy's integrators, as score_sde has them (Song et al., github.com/yang-song/score_sde_pytorch).

A batch goes through `solve_ivp` as one flat system in t.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.base import require
from benchmarks.peers.odes import Counted, Integrator, Slope, Span, density
from scoresde import TimeFrame

_library = require("scipy.integrate")


def _carry(method: str, slope: Slope, y: Tensor, span: Span, tol: float) -> tuple[Tensor, float]:
    counted = Counted(slope)

    def flat(u: float, state: np.ndarray) -> np.ndarray:
        out = counted(torch.tensor(u), torch.from_numpy(state).reshape(y.shape))
        return out.numpy().ravel()

    with torch.no_grad():
        found = _library.solve_ivp(flat, span, y.numpy().ravel(), method, rtol=tol, atol=tol)
    return torch.from_numpy(found.y[:, -1]).reshape(y.shape), counted.calls


INTEGRATORS = (Integrator("SciPy", "RK45", partial(_carry, "RK45")),)
"""What it has for the probability flow."""

DENSITIES = (density(INTEGRATORS[0], TimeFrame(), "RK45 in t, as score_sde"),)
"""What is made of it for likelihoods."""
