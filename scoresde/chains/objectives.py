"""The objectives of chains.

L_simple, that of DDPM and with a `VELadder` that of NCSN, is denoising score matching at the levels
of the chain, `DSM(times=LevelTimes())`; with `weighting=variational` it is the bound of a chain
whose variances are fixed. `VLB` and `Hybrid` train variances that are learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde.chains.bound import divergence
from scoresde.chains.decoder import ChainDecoder
from scoresde.chains.ladder import Ladder, require_ladder
from scoresde.chains.variances import ChainPrediction, LearnedVariance
from scoresde.denoiser import BaseDenoiser
from scoresde.errors import require_number
from scoresde.likelihood import Transform
from scoresde.sde import SDE, Level
from scoresde.tensors import Scalar, expm1, lincomb, per_sample
from scoresde.training import Times
from scoresde.training.losses import drop_labels, require_floats


@dataclass(frozen=True)
class LevelTimes(Times):
    """The levels of a chain, each as likely.

    Raises:
        ValueError: when called, a process without levels.
    """

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        n = require_ladder(sde, f"times={self}").n
        return (u * n).floor().clamp(max=n - 1) + 1.0, torch.ones_like(u)


def variational(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by (e^{2h} - 1) / 2, with h = lam_{i-1} - lam_i: as the bound of a chain does.

    It goes with `LevelTimes`, and has no limit between levels: D n J is then the sum of the bound's
    divergences for v = 0, in nats, and of -log p(x0 | x_1) by `GaussianDecoder` but for a constant,
    which weighs level 1 by (r / (alpha c))^2 / 2 (Ho et al. 2020, arXiv:2006.11239, eqs. 8, 12, 13;
    in SNR Kingma et al. 2021, arXiv:2107.00630, eq. 14).

    Raises:
        ValueError: a process without levels.
    """
    sde = require_ladder(model.sde, "weighting=variational")
    first = 0.5 * (level.radius(model.data_std) / (level.alpha * model.data_std)) ** 2
    later = 0.5 * expm1(2.0 * (sde.before(level).lam - level.lam))
    if isinstance(level.t, Tensor):
        return torch.where(level.t < 1.5, torch.as_tensor(first), torch.as_tensor(later))
    return first if level.t < 1.5 else later


@dataclass(frozen=True)
class VLB:
    """The bound of a chain with learned variances, L_0 + ... + L_{n-1}, in bits/dim.

    Each sample has one level, drawn by how large its losses have been, as `LossMoments` of the
    model says. A model in training notes its loss there: the objective itself has no state (Nichol
    and Dhariwal 2021, arXiv:2102.09672, Sec. 3.3, L_vlb).

    Attributes:
        transform: from grey levels to model space, for the bins of `ChainDecoder`; data are at the
            middles of their bins. None for the density of continuous data.
        label_dropout: as for `DSM`.

    Raises:
        ValueError: a transform of continuous data; label_dropout outside [0, 1]; when called, x0 of
            integers, or labels to drop but no `label`.
        TypeError: when called, a model that is no `LearnedVariance`.
    """

    transform: Transform | None = None
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        ChainDecoder(self.transform)
        require_number(self.label_dropout, "label_dropout", least=0.0, most=1.0)

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        learned = _learned(model, self)
        sde, moments = learned.sde, learned.moments
        place = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        levels, weights = moments.draw(torch.rand(len(x0), **place))
        prediction, eps = _predict(model, x0, levels, generator, cond, self.label_dropout)
        terms = _terms(sde, prediction, x0, eps, ChainDecoder(self.transform))
        if model.training:
            moments.update(levels, terms.detach())
        return sde.n * (weights * terms).mean()


@dataclass(frozen=True)
class Hybrid:
    """L_hybrid = L_simple + weight L_vlb, in which L_vlb trains the variances alone.

    Levels are uniform, and gradients of L_vlb, which is in bits/dim, stop at the mean (Nichol and
    Dhariwal 2021, arXiv:2102.09672, Sec. 3.1, eq. 16).

    Attributes:
        transform: as for `VLB`.
        weight: of L_vlb.
        label_dropout: as for `DSM`.

    Raises:
        ValueError: a transform of continuous data; a weight that is negative or not finite;
            label_dropout outside [0, 1]; when called, x0 of integers, or labels to drop but no
            `label`.
        TypeError: when called, a model that is no `LearnedVariance`.
    """

    transform: Transform | None = None
    weight: float = 1e-3
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        ChainDecoder(self.transform)
        require_number(self.weight, "weight", least=0.0)
        require_number(self.label_dropout, "label_dropout", least=0.0, most=1.0)

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        sde = _learned(model, self).sde
        levels, _ = LevelTimes().draw(sde, len(x0), generator)
        prediction, eps = _predict(model, x0, levels, generator, cond, self.label_dropout)
        simple = (prediction.eps - eps).square().flatten(1).mean(1)
        fixed = replace(prediction, out=prediction.out.detach())
        terms = _terms(sde, fixed, x0, eps, ChainDecoder(self.transform))
        return simple.mean() + self.weight * sde.n * terms.mean()


def _learned(model: BaseDenoiser, objective: object) -> LearnedVariance:
    if not isinstance(model, LearnedVariance):
        raise TypeError(
            f"model: a {type(model).__name__} has no variances for {type(objective).__name__} to "
            f"train; wrap the network in scoresde.chains.LearnedVariance, or train by DSM"
        )
    return model


def _predict(
    model: BaseDenoiser,
    x0: Tensor,
    levels: Tensor,
    generator: torch.Generator,
    cond: Mapping[str, Any] | None,
    label_dropout: float,
) -> tuple[ChainPrediction, Tensor]:
    """Return the prediction at noisy data, each sample at a level of its own, and the noise."""
    require_floats(x0)
    eps = torch.empty_like(x0).normal_(generator=generator)
    cond = drop_labels(cond, label_dropout, generator)
    level = model.sde.level(per_sample(levels.double(), x0))
    x = lincomb((level.alpha, x0), (level.sigma, eps))
    return model(x, level, **cond), eps


def _terms(
    sde: Ladder, prediction: ChainPrediction, x0: Tensor, eps: Tensor, decoder: ChainDecoder
) -> Tensor:
    """Return each sample's term of the bound, in bits/dim (B,): L_0 at level 1, L_{i-1} at i."""
    level = prediction.level
    later = divergence(prediction, eps, sde.before(level), prediction.share.double())
    # elsewhere the last step would be a poor guess, whose gradient could overflow before it is
    # left out
    first = torch.as_tensor(level.t < 1.5)
    mean = torch.where(first, prediction.x0.double(), x0.double())
    decoded = -decoder.given(x0, mean, decoder.std(prediction))
    nats = torch.where(first.flatten(), decoded, later)
    return nats / (x0[0].numel() * math.log(2.0))
