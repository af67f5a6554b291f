"""Lower bounds from draws of what was not observed: the noise in a bin, the state at t_min."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scoresde.likelihood.record import LogLikelihood


def with_parts(found: LogLikelihood, parts: Mapping[str, Tensor | float]) -> LogLikelihood:
    """Return a record in float64 with more parts (B,) in its sum.

    Raises:
        ValueError: a record that counts one of the parts already, or all, as a probability does.
    """
    twice = [name for name in parts if found.probability or name in found.parts]
    if twice:
        raise ValueError(
            f"density: {found.method or 'the record'} counts {', '.join(twice)} already; give a "
            f"density that does not, such as scoresde.log_likelihood"
        )
    nats = found.nats.double()
    like = {"dtype": nats.dtype, "device": nats.device}
    added = {k: torch.as_tensor(v, **like).expand_as(nats) for k, v in parts.items()}
    return replace(found, nats=sum(added.values(), nats), parts={**found.parts, **added})


def importance_bound(
    draws: Sequence[LogLikelihood], method: str, *, weights: bool = False
) -> LogLikelihood:
    """Return the bound that k independent draws z_i make together.

        log p(x) >= E log 1/k sum_i w_i,    w_i = p(x, z_i) / q(z_i | x)

    It rises with k, to log p(x) in the limit (Burda et al. 2016, arXiv:1509.00519, Theorem 1). Its
    standard error is the jackknife's, by what the bound is without each draw, and NaN for one draw
    or where the others weigh nothing. Over many samples its root mean square is right within a
    sixth, even where one weight has nearly all; of a single sample's, twice the standard error then
    covers the mean of the bound in some seven cases of ten. How far below log p(x) that mean lies
    it does not tell. The errors of the draws themselves are taken to be one, as they are where
    draws share their probes.

    Args:
        draws: k records whose `nats` are log w_i.
        method: how they were had, in words.
        weights: whether exp of `nats` has the mean w_i where they are bounds with an error of their
            own, as those of `Decoded` have; exp of an `elbo` has a larger one.

    Returns:
        The record; its part "draws" is what k draws gain over the mean of one.

    Raises:
        ValueError: records that count a data transform beside their parts; or several that are
            noisy bounds, whose luck exp favours.
    """
    k, first = len(draws), draws[0]
    if isinstance(first.log_det_data, Tensor) or first.log_det_data != 0.0:
        raise ValueError(
            f"density: {first.method} counts a data transform of its own; leave `transform` out "
            f"of it, and give scoresde.Discrete the transform"
        )
    if k > 1 and first.bound and not weights and not bool((first.stderr == 0.0).all()):
        raise ValueError(
            f"k={k}: {first.method or 'the density'} is a noisy bound, and the mean of exp over "
            f"its draws is none; take k=1, or the flow's density by scoresde.log_likelihood"
        )
    logs = torch.stack([found.nats for found in draws])
    share = logs.softmax(0)
    parts = {
        name: torch.stack([found.parts[name] for found in draws]).mean(0) for name in first.parts
    }
    nats = logs.logsumexp(0) - math.log(k)
    if k > 1:
        parts["draws"] = parts.get("draws", 0.0) + nats - logs.mean(0)  # those within the draws too
    own = (share * torch.stack([found.stderr for found in draws])).sum(0)
    errors = [found.error for found in draws if found.error is not None]
    products = [found.products for found in draws if found.products is not None]
    return replace(
        first,
        nats=nats,
        parts=parts,
        stderr=torch.hypot(_jackknife(logs), own),
        error=(share * torch.stack(errors)).sum(0) if errors else None,
        nfe=torch.stack([found.nfe for found in draws]).sum(0),
        products=torch.stack(products).sum(0) if products else None,
        latent=None,
        bound=True,
        method=f"{method}, {first.method}",
    )


def _jackknife(logs: Tensor) -> Tensor:
    """Return the standard error (B,) of the log of the mean of exp over k rows (k, B)."""
    k = len(logs)
    if k == 1:
        return torch.full_like(logs[0], math.nan)
    without = torch.stack([torch.cat([logs[:i], logs[i + 1 :]]).logsumexp(0) for i in range(k)])
    return ((k - 1) * without.var(0, correction=0)).sqrt()


def log_normal(z: Tensor, std: float) -> Tensor:
    """Return the log-density of N(m, std^2) at m + std z, for z (B, *), as (B,) in float64."""
    each = -0.5 * z.double().square() - math.log(std) - 0.5 * math.log(2.0 * math.pi)
    return each.flatten(1).sum(1)
