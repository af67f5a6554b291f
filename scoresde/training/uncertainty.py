"""A weighting that is learnt with the network, from how well it does at each level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.sde import Level
from scoresde.tensors import lincomb
from scoresde.training.losses import DSM


class WithUncertainty(BaseDenoiser):
    """A denoiser for training, with a function u of the level beside it; `LearnedUncertainty`.

        u(lam) = b + w . cos(2 pi (f c_noise + p)),    c_noise = -lam / 4

    with normal frequencies f and uniform phases p, always the same. b and w start at 0 and train
    with the network, and so are averaged and kept in checkpoints like any weight. The prediction is
    that of the denoiser alone, which is `.denoiser` afterwards: sampling never calls u.

    Args:
        denoiser: what is to be trained.
        channels: how many cosines.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, denoiser: BaseDenoiser, channels: int = 128) -> None:
        super().__init__(denoiser.sde, denoiser.data_std)
        self.denoiser = denoiser
        kind = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
        self.register_buffer("frequencies", torch.randn(channels, **kind))
        self.register_buffer("phases", torch.rand(channels, **kind))
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        return self.denoiser(x, level, **cond)

    def uncertainty(self, lam: Tensor) -> Tensor:
        """Return u at half log-SNRs (B,), as (B,), in the dtype of its weights."""
        c_noise = (-0.25 * lam).to(self.weight)
        waves = torch.cos(2.0 * math.pi * (c_noise[:, None] * self.frequencies + self.phases))
        # no matrix product, which autocast would round to bfloat16
        return self.bias + (waves * self.weight).sum(1)


@dataclass(frozen=True)
class LearnedUncertainty:
    """The objective with each level's loss l over a learnt scale of it: l e^-u + u.

    At the best u, e^u is the mean loss at the level, so that all levels weigh alike in the gradient
    whatever the weighting was: a likelihood of errors N(0, e^u), up to factors (Karras et al. 2024,
    arXiv:2312.02696, eq. 14; Kendall et al. 2018, arXiv:1705.07115). It trains a `WithUncertainty`.

    Attributes:
        objective: the loss l; its weighting matters as the scale that u starts at, 1.

    Raises:
        TypeError: when called, a model without an uncertainty.
        ValueError: when called, as the objective.
    """

    objective: DSM = field(default_factory=DSM)

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        if not isinstance(model, WithUncertainty):
            raise TypeError(
                f"model: a {type(model).__name__} has no uncertainty to learn; train "
                f"WithUncertainty(model), and sample with its .denoiser"
            )
        losses, ratio, t = self.objective.each(model, x0, generator, cond)
        u = model.uncertainty(torch.as_tensor(model.sde.lam(t)))
        return lincomb((ratio, losses * torch.exp(-u) + u)).mean()
