"""Likelihoods of a run: of rows in memory, or of all its test data in parts that survive a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde import config as configs
from scoresde.analytic import Gaussian
from scoresde.chains import ChainDecoder, LearnedVariance, vlb
from scoresde.chains.ladder import require_ladder
from scoresde.likelihood import (
    Columns,
    ControlVariate,
    DiscretisedGaussian,
    Evaluate,
    GaussianDecoder,
    LogLikelihood,
    Trace,
    elbo,
    fingerprint,
    log_likelihood,
    survey,
)
from scoresde.models import clipped
from scoresde.noise import SeededNoise
from scoresde.run import Run


def measure(run: Run, x: Tensor, seed: int = 0) -> list[LogLikelihood]:
    """Return the log-likelihoods of x (B, *), in model space, a batch at a time, in host memory."""
    evaluate, size = evaluator(run, seed), run.config.likelihood.batch_size
    parts = tqdm(torch.arange(len(x)).split(size), desc="likelihood", leave=False)
    return [evaluate(x[rows], rows) for rows in parts]


def measure_all(run: Run, x: Tensor, folder: Path, seed: int = 0) -> Columns | None:
    """Return a column for all that is known of each row of x (N, *), in model space.

    The work is kept in a folder, gone on with where it was stopped, and shared with the other
    processes of torchrun; None in one that finds others still at work (`survey`).
    """
    chosen = run.config.likelihood
    bound = ("method", "levels", "clip")
    if chosen.method == "flow":
        settings = {k: v for k, v in chosen.items() if k not in (*bound, "batch_size")}
    else:
        # a model that is not clipped has the settings of before there was a choice
        settings = {k: chosen[k] for k in bound if chosen[k]} | {"of_levels": run.of_levels}
    settings |= {
        "data": run.config.data,
        "data_seed": run.config.seed,  # of the noise that dequantises
        "model": fingerprint(run.model),
        "seed": seed,
    }
    size = chosen.batch_size
    return survey(evaluator(run, seed), x, folder, batch_size=size, settings=settings)


def evaluator(run: Run, seed: int = 0) -> Evaluate:
    """Return what measures rows of a data set in model space, alike in every batch.

    By a bound, grey levels that were not dequantised have their probability, and other data a
    density.
    """
    return _by_flow(run, seed) if run.config.likelihood.method == "flow" else _by_bound(run, seed)


def _by_bound(run: Run, seed: int) -> Evaluate:
    prior, transform, bound = run.prior(), run.transform, _bound(run)
    model = clipped(run.model, run.config, "likelihood", transform, run.data.shape)

    def evaluate(x: Tensor, rows: Tensor) -> LogLikelihood:
        noise, here = SeededNoise(seed, indices=rows), x.to(run.device)
        found = bound(model, here, prior=prior, noise=noise)
        log_det = 0.0 if run.of_levels else transform.log_det_at(here)
        return replace(found, log_det_data=log_det).to("cpu")

    return evaluate


def _bound(run: Run) -> Callable[..., LogLikelihood]:
    """Return the ELBO, or the bound of a chain, by as many levels as are set."""
    n = run.config.likelihood.levels
    decoder = DiscretisedGaussian(run.transform) if run.of_levels else GaussianDecoder()
    if run.config.likelihood.method == "elbo":
        return partial(elbo, n=n, decoder=decoder)
    if isinstance(run.model, LearnedVariance):
        decoder = ChainDecoder(run.transform if run.of_levels else None)
    every = require_ladder(run.model.sde, "config.likelihood.method='vlb'").n
    return partial(vlb, n=n if n < every else None, decoder=decoder)


def _by_flow(run: Run, seed: int) -> Evaluate:
    prior, trace = run.prior(), trace_of(run)

    def evaluate(x: Tensor, rows: Tensor) -> LogLikelihood:
        return log_likelihood(
            run.model,
            x.to(run.device),
            trace=trace,
            transform=run.transform,
            prior=prior,
            noise=SeededNoise(seed, indices=rows),
            **configs.solve_settings(run.config, "likelihood"),
        ).to("cpu")

    return evaluate


def trace_of(run: Run) -> Trace:
    """Return the trace of a run's likelihoods, less that of its data's Gaussian if so set."""
    trace = configs.build_at(run.config, "likelihood.trace", Trace)
    if not run.config.likelihood.control_variate:
        return trace
    return ControlVariate(trace, Gaussian.fit(run.transform.forward(run.data.train).to(run.device)))
