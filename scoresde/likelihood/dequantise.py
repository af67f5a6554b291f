"""Dequantisers: laws q(u | k) of the noise that spreads an integer k over its bin."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.denoiser import BaseDenoiser, Field
from scoresde.errors import require_integer
from scoresde.likelihood.record import Transform
from scoresde.noise import Noise, SeededNoise
from scoresde.sampling import check_model, place_cond, placement


class Dequantiser(ABC):
    """A law of u in the unit box, given integers k.

    Attributes:
        levels: the number of grey levels that the law is made for; None for any.
    """

    levels: int | None = None

    @abstractmethod
    def draw(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return u (B, *) in float64 for integers x (B, *), and log q(u | x) (B,)."""

    def check_levels(self, transform: Transform) -> None:
        """Raise ValueError unless a transform has the levels that the law is made for."""
        if self.levels not in (None, transform.levels):
            raise ValueError(
                f"levels={self.levels}: the transform has {transform.levels}; make the dequantiser "
                f"for as many"
            )


@dataclass(frozen=True)
class UniformDequantiser(Dequantiser):
    """u ~ U(0, 1), so q = 1 (Theis et al. 2016, arXiv:1511.01844, section 3.1)."""

    def draw(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        u = torch.special.ndtr(noise.normal(x.double()))
        return u, u.new_zeros(len(u))


class FlowDequantiser(nn.Module, Dequantiser):
    """A conditional flow over the unit box, u = Phi(a): variational dequantisation.

    Unit normals z become a by affine layers, each a = z e^{s} + m with s and m from a small network
    that sees the integers; the first layer moves all dimensions, the others half of them in turn,
    by what the other half is (couplings, arXiv:1605.08803). Phi is the normal distribution
    function, so that layers of zeros, as which they start, make u uniform, and

        log q(u | x) = sum (a^2 - z^2) / 2 - sum s.

    Ho et al. 2019, arXiv:1902.00275, section 3.1. `fit_dequantiser` trains it.

    Args:
        shape: of a sample, without the batch: (D,), or (C, *) with up to three axes after C.
        levels: the number of grey levels.
        width: hidden features of a layer's network, of 3 x 3 convolutions or dense.
        layers: affine layers.

    Raises:
        ValueError: a shape, width or number of layers that is not positive, or levels below two.
    """

    kept: Tensor

    def __init__(self, shape: Sequence[int], levels: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        require_integer(levels, "levels", 2)
        if not 1 <= len(shape) <= 4 or min(*shape, width, layers) < 1:
            raise ValueError(
                f"shape={tuple(shape)}, width={width}, layers={layers}: need one to four positive "
                f"axes, and positive numbers"
            )
        self.levels = levels
        places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        odd = torch.stack(places).sum(0) % 2
        masks = [torch.zeros_like(odd), *((odd + i) % 2 for i in range(layers - 1))]
        self.register_buffer("kept", torch.stack(masks).bool())
        self.nets = nn.ModuleList(_conditioner(shape, width) for _ in range(layers))

    def draw(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        weight = next(self.parameters())
        assert self.levels is not None
        seen = (2.0 * x.to(weight) + 1.0) / self.levels - 1.0
        z = a = noise.normal(seen.double())
        log_q = -0.5 * z.square().flatten(1).sum(1)
        for kept, net in zip(self.kept, self.nets, strict=True):
            shift, slope = net(torch.cat([seen, (a * kept).to(weight)], 1)).double().chunk(2, 1)
            slope = _STEEPEST * (slope / _STEEPEST).tanh() * ~kept
            a = a * slope.exp() + shift * ~kept
            log_q = log_q - slope.flatten(1).sum(1)
        return torch.special.ndtr(a), log_q + 0.5 * a.square().flatten(1).sum(1)


def _conditioner(shape: Sequence[int], width: int) -> nn.Sequential:
    """Return a network from the integers and a (B, 2 C, *) to shifts and slopes, zero at first."""
    channels, rank = shape[0], len(shape) - 1
    widths = [2 * channels, width, width, 2 * channels]
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layer = (
            kinds[rank - 1](fan_in, fan_out, 3, padding=1) if rank else nn.Linear(fan_in, fan_out)
        )
        layers += [layer, nn.SiLU()]
    last = layers[-2]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(*layers[:-1])


def dequantiser_loss(
    dequantiser: Dequantiser, field: Field, transform: Transform, x: Tensor, noise: Noise
) -> Tensor:
    """Return a loss (B,) whose gradient is that of the bound, E[log q(u | x) - log p(y)].

    The density at t_min need not be solved for: its gradient along y is the score there, so the
    loss is log q(u | x) - log |dy/dx| - y . score, with the score held fixed. That is one network
    call, and none backwards; the value itself is no bound.

    Args:
        dequantiser: the law to train.
        field: the denoiser and its condition.
        transform: the data transform.
        x: integers (B, *).
        noise: the source of u.
    """
    u, log_q = dequantiser.draw(x, noise)
    y = transform.embed(x.to(u) + (u - 0.5))
    dim = math.prod(x.shape[1:])
    with torch.no_grad():
        state = y.to(**placement(field.model, y))
        score = field(state, field.sde.level(field.sde.t_min)).score.to(y)
    return log_q - dim * transform.log_det_at(y) - (score * y).flatten(1).sum(1)


def fit_dequantiser(
    dequantiser: FlowDequantiser,
    model: BaseDenoiser,
    x: Tensor,
    transform: Transform,
    *,
    steps: int = 500,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    cond: Mapping[str, Any] | None = None,
) -> None:
    """Train a dequantiser in place, by Adam on `dequantiser_loss`.

    Args:
        dequantiser: on the model's device.
        model: the denoiser.
        x: training data, integers (N, *).
        transform: the data transform.
        steps: of the optimiser, whose rate falls to 0 as a cosine.
        batch_size: samples a step.
        lr: the rate at first.
        seed: of the batches and the noise.
        cond: keyword arguments for the network; tensors of N rows are per sample.

    Raises:
        ValueError: x that are no integers of the transform's levels, or none; another number of
            levels of the dequantiser; steps or a batch_size below one.
    """
    check_model(model)
    require_integer(steps, "steps", 1)
    require_integer(batch_size, "batch_size", 1)
    dequantiser.check_levels(transform)
    if not len(x):
        raise ValueError(f"x: shape {tuple(x.shape)} has no samples to train on")
    transform.forward(x)  # refuses what is no grey level
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(dequantiser.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    field = Field(model, place_cond(cond, placement(model, x)["device"]))
    noise = SeededNoise(seed)
    for step in range(steps):
        index = torch.randint(len(x), (batch_size,), generator=generator)
        loss = dequantiser_loss(
            dequantiser, field.rows(index, len(x)), transform, x[index], noise.fold(step)
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()


_STEEPEST = 3.0  # slope of a layer at most, in nats
