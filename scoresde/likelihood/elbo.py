"""The evidence lower bound of the reverse SDE, in continuous time.

For every Gaussian diffusion, with lam = log(alpha / sigma) and eps^ the network's noise,

    log p(x0) >= E log p(x_T) / q(x_T | x0) - ∫ E |eps - eps^|^2 d lam + E log p(x0 | x_tmin)

(Song et al. 2021, arXiv:2101.09258, Theorem 3; Huang et al. 2021, arXiv:2106.02808; Kingma et al.
2021, arXiv:2107.00630, with SNR = e^{2 lam}). It holds with equality for the exact score, the exact
law at T and the exact decoder.

With r = sqrt(alpha^2 c^2 + sigma^2) and v of the polar frame (`AdamsPC`), the integrand is

    |eps - eps^|^2 d lam = |v - v^|^2 d log(sigma / r)

and |v - v^|^2 has the mean D at every level for white Gaussian data of deviation c. So s =
log(r / sigma) is drawn uniformly: the importance sampling of levels that is exact for such data,
and finite at alpha = 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.errors import require_integer
from scoresde.likelihood.decoder import Decoder, GaussianDecoder
from scoresde.likelihood.draws import log_normal
from scoresde.likelihood.record import LogLikelihood
from scoresde.likelihood.traces import mean_of
from scoresde.noise import Noise
from scoresde.sampling import check_data, check_model, noise_of, place_cond, placement
from scoresde.sde import SDE, Level, Prior
from scoresde.tensors import Scalar, cos, expm1, lincomb, log, per_sample, sin


def elbo(
    model: BaseDenoiser,
    x: Tensor,
    *,
    n: int = 100,
    decoder: Decoder | None = None,
    prior: Prior | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
    cond: Mapping[str, Any] | None = None,
    gradient: Literal["direct"] | None = None,
) -> LogLikelihood:
    """Return a lower bound of the log-likelihood of x under the reverse SDE of a model.

    Unlike `log_likelihood` it is of the data themselves: the state at t_min is drawn, and a decoder
    leads from it to x. Each of n strata of levels has a draw of its own, so that the bound needs
    no solve, and its standard error is that of the draws: rough below some fifty levels.

    The parts are "prior", minus the divergence of q(x_T | x0) from the prior; "diffusion", minus
    the integral; and "decoder", E log p(x0 | x_tmin).

    Args:
        model: the denoiser.
        x: data in model space (B, *).
        n: levels, each a network call; the standard error needs two. The decoder's share of calls
            is added, as many as make its error no larger than the integral's, and at least two.
        decoder: `GaussianDecoder()` by default; `DiscretisedGaussian(transform)` makes the bound
            one of the probability of integers, for x = transform.forward(integers).
        prior: the density at T; `model.sde.prior()` by default.
        noise, seed, cond: as in `scoresde.log_likelihood`.
        gradient: "direct" keeps the graph, so that gradients flow to x, cond and the parameters.

    Raises:
        ValueError: integer or non-finite x; contradicting arguments; n that is no integer from 1;
            another gradient.
    """
    check_model(model)
    require_integer(n, "n", 1)
    if gradient not in (None, "direct"):
        raise ValueError(f"gradient={gradient!r}: there is no solve; give None or 'direct'")
    noise, decoder = noise_of(noise, seed), decoder or GaussianDecoder()
    x = check_data(x, "x").to(**placement(model, x))
    field = Field(model, place_cond(cond, x.device))
    with nullcontext() if gradient else torch.no_grad():
        found = {
            "prior": prior_part(model.sde, prior or model.sde.prior(), x, n, noise.fold(2)),
            "diffusion": _diffusion(field, x, n, noise.fold(0)),
            "decoder": _decoded(field, x, n, decoder, noise.fold(1)),
        }
    return bound_of(found, x, field, decoder, f"ELBO by {n} levels, {decoder}")


def bound_of(
    found: Mapping[str, tuple[Tensor, Tensor]],
    x: Tensor,
    field: Field,
    decoder: Decoder,
    method: str,
) -> LogLikelihood:
    """Return the bound that is the sum of parts, each with its standard error, (B,)."""
    parts = {name: mean for name, (mean, _) in found.items()}
    variance = torch.stack([stderr.square() for _, stderr in found.values()]).sum(0)
    return LogLikelihood(
        nats=sum(parts.values(), torch.zeros_like(variance)),
        parts=parts,
        stderr=variance.sqrt(),
        nfe=torch.full((len(x),), field.nfe, device=x.device),
        dim=math.prod(x.shape[1:]),
        bound=True,
        probability=decoder.discrete,
        method=method,
    )


class _Draw(NamedTuple):
    """What one draw of the state says.

    Attributes:
        error: |v - v^|^2 (B,).
        excess: |v|^2 less its mean over the noise (B,).
        unexplained: |v - v^|^2 / |v|^2, at most 1 (B,).
    """

    error: Tensor
    excess: Tensor
    unexplained: Tensor


def _draw(field: Field, x: Tensor, level: Level, z: Tensor) -> tuple[Prediction, _Draw]:
    phi = level.angle(field.data_std)
    by_data, by_noise = -sin(phi) / field.data_std, cos(phi)
    prediction = field(lincomb((level.alpha, x), (level.sigma, z)), level)
    v = lincomb((by_data, x), (by_noise, z))
    error = _square(v - prediction.combine(x0=by_data, eps=by_noise))
    noise = _square(lincomb((by_noise, torch.ones_like(x))))
    size = _square(v)
    excess = size - noise - _square(lincomb((by_data, x)))
    return prediction, _Draw(error, excess, (error / size).clamp(max=1.0))


def _square(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).sum(1)


def _steady(values: Tensor, draws: Sequence[_Draw]) -> Tensor:
    """Return values (B, n) less what the size of the noise adds to errors, whose mean is 0.

    The share of |v|^2 that a network leaves unexplained, a control variate's coefficient, is taken
    from the neighbouring draws, which are independent of this one: no bias.
    """
    if len(draws) < 2:
        return values
    shares = torch.stack([d.unexplained for d in draws], 1)
    padded = torch.nn.functional.pad(shares[:, None], (1, 1), "reflect")[:, 0]
    around = 0.5 * (padded[:, :-2] + padded[:, 2:])
    return values - around * torch.stack([d.excess for d in draws], 1)


def _diffusion(field: Field, x: Tensor, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return minus the integral of E |v - v^|^2 ds, and its standard error, (B,)."""
    sde, c = field.sde, field.data_std
    low, high = (float(sde.level(t).information(c)) for t in (sde.T, sde.t_min))
    z = noise.fold(-1).normal(x.new_zeros(len(x), n, dtype=torch.float64))
    strata = torch.arange(n, device=x.device) + torch.special.ndtr(z)
    levels = (_level(sde, per_sample(low + (high - low) / n * s, x), c) for s in strata.unbind(1))
    draws = [_draw(field, x, here, noise.fold(j).normal(x))[1] for j, here in enumerate(levels)]
    errors = _steady(torch.stack([d.error for d in draws], 1), draws)
    # neighbouring strata differ by their draws, and little by their means, which count as error
    squares = errors.diff(dim=1).square().sum(1) / (2 * n * (n - 1) or math.nan)
    return (low - high) * errors.mean(1), (high - low) * squares.sqrt()


