"""Problems of unlike kinds: mixtures with exact scores, and a learned network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Adam

from scoresde import (
    SDE,
    Denoiser,
    DormandPrince,
    GaussianMixture,
    Level,
    Prior,
    SeededNoise,
    sample,
)
from scoresde.data import batches, digits
from scoresde.denoiser import BaseDenoiser
from scoresde.nets import MLP
from scoresde.training import DSM, LogNormalTimes, Warmup, edm, train


@dataclass(frozen=True)
class Family:
    """Gaussian mixtures of one kind.

    Attributes:
        name: what tables call it.
        dim: dimension of the data.
        components: of the mixture.
        spread: standard deviation of the components' means.
        variances: range of the components' principal variances, drawn log-uniformly.
    """

    name: str
    dim: int
    components: int
    spread: float
    variances: tuple[float, float]

    def draw(self, seed: int) -> GaussianMixture:
        """Return one mixture of the family, in float64."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        k, d = self.components, self.dim
        axes = torch.linalg.qr(normal(k, d, d)).Q
        low, high = (math.log(v) for v in self.variances)
        uniform = torch.rand(k, d, generator=generator, dtype=torch.float64)
        variances = torch.exp(low + (high - low) * uniform)
        weights = 0.5 + torch.rand(k, generator=generator, dtype=torch.float64)
        return GaussianMixture(
            weights / weights.sum(),
            self.spread * normal(k, d),
            (axes * variances[:, None]) @ axes.mT,
        )


FAMILIES = (
    Family("8-D, anisotropic", 8, 5, 1.0, (0.02, 0.5)),
    Family("2-D, fine", 2, 6, 1.0, (2e-4, 4e-3)),
    Family("64-D", 64, 8, 1.0, (0.01, 0.5)),
    Family("8-D, small scale", 8, 5, 0.3, (2e-3, 2e-2)),
)
"""What the means over families are taken over."""

WIDE = Family("512-D", 512, 2, 1.0, (0.01, 0.5))
"""One more, where a network call costs as much as all else."""

# in a batch, so that the wide problem does not take most of the time
_MOST_NUMBERS = 16384


@dataclass(frozen=True)
class FlowProblem:
    """A denoiser, starts at T, and where the probability flow takes them at t_min."""

    model: BaseDenoiser
    start: Tensor
    end: Tensor

    def error(self, x: Tensor) -> float:
        """Return the root-mean-square error of x, relative to the end point's size."""
        return float((x - self.end).square().mean().sqrt() / self.end.square().mean().sqrt())


def flow_problem(family: Family, sde: SDE, seed: int, batch: int = 256) -> FlowProblem:
    """Return a problem of a family, solved to a relative tolerance of 1e-10."""
    model = family.draw(seed).denoiser(sde, data_std=1.0)
    return _solved(model, family.dim, seed, min(batch, _MOST_NUMBERS // family.dim))


def learned_problem(sde: SDE, seed: int, batch: int = 256, steps: int = 1500) -> FlowProblem:
    """Return a problem whose denoiser is a network, trained on 8x8 digits for some steps."""
    pixels = digits(seed=seed).train.flatten(1) / 8.0 - 1.0
    stream = batches(pixels, 256, seed=seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = MLP(pixels.shape[1])
    model = Denoiser(net, sde, predicts="edm", data_std=float(pixels.std()))
    train(
        model, DSM(edm, LogNormalTimes()), lambda step: (next(stream)[0], None), steps=steps,
        optimizer=Adam(model.parameters(), lr=2e-3), schedule=Warmup(50), seed=seed, amp=False,
        progress=False,
    )  # fmt: skip
    return _solved(model.eval().double(), pixels.shape[1], seed, batch)


def _solved(model: BaseDenoiser, dim: int, seed: int, batch: int) -> FlowProblem:
    start = SeededNoise(seed).normal(torch.empty(batch, dim, dtype=torch.float64))
    start = float(model.sde.sigma(model.sde.T)) * start
    end = sample(model, x=start, solver=DormandPrince(rtol=1e-10, atol=1e-10), denoise=False)
    return FlowProblem(model, start, end)


PROBLEMS: dict[str, Callable[[SDE, int, int], FlowProblem]] = {
    **{family.name: partial(flow_problem, family) for family in (*FAMILIES, WIDE)},
    "learned digits": learned_problem,
}
"""What draws a problem, of a process, a seed and a batch, by the name that tables give it."""


@dataclass(frozen=True)
class Marginal(Prior):
    """The law of a mixture's states at a level, in place of the Gaussian that stands for it."""

    _: KW_ONLY
    data: GaussianMixture
    level: Level

    def log_prob(self, x: Tensor) -> Tensor:
        return self.data.log_prob(x, self.level)


@dataclass(frozen=True)
class DensityProblem:
    """States at t_min, their log-densities (B,), and the law at T that the flow carries them to."""

    model: BaseDenoiser
    x: Tensor
    nats: Tensor
    prior: Prior

    def error(self, nats: Tensor) -> float:
        """Return the mean error of log-densities, in nats."""
        return float((nats - self.nats).abs().mean())


def density_problem(family: Family, sde: SDE, seed: int, batch: int = 64) -> DensityProblem:
    """Return a problem of a family, at states drawn from its own law at t_min."""
    data, noise = family.draw(seed), SeededNoise(seed)
    z, eps = (noise.fold(k).normal(torch.empty(batch, family.dim).double()) for k in (0, 1))
    u = torch.special.ndtr(noise.fold(2).normal(torch.empty(batch).double()))
    x = sde.perturb(data.sample(z, u), sde.t_min, eps)
    end = Marginal(data=data, level=sde.level(sde.T))
    model = data.denoiser(sde, data_std=1.0)
    return DensityProblem(model, x, data.log_prob(x, sde.level(sde.t_min)), end)
