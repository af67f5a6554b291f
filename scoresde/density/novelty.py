"""Whether samples look like those that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.likelihood import LogLikelihood


@dataclass(frozen=True)
class Novelty:
    """Scores of samples, each a p-value: small where the sample is unlike the reference.

    Attributes:
        unlikely: share of the reference whose likelihood is as low (B,). Likelihoods alone
            mislead: a flat image may have a higher one than any photograph (Nalisnick et al. 2019,
            arXiv:1810.09136).
        atypical: share of the reference whose likelihood is as far from the median, on either side
            (B,): after the typicality of Nalisnick et al. 2019, arXiv:1906.02994.
        code: two-sided p-value of the code's squared length under the prior, a chi-square of D
            degrees of freedom (B,).
    """

    unlikely: Tensor
    atypical: Tensor
    code: Tensor


def novelty(found: LogLikelihood, reference: LogLikelihood, prior_std: float = 1.0) -> Novelty:
    """Return how unlike samples are to a reference, from the likelihoods of both.

    The p-values are exact for one sample that is exchangeable with the reference: they count it
    among the reference, and none is below 1 / (n + 1).

    Args:
        found: likelihoods of the samples in question.
        reference: likelihoods of samples of the data, held out from training.
        prior_std: deviation of the latent codes.

    Raises:
        ValueError: no reference, or one of another dimension; records without a code.
    """
    if not len(reference.nats) or reference.dim != found.dim:
        raise ValueError(
            f"reference: {len(reference.nats)} samples of {reference.dim} dimensions, for samples "
            f"of {found.dim}"
        )
    if found.latent is None:
        raise ValueError("found: a bound has no latent code; give exact likelihoods")
    nats, usual = found.nats.double(), reference.nats.double()
    middle = usual.median()
    squares = (found.latent.double() / prior_std).square().flatten(1).sum(1)
    below = torch.special.gammainc(torch.full_like(squares, 0.5 * found.dim), 0.5 * squares)
    return Novelty(
        unlikely=_share(-nats, -usual),
        atypical=_share((nats - middle).abs(), (usual - middle).abs()),
        code=2.0 * torch.minimum(below, 1.0 - below),
    )


def _share(values: Tensor, reference: Tensor) -> Tensor:
    """Return the share of the reference, and the value itself, that is as large as each value."""
    reference = reference.sort().values
    larger = len(reference) - torch.searchsorted(reference, values)
    return (larger + 1.0) / (len(reference) + 1.0)
