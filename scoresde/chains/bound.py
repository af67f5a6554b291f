"""The variational bound of a chain, term by term.

    -log p(x0) <= L_0 + L_1 + ... + L_{n-1} + L_n
    L_n = KL(q(x_n | x0) || p(x_n)),    L_0 = -E log p(x0 | x_1),
    L_{i-1} = E KL(q(x_{i-1} | x_i, x0) || p(x_{i-1} | x_i))

(Ho et al. 2020, arXiv:2006.11239, eq. 5.) Along a dimension, with h = lam_{i-1} - lam_i, the share
v of the reverse step's variance and d = log(sigma_i / sigma_{i-1}), each divergence is

    KL = (2 v d + e^{-2vd} - 1 + e^{-2vd} (e^{2h} - 1) (eps - eps^)^2) / 2

so that v = 0 leaves the squared error of eps, times half the relative growth of the SNR. A chain
of fewer steps has the same terms, between the levels that it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.chains.decoder import require_share
from scoresde.chains.ladder import Ladder, require_ladder
from scoresde.chains.respaced import Respaced
from scoresde.chains.variances import ChainPrediction, widening
from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.errors import require_integer, require_kind
from scoresde.grids import Grid
from scoresde.integrate import levels_of
from scoresde.likelihood import Decoder, GaussianDecoder, LogLikelihood
from scoresde.likelihood.elbo import bound_of, prior_part
from scoresde.likelihood.traces import mean_of
from scoresde.noise import Noise
from scoresde.sampling import check_data, check_model, noise_of, place_cond, placement
from scoresde.sde import Level, Prior
from scoresde.tensors import exp, expm1, lincomb, per_sample

_CLOSE = 200
"""Neighbours among so many levels have means that differ less than their draws."""


@dataclass(frozen=True)
class ChainBound(LogLikelihood):
    """The bound of a chain.

    Attributes:
        terms: L_0, L_1, ..., L_n in nats (B, n + 1), for n the levels of the chain, their sum minus
            `nats`; None where levels were drawn.
    """

    terms: Tensor | None = None


def vlb(
    model: BaseDenoiser,
    x: Tensor,
    *,
    n: int | None = None,
    steps: int | None = None,
    grid: Grid | None = None,
    share: float | None = None,
    decoder: Decoder | None = None,
    prior: Prior | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
    cond: Mapping[str, Any] | None = None,
    gradient: Literal["direct"] | None = None,
) -> ChainBound:
    """Return the variational bound of log p(x) of a chain, with its terms.

    The parts are "prior", -L_n; "diffusion", minus the sum of the divergences; and "decoder", -L_0.
    The standard error is that of the draws, taken from how much neighbouring terms differ, or two
    draws of each term in a chain of fewer than 200 levels.

    Args:
        model: the denoiser, of a `Ladder`.
        x: data in model space (B, *), grey levels at the middles of their bins.
        n: how many levels to draw, each a network call: one from each of n strata of
            log(1 + SNR) / 2, in which white data have terms of like size; the standard error needs
            two. None takes all of them, one draw each, or two of fewer than 200. The decoder's
            share of calls is added, as for `scoresde.elbo`.
        steps: how many levels the chain keeps: the bound is that of ancestral sampling by
            `sample(..., grid=grid, steps=steps)` (Nichol and Dhariwal 2021, arXiv:2102.09672, Sec.
            4). None keeps as many as the grid has, or else all of them.
        grid: where these levels are; `Respaced()` by default.
        share: v of the reverse steps' variance beta^v beta~^{1-v}: 0.0 and 1.0 are the two of DDPM.
            None is the network's own for a `LearnedVariance`, and 0.0 for others.
        decoder: `GaussianDecoder()` by default. `ChainDecoder(transform, share)` is that of the
            papers, and makes the bound one of the probability of integers.
        prior: `model.sde.prior()` by default; DDPM's is `Prior()`.
        noise, seed, cond: as in `scoresde.log_likelihood`.
        gradient: "direct" keeps the graph, so that gradients flow to x, cond and the parameters.

    Raises:
        ValueError: a process without levels; integer or non-finite x; contradicting arguments; n
            that is no integer from 1, or steps none from 2; a grid that has no such number of
            steps, or does not lead from level n to level 1; a share outside [0, 1]; another
            gradient.
        TypeError: not a denoiser; a grid that is none.
    """
    check_model(model)
    sde = require_ladder(model.sde, "vlb")
    require_share(share)
    if n is not None:
        require_integer(n, "n", 1)
    if gradient not in (None, "direct"):
        raise ValueError(f"gradient={gradient!r}: there is no solve; give None or 'direct'")
    levels = _kept(sde, steps, grid or Respaced())
    noise, decoder = noise_of(noise, seed), decoder or GaussianDecoder()
    x = check_data(x, "x").to(**placement(model, x))
    field = Field(model, place_cond(cond, x.device))
    with nullcontext() if gradient else torch.no_grad():
        rates, widths, diffusion = _diffusion(field, x, levels, share, noise, n)
        found = {
            "prior": prior_part(sde, prior or sde.prior(), x, rates.shape[1], noise.fold(2)),
            "diffusion": diffusion,
            "decoder": _decoded(field, x, levels, widths, decoder, noise.fold(1)),
        }
    drawn = "all" if n is None else n
    method = f"bound of the chain of {len(levels)} levels by {drawn}, {decoder}"
    bound = bound_of(found, x, field, decoder, method)
    first, last = (-bound.parts[name][:, None] for name in ("decoder", "prior"))
    terms = torch.cat([first, rates * widths, last], 1) if n is None else None
    return ChainBound(**vars(bound), terms=terms)


def divergence(prediction: Prediction, eps: Tensor, there: Level, share: float | Tensor) -> Tensor:
    """Return KL(q(x_s | x_t, x0) || p(x_s | x_t)) in nats (B,), from prediction.level to `there`.

    Args:
        prediction: at x_t = alpha x0 + sigma eps.
        eps: the noise in x_t (B, *).
        there: the level s, a less noisy one.
        share: v, a number or (B, *).
    """
    here = prediction.level
    error = (prediction.eps - eps).double().square()
    wide = 2.0 * share * widening(here, there)
    gain = expm1(2.0 * (there.lam - here.lam))
    each = wide + expm1(-wide) + exp(-wide) * gain * error
    return 0.5 * each.flatten(1).sum(1)


def _term(
    field: Field, x: Tensor, here: Level, there: Level, share: float | None, z: Tensor
) -> Tensor:
    prediction = field(lincomb((here.alpha, x), (here.sigma, z)), here)
    own = prediction.share.double() if isinstance(prediction, ChainPrediction) else 0.0
    return divergence(prediction, z, there, own if share is None else share)


def _kept(sde: Ladder, steps: int | None, grid: Grid) -> tuple[Level, ...]:
    """Return the levels of the chain, from n down to 1."""
    require_kind(grid, Grid, "grid")
    own = None if grid.steps is None else grid.steps + 1
    count = (own or sde.n) if steps is None else steps
    require_integer(count, "steps", 2)
    if own not in (None, count):
        raise ValueError(f"steps={steps}: grid={grid} has {own} levels; leave steps out")
    return levels_of(sde, grid, count - 1, denoise=False, part=False)


def _depths(levels: Sequence[Level], data_std: float) -> Tensor:
    """Return log(1 + c^2 SNR) / 2 of levels, increasing."""
    return torch.tensor([float(v.information(data_std)) for v in levels], dtype=torch.float64)


def _diffusion(
    field: Field,
    x: Tensor,
    levels: Sequence[Level],
    share: float | None,
    noise: Noise,
    n: int | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return the divergences over their widths, these, and minus their sum with its error (B,)."""
    asked = field, x, levels, share
    if n is not None:
        rates, widths = _some(*asked, noise.fold(0), n)
        return rates, widths, _sum(-rates, widths)
    rates, widths = _all(*asked, noise.fold(0))
    if len(levels) >= _CLOSE:
        return rates, widths, _sum(-rates, widths)
    again, _ = _all(*asked, noise.fold(3))
    error = 0.5 * ((rates - again).square() @ widths.square()).sqrt()
    rates = 0.5 * (rates + again)
    return rates, widths, (-rates @ widths, error)


