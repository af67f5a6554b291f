"""Any Gaussian diffusion, from its two marginal coefficients alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde.base import SDE
from scoresde.tensors import Scalar


@dataclass(frozen=True)
class GaussianSDE(SDE):
    """Any Gaussian diffusion, from alpha and sigma alone.

    Derivatives come from `torch.func`, the inverse of lam from a nested search in float64.

    Args:
        of_alpha: alpha(t), a differentiable function of a tensor, written with torch.
        of_sigma: sigma(t), likewise; alpha / sigma must decrease strictly on [0, T].

    Raises:
        ValueError: functions that do not map a tensor to a tensor of its shape, or whose
            alpha / sigma does not decrease.
    """

    of_alpha: Callable[[Tensor], Tensor]
    of_sigma: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        t = torch.linspace(self.t_min, self.T, 257, dtype=torch.float64)
        alpha, sigma = self.of_alpha(t), self.of_sigma(t)
        for name, value in {"of_alpha": alpha, "of_sigma": sigma}.items():
            if not isinstance(value, Tensor) or value.shape != t.shape:
                raise ValueError(
                    f"{name}: maps a tensor to {value!r:.60}, not to a tensor of its shape; a "
                    f"constant is written c * torch.ones_like(t)"
                )
        if not bool(((alpha / sigma).diff() < 0).all()):
            raise ValueError(
                "of_alpha, of_sigma: alpha / sigma must decrease strictly from t_min to T"
            )

    def alpha(self, t: Scalar) -> Scalar:
        return _lift(self.of_alpha, t)

    def sigma(self, t: Scalar) -> Scalar:
        return _lift(self.of_sigma, t)

    def dalpha(self, t: Scalar) -> Scalar:
        return _lift(_derivative(self.of_alpha), t)

    def dsigma(self, t: Scalar) -> Scalar:
        return _lift(_derivative(self.of_sigma), t)

    def f(self, t: Scalar) -> Scalar:
        return _lift(_derivative(lambda u: self.of_alpha(u).log()), t)

    def g2(self, t: Scalar) -> Scalar:
        sigma = self.sigma(t)
        return 2.0 * sigma * (self.dsigma(t) - self.f(t) * sigma)

    def t_at(self, lam: Scalar) -> Scalar:
        return _lift(self._search, lam)

    def _search(self, lam: Tensor) -> Tensor:
        low, high = (torch.full_like(lam, t, dtype=torch.float64) for t in (0.0, self.T))
        share = torch.linspace(0.0, 1.0, 257, dtype=torch.float64, device=lam.device)
        for _ in range(7):  # each narrows to one cell of 256: to 2^-56 of T
            nodes = low[..., None] + (high - low)[..., None] * share
            ahead = self.of_alpha(nodes).log() - self.of_sigma(nodes).log() > lam[..., None]
            cell = ahead.sum(-1, keepdim=True).clamp(1, 256)
            low, high = (nodes.gather(-1, cell - i).squeeze(-1) for i in (1, 0))
        return (0.5 * (low + high)).to(lam.dtype)


def _lift(function: Callable[[Tensor], Tensor], t: Scalar) -> Scalar:
    if isinstance(t, Tensor):
        return function(t)
    return float(function(torch.tensor(t, dtype=torch.float64)))


def _derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.func.grad(lambda t: function(t).sum())
