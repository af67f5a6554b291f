"""The last step of a chain, which leads to the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.chains.ladder import require_ladder
from scoresde.chains.variances import learned_share
from scoresde.denoiser import Prediction
from scoresde.errors import require_number
from scoresde.likelihood import Decoder, Transform
from scoresde.likelihood.decoder import log_bins
from scoresde.tensors import Scalar, exp


@dataclass(frozen=True)
class ChainDecoder(Decoder):
    """The last step of a chain: N(E[x0 | x_1], Sigma), as a density or a probability of bins.

    Sigma = beta_1^v beta~_2^{1-v}: the posterior's variance is 0 for the last step, and that of the
    step before stands for it, as in the code of Nichol and Dhariwal 2021 (arXiv:2102.09672). It is
    that from level 2 whatever levels a bound keeps, while theirs is from the second that is kept:
    the bounds of respaced chains differ. Of a chain with fixed variances their code and that of Ho
    et al. 2020 (arXiv:2006.11239), whose eq. 13 has the bins, takes share 0 here, whatever the
    other steps have.

    Attributes:
        transform: from grey levels to model space; None for the density of continuous data.
        share: v, a number in [0, 1], or None for the network's own.

    Raises:
        ValueError: a share outside [0, 1]; a transform of continuous data; in use, a process
            without levels, or a model without variances where they are asked for.
    """

    transform: Transform | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        require_share(self.share)
        if self.transform is not None and self.transform.levels is None:
            raise ValueError(f"transform={self.transform}: continuous data have no bins; give None")

    @property
    def discrete(self) -> bool:
        return self.transform is not None

    def log_prob(self, x: Tensor, prediction: Prediction, data_std: float) -> Tensor:
        return self.given(x, prediction.x0.double(), self.std(prediction))

    def std(self, prediction: Prediction) -> Scalar:
        """Return the deviation of the last step, a number or (B, *) in float64."""
        sde = require_ladder(prediction.sde, f"decoder={self}")
        share = self.share
        if share is None:
            share = learned_share(prediction, f"decoder={self}").double()
        first, second = sde.level(1.0), sde.level(2.0)
        kept = 0.5 * math.log(-math.expm1(2.0 * (float(second.lam) - float(first.lam))))
        return float(first.sigma) * exp((1.0 - share) * kept)

    def given(self, x: Tensor, mean: Tensor, std: Scalar) -> Tensor:
        """Return log p(x | mean, std) of data x (B, *), as (B,) in float64."""
        if self.transform is not None:
            return log_bins(x, mean, std, self.transform)
        std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device).expand_as(mean)
        each = -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)
        return each.flatten(1).sum(1)


def require_share(share: float | None) -> None:
    """Refuse a share v of variances outside [0, 1]; None is the network's own."""
    if share is not None:
        require_number(share, "share", least=0.0, most=1.0)
