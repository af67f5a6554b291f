"""Denoising score matching.

    J = E_{t ~ U[t_min, T]} w(t) E |eps_theta(x_t, t) - eps|^2 / D,    x_t = alpha x0 + sigma eps

(Vincent 2011; Song et al. 2021, arXiv:2011.13456, eq. 7.) `weightings` has w, and `times` the law
that t is drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.errors import require_number
from scoresde.tensors import lincomb, per_sample
from scoresde.training.times import Times, UniformTimes
from scoresde.training.weightings import Weighting, sigma2


def dsm_loss(
    model: BaseDenoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    weighting: Weighting = sigma2,
    cond: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return each sample's loss w(t) |eps_theta(x_t, t) - eps|^2 / D, as (B,).

    It is taken of the network's own output, whose error is that of eps but for a factor, so that
    weights which grow without bound as alpha falls to 0, as `velocity`, lose no digits there.

    Args:
        model: the denoiser.
        x0: data (B, *).
        t: times (B,), in float64 for exact levels.
        eps: unit normals (B, *).
        weighting: w.
        cond: keyword arguments for the network.

    Raises:
        ValueError: x0 of integers, or shapes that do not fit.
    """
    require_floats(x0)
    if t.shape != x0.shape[:1] or eps.shape != x0.shape:
        raise ValueError(
            f"t {tuple(t.shape)}, eps {tuple(eps.shape)}: need (B,) and the shape of x0, "
            f"{tuple(x0.shape)}"
        )
    level = model.sde.level(per_sample(t, x0))
    x = lincomb((level.alpha, x0), (level.sigma, eps))
    prediction = model(x, level, **(cond or {}))
    error = prediction.out - target(prediction, x0, eps)
    # in half precision the squares of a velocity or a score overflow
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    # in this order: near alpha = 0 the weight may be large where the share of eps is small
    weight = weighting(level, model) * prediction.eps_of[1] ** 2
    weight = weight.reshape(-1) if isinstance(weight, Tensor) else weight
    return lincomb((weight, error.square().flatten(1).mean(1)))


def target(prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
    """Return the output that would say that x has these data and this noise (B, *).

    Nothing cancels at low or at high noise, where errors of eps or of x0 would be all rounding.
    """
    (xx, xo), (ex, eo) = prediction.x0_of, prediction.eps_of
    area = xx * eo - xo * ex
    return lincomb((-ex / area, x0), (xx / area, eps))


def require_floats(x0: Tensor) -> None:
    """Raise ValueError, with what to do, for integers."""
    if not x0.is_floating_point():
        raise ValueError(
            f"x0: dtype {x0.dtype} where floats are meant; map integer data to model space with "
            f"the transform of the data set, such as scoresde.data.Affine"
        )


def drop_labels(
    cond: Mapping[str, Any] | None, share: float, generator: torch.Generator
) -> Mapping[str, Any]:
    """Return the condition with each label replaced by -1, "no class", with probability `share`.

    Raises:
        ValueError: labels to drop but no `label`.
    """
    cond = cond or {}
    if share == 0.0:
        return cond
    if "label" not in cond:
        raise ValueError(
            f"label_dropout={share}: the condition has no 'label' to drop, only {sorted(cond)}"
        )
    label = cond["label"]
    drop = torch.rand(label.shape, generator=generator, device=label.device)
    return {**cond, "label": label.masked_fill(drop < share, -1)}


@dataclass(frozen=True)
class DSM:
    """The objective J of denoising score matching, estimated on a batch.

    Attributes:
        weighting: w, of the squared error of eps.
        times: the law of t.
        stratified: draw one t from each of B equal quantiles of the law, in random order, which
            takes the spread of t out of the loss's variance (Kingma et al. 2021,
            arXiv:2107.00630, App. I.1).
        label_dropout: probability of a label being replaced by -1, "no class", for classifier-free
            guidance (Ho and Salimans 2022, arXiv:2207.12598, Alg. 1).

    Raises:
        ValueError: label_dropout outside [0, 1]; when called, x0 of integers, or labels to drop
            but no `label`.
    """

    weighting: Weighting = sigma2
    times: Times = field(default_factory=UniformTimes)
    stratified: bool = True
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        require_number(self.label_dropout, "label_dropout", least=0.0, most=1.0)

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        losses, ratio, _ = self.each(model, x0, generator, cond)
        return lincomb((ratio, losses)).mean()

    def each(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each sample's weighted loss, importance ratio and time, all (B,)."""
        require_floats(x0)
        t, ratio = self.times.draw(model.sde, len(x0), generator, self.stratified)
        eps = torch.empty_like(x0).normal_(generator=generator)
        cond = drop_labels(cond, self.label_dropout, generator)
        return dsm_loss(model, x0, t, eps, self.weighting, cond), ratio, t
