"""Expected data kept within the range of the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from scoresde.chains.variances import ChainPrediction
from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.errors import require_number
from scoresde.sde import Level


class Clipped(BaseDenoiser):
    """A denoiser whose expected data are cut off at the range of the data: [-1, 1] for images.

    The samplers and bounds in the code of Ho et al. 2020 (arXiv:2006.11239) and of Nichol and
    Dhariwal 2021 (arXiv:2102.09672) do so at every step, which matters where alpha is small: x0 =
    (x - sigma eps) / alpha has a large error there. All other predictions follow from x and the x0
    that was cut off; variances are kept.

    Args:
        model: the denoiser.
        low, high: the range.

    Raises:
        ValueError: numbers that are not finite, or a range that is empty.
    """

    def __init__(self, model: BaseDenoiser, low: float = -1.0, high: float = 1.0) -> None:
        require_number(low, "low")
        require_number(high, "high", above=low)
        super().__init__(model.sde, model.data_std)
        self.model, self.low, self.high = model, low, high

    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        found = self.model(x, level, **cond)
        x0 = found.x0.clamp(self.low, self.high)
        cut = Prediction.of("x0", found.x, x0, found.level, found.sde)
        if not isinstance(found, ChainPrediction):
            return cut
        return replace(found, out=x0, x0_of=cut.x0_of, eps_of=cut.eps_of)
