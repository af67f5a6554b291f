"""Langevin correctors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_number
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Corrector, Step
from scoresde.solvers.reverse import Tau, amount_at, require_amount
from scoresde.tensors import Scalar, lincomb, sqrt


@dataclass(frozen=True)
class Langevin(Corrector):
    """Langevin step x + e score + sqrt(2 e) z, with e from the signal-to-noise ratio.

    e = 2 (snr |z| / |score|)^2, of each sample's own norms (Song et al. 2021, arXiv:2011.13456,
    Algs. 4 and 5, with alpha_i = 1), so that no sample depends on another. A step that depends on
    the state tilts the stationary law: variances rise by a relative 4 / D or so, on top of the
    snr^2 of any such step. In few dimensions take `AnnealedLangevin`.

    Attributes:
        snr: ratio of the drift's norm to the noise's, times a constant; the r of the paper.
        batch_mean_norms: take the norms' means over the batch, as the paper's code does; samples
            then depend on their batch mates.

    Raises:
        ValueError: snr negative or not finite.
    """

    snr: float = 0.16
    batch_mean_norms: bool = False

    def __post_init__(self) -> None:
        require_number(self.snr, "snr", least=0.0)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        score, z = field(x, there).score, noise.normal(x, there.t)
        drift, spread = _norm(score), _norm(z)
        if self.batch_mean_norms:
            drift, spread = drift.mean(0, keepdim=True), spread.mean(0, keepdim=True)
        ratio = spread / drift
        # with e = 2 (snr ratio)^2 the step is x + 2 snr ratio (z + snr ratio score)
        move = torch.addcmul(z, ratio, score, value=self.snr)
        return Step(torch.addcmul(x, ratio, move, value=2.0 * self.snr), state)


@dataclass(frozen=True)
class FixedLangevin(Corrector):
    """Langevin step x + e score + sqrt(2 e) z, with a given e: one number, or of the level.

    The step is affine in x and z for Gaussian data: on N(0, V) it leaves the variance
    V / (1 - e / 2V) (Roberts and Tweedie 1996, doi:10.2307/3318418, on its bias). V is sigma^2 at
    least, so that e below 2 sigma^2 is stable whatever the data.

    Attributes:
        step_size: e, in units of x^2, or a function from a level to it.

    Raises:
        ValueError: step_size negative or not finite, here or in a step.
    """

    step_size: Tau = 1e-6

    def __post_init__(self) -> None:
        require_amount(self.step_size, "step_size")

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        e = amount_at(self.step_size, there, "step_size")
        return Step(_langevin(field, x, there, e, noise))


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    """Langevin step x + e score + sqrt(2 e) z, with e = 2 (snr sigma)^2 of the level.

    Song and Ermon 2019, arXiv:1907.05600, Alg. 1, with the step of Song et al. 2021's code: the
    step of `FixedLangevin` at the same share of sigma^2 at every level.

    Attributes:
        snr: the step's deviation sqrt(2 e) is 2 snr sigma.

    Raises:
        ValueError: snr negative or not finite.
    """

    snr: float = 0.16

    def __post_init__(self) -> None:
        require_number(self.snr, "snr", least=0.0)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        return Step(_langevin(field, x, there, 2.0 * (self.snr * there.sigma) ** 2, noise))


def _langevin(field: Field, x: Tensor, level: Level, e: Scalar, noise: Noise) -> Tensor:
    mean = field(x, level).combine(x=1.0, eps=-e / level.sigma)
    return lincomb((1.0, mean), (sqrt(2.0 * e), noise.normal(x, level.t)))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
