"""What the tests of chains share: exact networks with variances, expectations without chance."""

from __future__ import annotations

import torch
from conftest import spread
from torch import Tensor, nn

from scoresde import Gaussian, Level
from scoresde.chains import Ladder, LearnedVariance


def gaussian() -> Gaussian:
    """Three dimensions, rotated, with a mean that is not 0."""
    return Gaussian(torch.tensor([0.5, -1.0, 0.2]).double(), spread(1.5, 0.4, 0.1))


class ExactNet(nn.Module):
    """The exact noise of Gaussian data at an index, and after it given w of the variances."""

    def __init__(self, data: Gaussian, sde: Ladder, w: float) -> None:
        super().__init__()
        self.exact, self.w = data.denoiser(sde), w

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.double() + 1.0
        sde = self.exact.sde
        level = Level(*(v[:, None] for v in (t, sde.alpha(t), sde.sigma(t))))
        return torch.cat([self.exact(x, level).eps, torch.full_like(x, self.w)], 1)


def learned(data: Gaussian, sde: Ladder, w: float) -> LearnedVariance:
    return LearnedVariance(ExactNet(data, sde, w), sde, data_std=data.denoiser(sde).data_std)


def corners(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of x (D,), and of normals over which the mean of any quadratic is exact."""
    d = len(x)
    z = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).to(x)
    return x.expand(2 * d, d), z
