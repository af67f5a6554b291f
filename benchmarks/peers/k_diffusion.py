"""k-diffusion's samplers (Crowson, github.com/crowsonkb/k-diffusion).

They carry y = x / alpha through noise levels sigma / alpha, and call `model(y, sigma) -> x0`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.base import Levels, Method, Wiring, require
from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.tensors import lincomb


def _load() -> Any:
    # the package's own __init__ wants all that its training needs, and the module of the samplers
    # wants torchvision, which they do not use: stand-ins serve while it is imported
    spec = find_spec("k_diffusion")
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    vision = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    names = ("k_diffusion", *(name for name in vision if name not in sys.modules))
    sys.modules.update({name: ModuleType(name) for name in names}, k_diffusion=package)
    try:
        return require("k_diffusion.sampling")
    finally:
        for name in names:
            del sys.modules[name]


_library = _load()


def _exact(field: Field, levels: Levels) -> Callable[[Tensor, Tensor], Tensor]:
    def model(y: Tensor, sigma: Tensor) -> Tensor:
        level = field.sde.level_at(-float(sigma[0].log()))
        return field(level.alpha * y, level).x0

    return model


def _constant(out: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda y, sigma: out


class _Path:
    """A Brownian motion over sigma, as the library's own: a longer span goes on from a shorter."""

    def __init__(self, x: Tensor, noise: Noise) -> None:
        self._x, self._noise = x, noise
        self._span: tuple[float, float] | None = None
        self._z = x

    def __call__(self, start: Tensor, stop: Tensor) -> Tensor:
        here, there = float(start), float(stop)
        z = self._noise.normal(self._x, here, there)
        if self._span and self._span[0] == here:
            known = (here - self._span[1]) / (here - there)
            z = lincomb((known**0.5, self._z), ((1.0 - known) ** 0.5, z))
        self._span, self._z = (here, there), z
        return z


def _method(name: str, order: int, /, evals: int = 1, label: str = "", **settings: Any) -> Method:
    function = getattr(_library, f"sample_{name}")
    draws = "eta" in settings

    def solve(network: Any, x: Tensor, levels: Levels, noise: Noise | None) -> Tensor:
        ratios = [level.sigma / level.alpha for level in levels]
        sigmas = torch.tensor(ratios, dtype=x.dtype, device=x.device)
        source = {"noise_sampler": _Path(x, noise)} if draws and noise else {}
        y = lincomb((1.0 / levels[0].alpha, x))
        y = function(network, y, sigmas, disable=True, **settings, **source)
        return lincomb((levels[-1].alpha, y))

    stochastic = settings.get("eta", 0.0) > 0.0
    wiring = Wiring(_exact, _constant)
    return Method("k-diffusion", label or name, wiring, solve, order, evals, stochastic)


FLOW = (
    _method("euler", 1),
    _method("heun", 2, 2),
    _method("dpm_2", 2, 2),
    _method("lms", 4),
    _method("dpmpp_2m", 2),
    _method("dpmpp_2s_ancestral", 2, 2, "dpmpp_2s", eta=0.0),
    _method("dpmpp_3m_sde", 3, 1, "dpmpp_3m", eta=0.0),
)
"""What it has for the probability flow; "ancestral" and "sde" without their noise."""

REVERSE = (
    _method("euler_ancestral", 1, eta=1.0),
    _method("dpm_2_ancestral", 2, 2, eta=1.0),
    _method("dpmpp_2s_ancestral", 2, 2, eta=1.0),
    _method("dpmpp_sde", 2, 2, eta=1.0),
    _method("dpmpp_2m_sde", 2, eta=1.0),
    _method("dpmpp_2m_sde", 2, 1, "dpmpp_2m_sde heun", eta=1.0, solver_type="heun"),
    _method("dpmpp_3m_sde", 3, eta=1.0),
)
"""What it has for the reverse SDE, at full noise."""
