"""Problems with exact scores, of unlike kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import SDE, DormandPrince, ExactDenoiser, GaussianMixture, SeededNoise, sample


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


@dataclass(frozen=True)
class FlowProblem:
    """A denoiser, starts at T, and where the probability flow takes them at t_min."""

    model: ExactDenoiser
    start: Tensor
    end: Tensor

    def error(self, x: Tensor) -> float:
        """Return the root-mean-square error of x, relative to the end point's size."""
        return float((x - self.end).square().mean().sqrt() / self.end.square().mean().sqrt())


def flow_problem(family: Family, sde: SDE, seed: int, batch: int = 256) -> FlowProblem:
    """Return a problem of a family, solved to a relative tolerance of 1e-10."""
    model = family.draw(seed).denoiser(sde, data_std=1.0)
    like = torch.empty(batch, family.dim, dtype=torch.float64)
    start = float(sde.sigma(sde.T)) * SeededNoise(seed).normal(like)
    end = sample(model, x=start, solver=DormandPrince(rtol=1e-10, atol=1e-10), denoise=False)
    return FlowProblem(model, start, end)
