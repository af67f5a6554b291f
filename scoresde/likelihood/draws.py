"""Lower bounds from draws of what was not observed: the noise in a bin, the state at t_min."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scoresde.likelihood.record import LogLikelihood


def with_parts(found: LogLikelihood, parts: Mapping[str, Tensor | float]) -> LogLikelihood:
    """Return a record in float64 with more parts (B,) in its sum."""
    nats = found.nats.double()
    like = {"dtype": nats.dtype, "device": nats.device}
    added = {k: torch.as_tensor(v, **like).expand_as(nats) for k, v in parts.items()}
    return replace(found, nats=sum(added.values(), nats), parts={**found.parts, **added})


def importance_bound(draws: Sequence[LogLikelihood], method: str) -> LogLikelihood:
    """Return the bound that k independent draws z_i make together.

        log p(x) >= E log 1/k sum_i w_i,    w_i = p(x, z_i) / q(z_i | x)

    It rises with k, to log p(x) in the limit (Burda et al. 2016, arXiv:1509.00519, Theorem 1). Its
    standard error is that of the mean of w over the mean of w, NaN for one draw; the errors of the
    draws themselves are taken to be one, as they are where draws share their probes.

    Args:
        draws: k records whose `nats` are log w_i.
        method: how they were had, in words.

    Returns:
        The record; its part "draws" is what k draws gain over the mean of one.

    Raises:
        ValueError: records that count a data transform beside their parts.
    """
    k, first = len(draws), draws[0]
    if isinstance(first.log_det_data, Tensor) or first.log_det_data != 0.0:
        raise ValueError(
            f"density: {first.method} counts a data transform of its own; leave `transform` out "
            f"of it, and give scoresde.Discrete the transform"
        )
    logs = torch.stack([found.nats for found in draws])
    share = logs.softmax(0)
    parts = {
        name: torch.stack([found.parts[name] for found in draws]).mean(0) for name in first.parts
    }
    nats = logs.logsumexp(0) - math.log(k)
    if k > 1:
        parts["draws"] = parts.get("draws", 0.0) + nats - logs.mean(0)  # those within the draws too
    spread = k * (share - 1.0 / k).square().sum(0) / (k - 1 or math.nan)
    own = (share * torch.stack([found.stderr for found in draws])).sum(0)
    errors = [found.error for found in draws if found.error is not None]
    products = [found.products for found in draws if found.products is not None]
    return replace(
        first,
        nats=nats,
        parts=parts,
        stderr=(spread + own.square()).sqrt(),
        error=(share * torch.stack(errors)).sum(0) if errors else None,
        nfe=torch.stack([found.nfe for found in draws]).sum(0),
        products=torch.stack(products).sum(0) if products else None,
        latent=None,
        bound=True,
        method=f"{method}, {first.method}",
    )


def log_normal(z: Tensor, std: float) -> Tensor:
    """Return the log-density of N(m, std^2) at m + std z, for z (B, *), as (B,) in float64."""
    each = -0.5 * z.double().square() - math.log(std) - 0.5 * math.log(2.0 * math.pi)
    return each.flatten(1).sum(1)