def _decoded(
    field: Field, x: Tensor, n: int, decoder: Decoder, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return E log p(x0 | x_tmin), and its standard error, (B,)."""
    sde, c = field.sde, field.data_std
    level = sde.level(sde.t_min)
    # the Gaussian's is -|v - v^|^2 / 2, so it weighs as much as half a unit of s
    share = 0.5 / float(level.information(c) - sde.level(sde.T).information(c))
    logs, draws = [], []
    for j in range(max(2, math.ceil(share * n))):
        prediction, draw = _draw(field, x, level, noise.fold(j).normal(x))
        logs.append(decoder.log_prob(x, prediction, c))
        draws.append(draw)
    mean, stderr = mean_of(-0.5 * _steady(-2.0 * torch.stack(logs, 1), draws))
    return mean, stderr


def prior_part(sde: SDE, prior: Prior, x: Tensor, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return E log p(x_T) - log q(x_T | x0), in closed form for a Gaussian, and its error, (B,)."""
    level = sde.level(sde.T)
    alpha, sigma = float(level.alpha), float(level.sigma)
    mean = alpha * x.double()
    if type(prior) is Prior:
        std = torch.as_tensor(prior.std, dtype=mean.dtype, device=mean.device)
        spread = (sigma / std).square().expand_as(mean)
        gap = -0.5 * spread.flatten(1).sum(1) - log_normal(torch.ones_like(mean), sigma)
        return prior.log_prob(mean) + gap, torch.zeros_like(gap)
    draws = [noise.fold(j).normal(mean) for j in range(n)]
    logs = [prior.log_prob(mean + sigma * z) - log_normal(z, sigma) for z in draws]
    value, stderr = mean_of(torch.stack(logs, 1))
    return value, stderr


def _level(sde: SDE, depth: Scalar, data_std: float) -> Level:
    """Return the level at which s has a value."""
    return sde.level_at(0.5 * log(expm1(2.0 * depth)) - math.log(data_std))
