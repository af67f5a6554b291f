"""The demo: train on real images, sample three ways, measure exact bits/dim, write a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.config import Config, build_data
from scoresde.measure import measure
from scoresde.metrics import ConfidentShare, MixtureBits, mixture_bits
from scoresde.pretrained import draw
from scoresde.report import ACCENT, INK, MUTED, Report, require, stretch
from scoresde.run import Run, train_run
from scoresde.sampling import solve
from scoresde.solvers import AdamsPC, EulerMaruyama, Langevin, PredictorCorrector, Solver

SAMPLES, SHOWN = 500, 64

WAYS: tuple[tuple[str, Solver, int], ...] = (
    ("Reverse SDE: Euler-Maruyama", EulerMaruyama(), 200),
    (
        "Predictor-corrector: reverse diffusion, Langevin",
        PredictorCorrector(corrector=Langevin()),
        100,
    ),
    ("Probability-flow ODE: Adams predictor-corrector", AdamsPC(), 20),
)


@dataclass(frozen=True)
class Drawn:
    """What one way of sampling gave.

    Attributes:
        way: its name.
        samples: grey levels (B, C, H, W).
        nfe: network calls a sample.
        seconds: of wall time for all samples.
        share: of samples that the classifier recognises with confidence.
    """

    way: str
    samples: Tensor
    nfe: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of held-out images, and of what is made of them.

    Attributes:
        digits: of the images (N,).
        shuffled: of the images with their pixels in random order (N,).
        noise: of images of uniform noise (N,).
        stderr: standard error of the mean over the images.
        trace_stderr: the part of it that the trace estimate leaves.
        nfe: network calls an image.
        mixtures: what Gaussian mixtures reach on the same images.
    """

    digits: Tensor
    shuffled: Tensor
    noise: Tensor
    stderr: float
    trace_stderr: float
    nfe: int
    mixtures: list[MixtureBits]


def demo(config: Config, workdir: Path) -> Path:
    """Train the run, or go on with it; sample, measure, and return the path of the report.

    Raises:
        ImportError: the extra scoresde[report] is not installed.
        ValueError: the data are not images with grey levels and classes.
    """
    require("sklearn", "PIL", "matplotlib")
    start = time.perf_counter()
    data, _ = build_data(config)
    if data.levels is None or data.train_labels is None or data.shape[:-2] not in ((1,), (3,)):
        raise ValueError(f"data={config.data!r}: the demo needs images with grey levels and labels")
    if config.likelihood.method != "flow":
        method = config.likelihood.method
        raise ValueError(f"config.likelihood.method={method!r}: the demo measures by the 'flow'")
    run = train_run(config, workdir)
    trained = time.perf_counter() - start
    classifier = ConfidentShare(data.train, data.train_labels)
    drawn = [_draw(run, classifier, *way) for way in WAYS]
    bits = _measure(run)
    report = _report(run, drawn, classifier(run.data.test), bits)
    total = time.perf_counter() - start
    threads = torch.get_num_threads()
    footer = (
        f"{trained:.0f} s of training, {total:.0f} s in all, {threads} thread{'s' * (threads > 1)}."
    )
    return report.write(workdir / "report.html", footer)


def _draw(run: Run, classifier: ConfidentShare, way: str, solver: Solver, steps: int) -> Drawn:
    start = time.perf_counter()
    samples, nfe = draw(run.trained(), SAMPLES, solver=solver, steps=steps)
    seconds = time.perf_counter() - start
    return Drawn(way, samples, nfe, seconds, classifier(samples))


def _measure(run: Run) -> Bits:
    generator = torch.Generator().manual_seed(run.config.seed)
    pixels = run.data.test[run.order]  # beside the classes of these, if they are told
    order = torch.rand(pixels.flatten(1).shape, generator=generator).argsort(1)
    shuffled = pixels.flatten(1).gather(1, order).reshape(pixels.shape)
    levels = run.transform.levels or 256
    noise = torch.randint(levels, pixels.shape, generator=generator).to(pixels.dtype)
    held_out = run.held_out()
    results = measure(run, held_out)
    digits = torch.cat([r.bits_per_dim for r in results])
    trace = torch.cat([r.bits_per_dim_stderr for r in results])
    others = (
        torch.cat([r.bits_per_dim for r in measure(run, run.transform.forward(x, generator))])
        for x in (shuffled, noise)
    )
    n = len(digits)
    return Bits(
        digits,
        *others,
        stderr=float(digits.std() / n**0.5),
        trace_stderr=float(trace.square().sum().sqrt() / n),
        nfe=int(results[0].nfe.max()),
        mixtures=mixture_bits(
            run.transform.forward(run.data.train, generator), held_out, run.transform.log_det
        ),
    )


