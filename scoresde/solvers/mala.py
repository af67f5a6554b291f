"""The Metropolis-adjusted Langevin corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_number
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Corrector, Step
from scoresde.tensors import lincomb


@dataclass(frozen=True)
class MALA(Corrector):
    """Langevin step y = x + e s(x) + sqrt(2 e) z, accepted or not, with e = 2 (snr sigma)^2.

    The log-ratio of the densities at y and x is the line integral of the score s between them
    (Sjoberg et al. 2023, arXiv:2307.14012), here by the trapezoidal rule. In the log-ratio of
    Metropolis and Hastings all but the norms then cancels, which leaves

        log r = (e / 4) (|s(x)|^2 - |s(y)|^2) = |u(x)|^2 - |u(y)|^2,    u = snr sigma s / sqrt(2).

    The rule is exact for Gaussian marginals, which the corrector so leaves as they are whatever
    the step. For others log r is off by a term of order |y - x|^3. Roberts and Tweedie 1996,
    doi:10.2307/3318418.

    A sample is accepted or not as a whole, on its own. u at the sample goes on to the next
    correction at the same level, so that the first one takes two calls and the others one.

    Attributes:
        snr: the proposal's deviation sqrt(2 e) is 2 snr sigma.

    Raises:
        ValueError: snr negative or not finite.
    """

    snr: float = 0.3
    order = 1  # for Gaussian marginals, which it leaves as they are

    def __post_init__(self) -> None:
        require_number(self.snr, "snr", least=0.0)

    def nfe(self, steps: int, denoise: bool) -> int:
        return 1 + super().nfe(steps, denoise)

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: Tensor | None,
        noise: Noise,
    ) -> Step:
        u = self._drift(field, x, there) if state is None else state
        reach = 2.0 * self.snr * there.sigma
        z = noise.normal(x, there.t)
        y = lincomb((1.0, x), (reach, z), (math.sqrt(2.0) * reach, u))
        new = self._drift(field, y, there)
        log_r = torch.addcmul(u.square(), new, new, value=-1.0)
        log_r = log_r.sum(tuple(range(1, x.ndim)), keepdim=True)
        # one uniform variate a sample, as the normal law of a normal: of x's shape like every draw
        chance = noise.fold(0).normal(x, there.t)[:, *(slice(1),) * (x.ndim - 1)]
        # this way round a NaN is accepted, for the solve to find
        refused = torch.special.log_ndtr(chance) > log_r
        return Step(torch.where(refused, x, y), torch.where(refused, u, new))

    def _drift(self, field: Field, x: Tensor, level: Level) -> Tensor:
        return field(x, level).combine(eps=-self.snr / math.sqrt(2.0))
