"""Variances of the reverse steps of a chain, from a number or from the network.

A step from level t to a level s below is N(mean, Sigma). With h = lam_s - lam_t, its two bounds are

    beta~ = sigma_s^2 (1 - e^{-2h})    of the posterior q(x_s | x_t, x_0), and
    beta  = sigma_t^2 (1 - e^{-2h})    of the forward kernel from s to t,

and every variance between is Sigma = beta^v beta~^{1-v} = beta~ (sigma_t / sigma_s)^{2v}, for a
share v (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scoresde.chains.ladder import Ladder, feed_index, require_ladder
from scoresde.chains.moments import LossMoments
from scoresde.denoiser import Denoiser, Field, Prediction, Predicts
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers import Solver, Step
from scoresde.solvers.ddim import new_noise
from scoresde.tensors import Scalar, exp, lincomb, log, sqrt


@dataclass(frozen=True, slots=True)
class ChainPrediction(Prediction):
    """A prediction that has the variances of a reverse step too.

    Attributes:
        share: v of Sigma = beta^v beta~^{1-v}, (B, *).
    """

    share: Tensor


class LearnedVariance(Denoiser):
    """A denoiser of a chain whose network has 2C channels out: a prediction, and the variances.

    The first C are what `predicts` says, as for any `Denoiser`; the others are w, of which the
    share is v = (w + 1) / 2, not bounded, as in the code of Nichol and Dhariwal 2021
    (arXiv:2102.09672, eq. 15). `LearnedAncestral`, `vlb`, `VLB` and `Hybrid` take the variances;
    all else sees the prediction alone.

    Its buffer `moments` has the recent losses of each level, by which `VLB` samples levels. They
    are here because an objective has no state and a checkpoint has the buffers of a model, so that
    a resumed run draws the levels that it would have drawn.

    Args:
        net: the network, from x (B, C, *) to (B, 2C, *).
        sde: the chain, a `Ladder`.
        predicts, data_std: as for `Denoiser`.
        time_input: what the network is fed as t; `feed_index` by default.

    Raises:
        ValueError: as `Denoiser`; a process without levels; when called, an output of another shape
            than (B, 2C, *).
    """

    sde: Ladder

    def __init__(
        self,
        net: nn.Module,
        sde: SDE,
        predicts: Predicts = "eps",
        *,
        data_std: float = 1.0,
        time_input: Callable[[Level], Scalar] = feed_index,
    ) -> None:
        ladder = require_ladder(sde, "sde: LearnedVariance")
        super().__init__(net, ladder, predicts, data_std=data_std, time_input=time_input)
        self.moments = LossMoments(ladder.n)

    def _read(self, x: Tensor, out: Any, level: Level) -> ChainPrediction:
        wanted = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        if not isinstance(out, Tensor) or out.shape != wanted:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"net: output {found} for an input of shape {tuple(x.shape)}; with learned "
                f"variances it has twice the channels, {wanted}; build it with them, such as "
                f"scoresde.nets.UNet(..., outputs={wanted[1]})"
            )
        mean, w = out.chunk(2, 1)
        p = super()._read(x, mean, level)
        share = 0.5 * w.to(x.dtype) + 0.5
        return ChainPrediction(p.x, p.out, p.level, p.sde, p.x0_of, p.eps_of, share)


@dataclass(frozen=True)
class LearnedAncestral(Solver):
    """Ancestral sampling with the variances that the network learned.

    The mean of `Ancestral`, and Sigma = beta^v beta~^{1-v} of the step's own two levels, so that it
    serves respaced chains as it is (Nichol and Dhariwal 2021, arXiv:2102.09672, eqs. 15, 19).

    Raises:
        ValueError: in a step, a model whose predictions have no variances.
    """

    order = 1
    stochastic = True

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        prediction = field(x, here)
        share = learned_share(prediction, f"solver={self}")
        new = new_noise(here, there)
        mean = prediction.combine(x0=there.alpha, eps=there.sigma * sqrt(1.0 - new))
        std = there.sigma * sqrt(new) * exp(share * widening(here, there))
        z = noise.increment(x, self.clock(there), self.clock(here))
        return Step(lincomb((1.0, mean), (std, z)))


def widening(here: Level, there: Level) -> Scalar:
    """Return log(sigma_t / sigma_s), half of log(beta / beta~), of a step from t to s."""
    return log(here.sigma) - log(there.sigma)


def learned_share(prediction: Prediction, name: str) -> Tensor:
    """Return the share v (B, *) of a prediction.

    Raises:
        ValueError: a prediction that has none, naming what asks for it.
    """
    if not isinstance(prediction, ChainPrediction):
        raise ValueError(
            f"{name}: takes variances from the network, and this model has none; wrap the network "
            f"in scoresde.chains.LearnedVariance, or fix the variance"
        )
    return prediction.share
