"""Whether samples look like those that a model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.likelihood import LogLikelihood
from scoresde.sde import Prior


@dataclass(frozen=True)
class Novelty:
    """Scores of samples, each a p-value: small where the sample is unlike the reference.

    Attributes:
        unlikely: share of the reference whose likelihood is as low (B,). Likelihoods alone
            mislead: a flat image may have a higher one than any photograph (Nalisnick et al. 2019,
            arXiv:1810.09136).
        atypical: share of the reference whose likelihood is as far from the median of both, on
            either side (B,): after the typicality of Nalisnick et al. 2019, arXiv:1906.02994.
        code: two-sided p-value of the code's squared length about the prior's mean, in deviations
            of it, under the prior: a chi-square of D degrees of freedom (B,).
    """

    unlikely: Tensor
    atypical: Tensor
    code: Tensor


def novelty(found: LogLikelihood, reference: LogLikelihood, prior: Prior) -> Novelty:
    """Return how unlike samples are to a reference, from the likelihoods of both.

    Those of likelihoods are exact, P(p <= a) <= a, for one sample that is exchangeable with the
    reference: it is counted among the n, for the median too, and none is below 1 / (n + 1). That
    of the code is exact where codes of the data have the law of the prior.

    Args:
        found: likelihoods of the samples in question.
        reference: likelihoods of samples of the data, held out from training.
        prior: the density at T that the likelihoods were measured with.

    Raises:
        ValueError: no reference, or one of another dimension; records without a code; likelihoods
            that are not finite; a prior that is no Gaussian.
    """
    if not len(reference.nats) or reference.dim != found.dim:
        raise ValueError(
            f"reference: {len(reference.nats)} samples of {reference.dim} dimensions, for samples "
            f"of {found.dim}"
        )
    if found.latent is None:
        raise ValueError("found: a bound has no latent code; give exact likelihoods")
    if type(prior) is not Prior:
        raise ValueError(f"prior: {prior} is no Gaussian, under which codes' lengths are known")
    for name, record in {"found": found, "reference": reference}.items():
        if not record.nats.isfinite().all():
            raise ValueError(f"{name}: has nats that are not finite; leave such samples out")
    nats, usual = found.nats.double(), reference.nats.double().sort().values
    total = len(usual) + 1.0
    latent = found.latent.double()
    mean, std = (torch.as_tensor(v).to(latent) for v in (prior.mean, prior.std))
    squares = ((latent - mean) / std).square().flatten(1).sum(1)
    tails = torch.full_like(squares, 0.5 * found.dim), 0.5 * squares
    below, above = torch.special.gammainc(*tails), torch.special.gammaincc(*tails)
    return Novelty(
        unlikely=(torch.searchsorted(usual, nats, right=True) + 1.0) / total,
        atypical=(total - _nearer(nats, usual)) / total,
        code=2.0 * torch.minimum(below, above),
    )


def _nearer(values: Tensor, reference: Tensor) -> Tensor:
    """Return how many of a sorted reference are nearer to the median of both than each value."""
    n = len(reference)
    low, high = (_pooled(values, reference, k) for k in (n // 2, (n + 1) // 2))
    # each value's mirror image in the median; one of the middle pair has exactly the other
    image = torch.where(values <= low, high + (low - values), low - (values - high))
    first = torch.searchsorted(reference, torch.minimum(values, image), right=True)
    return (torch.searchsorted(reference, torch.maximum(values, image)) - first).clamp(min=0)


def _pooled(values: Tensor, reference: Tensor, k: int) -> Tensor:
    """Return the k-th smallest, from 0, of a sorted reference and each of the values."""
    ends = reference.new_tensor([math.inf])
    padded = torch.cat([-ends, reference, ends])
    return values.clamp(padded[k], padded[k + 1])
