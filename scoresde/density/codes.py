"""Between two samples, by way of their latent codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.grids import Grid
from scoresde.sampling import decode, encode
from scoresde.solvers import Solver
from scoresde.tensors import per_sample


def interpolate(
    model: BaseDenoiser,
    a: Tensor,
    b: Tensor,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Tensor:
    """Return samples on the way from a to b (B, *), as (n, B, *): share 0 is a, and 1 is b.

    Codes are encoded, turned from one to the other on great circles, and decoded (Song et al.
    2021, arXiv:2011.13456, App. D.2). Straight lines between codes of many dimensions would leave
    the shell that holds almost all of the prior.

    Args:
        model: the denoiser.
        a: samples at t_min (B, *).
        b: as many others.
        shares: of the way.
        solver, grid, steps, cond, progress: as in `scoresde.encode`.

    Raises:
        ValueError: shapes that differ; no shares; as `scoresde.encode`.
    """
    if a.shape != b.shape:
        raise ValueError(f"b: shape {tuple(b.shape)}, where a has {tuple(a.shape)}")
    if not shares:
        raise ValueError("shares: none given; one at least")
    how: dict[str, Any] = {
        "solver": solver, "grid": grid, "steps": steps, "cond": cond, "progress": progress
    }  # fmt: skip
    ends = encode(model, a, **how), encode(model, b, **how)
    return torch.stack([decode(model, great_circle(*ends, share), **how) for share in shares])


def great_circle(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return the point at a share of the way from a to b (B, *), turned and not cut across.

    (sin((1 - s) w) a + sin(s w) b) / sin(w) for the angle w between them (Shoemake 1985,
    doi:10.1145/325334.325242); lengths so go from one to the other too. The straight line where
    they point the same way, or opposite ways, between which no circle is the shortest.
    """
    u, v = (z.double().flatten(1) for z in (a, b))
    w = _angle(u, v)
    sine = w.sin()
    straight = sine < 1e-6
    turned = [((x * w).sin() / sine).where(~straight, x) for x in _shares(share, w)]
    left, right = (per_sample(t, a).to(a.dtype) for t in turned)
    return left * a + right * b


def _shares(share: float, like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(like, 1.0 - share), torch.full_like(like, share)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    # by both chords: the arc cosine of a product loses half of the digits of small angles
    u, v = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-300) for z in (u, v))
    return 2.0 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
