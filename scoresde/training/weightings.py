"""Weightings: functions of the noise level that multiply the squared error of eps.

They do so whatever the network predicts, because

    sigma^2 |score error|^2 = |eps error|^2 = (alpha / sigma)^2 |x0 error|^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.sde import Level
from scoresde.tensors import Scalar, exp

Weighting = Callable[[Level, BaseDenoiser], Scalar]
"""The weight of the squared error of eps at a level, for a model's process and data_std."""


def sigma2(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh errors of eps alike, so errors of the score by sigma^2.

    The simple loss of Ho et al. 2020, arXiv:2006.11239, eq. 14.
    """
    return 1.0


def likelihood(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by g^2 / sigma^2, so errors of the score by g^2.

    D (T - t_min) J / 2 then bounds the negative log-likelihood, in nats, up to a constant of the
    data and the process (Song et al. 2021, arXiv:2101.09258, Corollary 1). `ImportanceTimes` draws
    the times that go with it.
    """
    return model.sde.g2(level.t) / (level.sigma * level.sigma)


def edm(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by (s^2 + c^2) / c^2, with s = sigma / alpha and c the model's data_std.

    That is (s^2 + c^2) / (s c)^2 on errors of x0, and 1 on errors of the output of a network that
    predicts "edm" (Karras et al. 2022, arXiv:2206.00364, Table 1 and eq. 8). `LogNormalTimes` draws
    the times that go with it.
    """
    return (level.radius(model.data_std) / (level.alpha * model.data_std)) ** 2


def velocity(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by (d sigma/dt - sigma / alpha d alpha/dt)^2, so errors of dx/dt by 1.

    Flow matching (Lipman et al. 2023, arXiv:2210.02747, eq. 9; Liu et al. 2022, arXiv:2209.03003,
    eq. 1): on `RectifiedFlow` the loss is |v_theta - (eps - x0)|^2 / D. It is the square of
    g^2 / (2 sigma), and infinite at alpha = 0, where errors of eps are 0; the laws of t end a float
    before, at which `dsm_loss` has all its digits.
    """
    sde, t = model.sde, level.t
    rate = sde.dsigma(t) - level.sigma / level.alpha * sde.dalpha(t)
    return rate * rate


@dataclass(frozen=True)
class MinSNR:
    """Weigh by min(1, gamma / SNR), so errors of x0 by min(SNR, gamma), SNR = (alpha / sigma)^2.

    Hang et al. 2023, arXiv:2303.09556.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0.0:
            raise ValueError(f"gamma={self.gamma} must be positive")

    def __call__(self, level: Level, model: BaseDenoiser) -> Scalar:
        """Return the weight at a level."""
        ratio = self.gamma * exp(-2.0 * level.lam)
        return ratio.clamp(max=1.0) if isinstance(ratio, Tensor) else min(ratio, 1.0)
