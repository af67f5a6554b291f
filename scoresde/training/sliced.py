"""Sliced score matching: the score of noisy data without the noise that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.tensors import lincomb, per_sample
from scoresde.training.losses import require_floats
from scoresde.training.times import Times, UniformTimes
from scoresde.training.weightings import Weighting, sigma2


def ssm_loss(
    model: BaseDenoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    probe: Tensor,
    weighting: Weighting = sigma2,
    cond: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return each sample's sliced loss at x_t = alpha x0 + sigma eps, as (B,).

        w sigma^2 (2 v^T (d score/dx) v + |score|^2) / D

    Twice the objective with reduced variance, SSM-VR, of Song et al. 2019, arXiv:1905.07088, times
    the weight of errors of the score. By Stein's identity its expectation is that of `dsm_loss`
    less w, for any network: the two have the same gradient, and this one does not see eps.

    Args:
        model: the denoiser, whose network is differentiated twice.
        x0: data (B, *).
        t: times (B,).
        eps: unit normals (B, *).
        probe: v, signs or other draws of unit covariance (B, *).
        weighting: w, of the squared error of eps.
        cond: keyword arguments for the network.
    """
    level = model.sde.level(per_sample(t, x0))
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = lincomb((level.alpha, x0), (level.sigma, eps)).detach().requires_grad_()
        found = model(x, level, **(cond or {})).eps
        (slope,) = torch.autograd.grad((found * probe).sum(), x, create_graph=graph)
    # the score is -eps / sigma
    wide = torch.promote_types(found.dtype, torch.float32)
    trace = lincomb((-2.0 * level.sigma, slope.to(wide) * probe))
    each = (found.to(wide).square() + trace).flatten(1).mean(1)
    weight = weighting(level, model)
    return lincomb((weight.reshape(-1) if isinstance(weight, Tensor) else weight, each))


@dataclass(frozen=True)
class SlicedScoreMatching:
    """Sliced score matching on noisy data, with a probe of random signs for each sample.

    An alternative to `DSM`, with its minimum and gradient in expectation; J is that of `DSM` less
    the mean weight, which must be finite: where weights are infinite at alpha(T) = 0, choose a
    smaller T. A step differentiates the network twice.

    Attributes:
        weighting: w, of the squared error of eps.
        times: the law of t, which is stratified.

    Raises:
        ValueError: when called, x0 of integers.
    """

    weighting: Weighting = sigma2
    times: Times = field(default_factory=UniformTimes)

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        require_floats(x0)
        t, ratio = self.times.draw(model.sde, len(x0), generator)
        eps = torch.empty_like(x0).normal_(generator=generator)
        probe = torch.empty_like(x0).bernoulli_(0.5, generator=generator) * 2.0 - 1.0
        losses = ssm_loss(model, x0, t, eps, probe, self.weighting, cond)
        return lincomb((ratio, losses)).mean()