def _all(
    field: Field, x: Tensor, levels: Sequence[Level], share: float | None, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return the divergences L_1..L_{n-1} over their widths in depth (B, n - 1), and these."""
    widths = _depths(levels, field.data_std).diff().flip(0).to(x.device)
    terms = [
        _term(field, x, here, there, share, noise.fold(i).normal(x))
        for i, (there, here) in enumerate(pairwise(reversed(levels)), 2)
    ]
    return torch.stack(terms, 1) / widths, widths


def _some(
    field: Field, x: Tensor, levels: Sequence[Level], share: float | None, noise: Noise, n: int
) -> tuple[Tensor, Tensor]:
    """Return as `_all` those of one level drawn from each of n strata (B, n), and their widths."""
    depths = _depths(levels, field.data_std).to(x.device)
    times = torch.tensor([level.t for level in levels], dtype=torch.float64, device=x.device)
    width = (depths[-1] - depths[0]) / n
    u = torch.special.ndtr(noise.fold(-1).normal(x.new_zeros(len(x), n, dtype=torch.float64)))
    strata = (depths[0] + width * (torch.arange(n, device=x.device) + u)).contiguous()
    below = torch.searchsorted(depths, strata, right=True).clamp(1, len(levels) - 1)
    rates = []
    for j, k in enumerate(below.unbind(1)):
        here, there = (field.sde.level(per_sample(times[i], x)) for i in (k - 1, k))
        term = _term(field, x, here, there, share, noise.fold(j).normal(x))
        rates.append(term / (depths[k] - depths[k - 1]))
    return torch.stack(rates, 1), width.expand(n)


def _sum(rates: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of rates (B, n) times widths (n,), and its standard error, (B,)."""
    if len(widths) == 1:
        return rates @ widths, torch.full_like(rates[:, 0], math.nan)
    # neighbours differ by their draws, and little by their means, which count as error
    pairs = 0.5 * rates.diff(dim=1).square()
    both = torch.cat([pairs[:, :1], pairs, pairs[:, -1:]], 1)
    squares = 0.5 * (both[:, 1:] + both[:, :-1]) @ widths.square()
    return rates @ widths, squares.sqrt()


def _decoded(
    field: Field,
    x: Tensor,
    levels: Sequence[Level],
    widths: Tensor,
    decoder: Decoder,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Return E log p(x0 | x_1), and its standard error, (B,)."""
    level = levels[-1]
    depths = _depths(levels, field.data_std)
    # its variance is that of half a unit of depth
    count = max(2, math.ceil(0.5 * len(widths) / float(depths[-1] - depths[0])))
    logs = []
    for j in range(count):
        state = lincomb((level.alpha, x), (level.sigma, noise.fold(j).normal(x)))
        logs.append(decoder.log_prob(x, field(state, level), field.data_std))
    mean, stderr = mean_of(torch.stack(logs, 1))
    return mean, stderr