def _report(run: Run, drawn: list[Drawn], real: float, bits: Bits) -> Report:
    mean, best = float(bits.digits.mean()), min(bits.mixtures, key=lambda m: m.bits_per_dim)
    parameters = sum(p.numel() for p in run.model.parameters())
    report = Report(
        f"scoresde on {run.data.name}",
        f"A score network of {parameters / 1e6:.1f} million parameters, trained on "
        f"{len(run.data.train)} images: {mean:.3f} ± {bits.stderr:.3f} bits/dim on "
        f"{len(bits.digits)} held-out ones, where the best Gaussian mixture has "
        f"{best.bits_per_dim:.3f}.",
    )
    levels = run.transform.levels
    report.section(
        "Samples",
        "Held-out images, and samples of one network by three solvers: the first ones drawn, with "
        "the classes in turn.",
    )
    grids = [("Real, held out", run.data.test), *((d.way, d.samples) for d in drawn)]
    report.images([(name, stretch(x[:SHOWN], levels)) for name, x in grids], scale=3)
    report.section(
        "What each solver costs, and gives",
        f"Recognised: the share of {SAMPLES} samples to which a classifier that learnt from real "
        f"images gives a class a probability over {0.9}. The real, held-out images have "
        f"{real:.3f}; the closest is in bold.",
    )
    report.table(
        ["Solver", "Network calls", "Seconds", "Recognised"],
        [[d.way, str(d.nfe), f"{d.seconds:.1f}", f"{d.share:.3f}"] for d in drawn],
        best=min(range(len(drawn)), key=lambda i: abs(drawn[i].share - real)),
    )
    report.section(
        "From noise to data",
        "Eight samples on the way along the probability flow, from t = T on the left to the data "
        "on the right. Each row is one sample.",
    )
    report.images([_path(run)], columns=_COLUMNS, scale=5)
    _likelihood(report, run, bits, mean)
    report.section("Training", f"Denoising score matching: {run.config.objective}.")
    report.plot(
        f"Loss, a mean over {run.config.train.log_every} steps",
        lambda axes: _curve(axes, run),
        (6.4, 2.6),
    )
    return report


def _likelihood(report: Report, run: Run, bits: Bits, mean: float) -> None:
    report.section(
        "Likelihood",
        f"Exact log-likelihoods by the probability flow, with {bits.nfe} network calls an image "
        f"and uniform dequantisation of {run.transform.levels} grey levels. "
        f"The network is asked without the class. Of the standard error "
        f"of {bits.stderr:.4f} the trace estimate makes {bits.trace_stderr:.4f}. The mixtures are "
        f"scikit-learn's, with full covariances, on the same dequantised images.",
    )
    rows = [("scoresde, probability flow", mean, bits.stderr)] + [
        (f"Gaussian mixture, {m.components} component{'s' * (m.components > 1)}", *m[1:])
        for m in bits.mixtures
    ]
    report.table(
        ["Model", "Test bits/dim", "Standard error"],
        [[name, f"{value:.3f}", f"{error:.3f}"] for name, value, error in rows],
        best=min(range(len(rows)), key=lambda i: rows[i][1]),
    )
    report.plot(
        "Bits/dim of held-out images, of the same with shuffled pixels, and of uniform noise",
        lambda axes: _histogram(axes, bits),
        (6.4, 2.6),
    )


_COLUMNS = 12


def _path(run: Run) -> tuple[str, Tensor]:
    solution = solve(
        run.model,
        (8, *run.data.shape),
        steps=2 * (_COLUMNS - 1),
        seed=3,
        prior=run.prior(),
        trajectory=True,
    )
    assert solution.trajectory is not None
    states = run.transform.to_pixels(solution.trajectory[::2].cpu().flatten(0, 1))
    by_sample = states.unflatten(0, (_COLUMNS, 8)).transpose(0, 1).flatten(0, 1)
    times = ", ".join(f"{float(level.t):.2g}" for level in solution.levels[::2])
    return f"t = {times}", stretch(by_sample, run.transform.levels)


def _histogram(axes: Any, bits: Bits) -> None:
    parts = (("held out", bits.digits, ACCENT), ("shuffled pixels", bits.shuffled, INK))
    parts = (*parts, ("uniform noise", bits.noise, MUTED))
    low, high = torch.cat([values for _, values, _ in parts]).clamp(min=0.1).log().aminmax()
    edges = torch.linspace(float(low), float(high), 60).exp()
    for label, values, colour in parts:
        axes.hist(values.numpy(), bins=edges.numpy(), color=colour, alpha=0.75, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("bits/dim, on a logarithmic scale")
    axes.set_ylabel("images")
    axes.legend(frameon=False)


def _curve(axes: Any, run: Run) -> None:
    axes.plot([r.step for r in run.history], [r.loss for r in run.history], color=ACCENT, lw=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
