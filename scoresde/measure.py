"""Likelihoods of a run: of rows in memory, or of all its test data in parts that survive a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde import config as configs
from scoresde.analytic import Gaussian
from scoresde.chains import ChainDecoder, LearnedVariance, vlb
from scoresde.chains.ladder import require_ladder
from scoresde.data import Dataset
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
from scoresde.solvers import Ancestral


def measure(run: Run, x: Tensor, seed: int = 0) -> list[LogLikelihood]:
    """Return the log-likelihoods of x (B, *), in model space, a batch at a time, in host memory.

    x is of `run.held_out()`, or what is to have the classes of its rows where these are given.
    """
    evaluate, size = evaluator(run, seed), run.config.likelihood.batch_size
    parts = tqdm(torch.arange(len(x)).split(size), desc="likelihood", leave=False)
    return [evaluate(x[rows], rows) for rows in parts]


def measure_all(run: Run, x: Tensor, folder: Path, seed: int = 0) -> Columns | None:
    """Return a column for all that is known of each row of x (N, *), which is `run.held_out(N)`.

    The work is kept in a folder, gone on with where it was stopped, and shared with the other
    processes of torchrun; None in one that finds others still at work (`survey`). Results of other
    settings, weights or data are never mixed in. `index` is the row of the test data.
    """
    chosen = run.config.likelihood
    bound = ("method", "levels", "clip")
    if chosen.method == "flow":
        settings = {k: v for k, v in chosen.items() if k not in (*bound, "batch_size")}
    else:
        # a model that is not clipped has the settings of before there was a choice
        settings = {k: chosen[k] for k in bound if chosen[k]} | {"of_levels": run.of_levels}
    settings |= {
        "data": [run.config.data, _digest(run.data), repr(run.transform)],  # and so the prior
        "law": law(run),
        "data_seed": run.config.seed,  # of the noise that dequantises
        "model": fingerprint(run.model),
        "seed": seed,
    }
    size = chosen.batch_size
    columns = survey(evaluator(run, seed), x, folder, batch_size=size, settings=settings)
    return columns and columns | {"index": run.order[columns["index"]].numpy()}


def law(run: Run) -> str:
    """Return what likelihoods are of, in words: p(x), or p(x | class) if that is all there is."""
    return "p(x)" if run.given is None else "p(x | class)"


def _digest(data: Dataset) -> str:
    """Return a digest of all samples and labels, training data among them: the prior has theirs."""
    digest = hashlib.sha256()
    for values in (data.train, data.test, data.train_labels, data.test_labels):
        if values is None:
            continue
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        for part in values.split(4096):  # of data that need not fit into memory
            digest.update(part.contiguous().reshape(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


def evaluator(run: Run, seed: int = 0) -> Evaluate:
    """Return what measures rows of `run.held_out()`, given with their indices, in any batch alike.

    It is their p(x), or p(x | class) of a network that was never without a class (`Run.given`).
    By a bound, grey levels that were not dequantised have their probability, and other data a
    density.
    """
    return _by_flow(run, seed) if run.config.likelihood.method == "flow" else _by_bound(run, seed)


def _by_bound(run: Run, seed: int) -> Evaluate:
    prior, transform, bound, given = run.prior(), run.transform, _bound(run), run.given
    model = clipped(run.model, run.config, "likelihood", transform, run.data.shape)

    def evaluate(x: Tensor, rows: Tensor) -> LogLikelihood:
        noise, here = SeededNoise(seed, indices=rows), x.to(run.device)
        found = bound(model, here, prior=prior, noise=noise, cond=_cond(given, rows))
        log_det = 0.0 if run.of_levels else transform.log_det_at(here)
        return replace(found, log_det_data=log_det).to("cpu")

    return evaluate


def _bound(run: Run) -> Callable[..., LogLikelihood]:
    """Return the ELBO, or the bound of a chain, by as many levels as are set."""
    n = run.config.likelihood.levels
    if run.config.likelihood.method == "elbo":
        decoder = DiscretisedGaussian(run.transform) if run.of_levels else GaussianDecoder()
        return partial(elbo, n=n, decoder=decoder)
    # the variances are those of the chain that is sampled; the last of fixed ones is the lesser
    sampler = configs.solve_settings(run.config, "sample")["solver"]
    larger = isinstance(sampler, Ancestral) and sampler.forward_variance
    fixed = not isinstance(run.model, LearnedVariance)
    share, of_last = (float(larger), 0.0) if fixed else (None, None)
    decoder = ChainDecoder(run.transform if run.of_levels else None, of_last)
    every = require_ladder(run.model.sde, "config.likelihood.method='vlb'").n
    return partial(vlb, n=n if n < every else None, share=share, decoder=decoder)


def _by_flow(run: Run, seed: int) -> Evaluate:
    prior, trace, given = run.prior(), trace_of(run), run.given

    def evaluate(x: Tensor, rows: Tensor) -> LogLikelihood:
        return log_likelihood(
            run.model,
            x.to(run.device),
            trace=trace,
            transform=run.transform,
            prior=prior,
            noise=SeededNoise(seed, indices=rows),
            cond=_cond(given, rows),
            **configs.solve_settings(run.config, "likelihood"),
        ).to("cpu")

    return evaluate


def _cond(given: Tensor | None, rows: Tensor) -> dict[str, Any] | None:
    return None if given is None else {"label": given[rows]}


def trace_of(run: Run) -> Trace:
    """Return the trace of a run's likelihoods, less that of its data's Gaussian if so set."""
    trace = configs.build_at(run.config, "likelihood.trace", Trace)
    if not run.config.likelihood.control_variate:
        return trace
    return ControlVariate(trace, Gaussian.fit(run.transform.forward(run.data.train).to(run.device)))
