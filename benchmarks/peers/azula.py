"""azula's samplers (Rozet, github.com/probabilists/azula).

They carry x itself through times of a schedule, and call `denoiser(x, t).mean -> x0`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.base import Levels, Method, Wiring, require
from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.testing import InjectedDraws

_denoise, _noise, _sample = (require(f"azula.{name}") for name in ("denoise", "noise", "sample"))


class _Exact(_denoise.Denoiser):
    """Our field as a denoiser, with a schedule whose time t is at level n (1 - t) of n."""

    def __init__(self, field: Field, levels: Levels) -> None:
        super().__init__()
        self.field, self.levels = field, levels
        scales = [(level.alpha, level.sigma) for level in levels]
        self.scales = torch.tensor(scales, dtype=torch.float64)

    def _index(self, t: Tensor) -> Tensor:
        return ((1.0 - t) * (len(self.levels) - 1)).round().long()

    def schedule(self, t: Tensor) -> tuple[Tensor, ...]:
        return self.scales[self._index(t)].unbind(-1)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return _denoise.DiracPosterior(self.field(x, self.levels[int(self._index(t))]).x0)


class _Constant(_denoise.Denoiser):
    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.posterior, self.schedule = _denoise.DiracPosterior(out), _noise.VPSchedule()

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.posterior


def _method(name: str, order: int, /, evals: int = 1, label: str = "", **settings: Any) -> Method:
    kind = getattr(_sample, f"{name}Sampler")
    stochastic = name in ("DDPM", "Ito") or settings.get("eta", 0.0) > 0.0

    def solve(network: Any, x: Tensor, levels: Levels, noise: Noise | None) -> Tensor:
        sampler = kind(network, steps=len(levels) - 1, silent=True, dtype=x.dtype, **settings)
        with InjectedDraws(noise) if stochastic and noise else nullcontext():
            return sampler(x)

    wiring = Wiring(_Exact, _Constant)
    return Method("azula", label or name, wiring, solve, order, evals, stochastic)


FLOW = (
    _method("Euler", 1),
    _method("Heun", 2, 2),
    *(
        _method(name, order, 1, f"{name}{order}", order=order)
        for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB")
        for order in (2, 3)
    ),
    _method("vAB", 4, 1, "vAB4", order=4),
    _method("xEAB", 4, 1, "xEAB4", order=4),
)
"""What it has for the probability flow."""

REVERSE = (
    _method("DDPM", 1),
    _method("DDIM", 1, 1, "DDIM eta=1", eta=1.0),
    _method("Ito", 1, eta=1.0),
)
"""What it has for the reverse SDE, at full noise."""
