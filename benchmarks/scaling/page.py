"""The tables of docs/scaling.md, and the counts that they follow from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from benchmarks.scaling.counting import Count
from benchmarks.scaling.formulas import (
    A100,
    H100,
    UTILISATION,
    largest_batch,
    sampling_hours,
    seconds,
    state_bytes,
    training_hours,
    utilisation,
)
from benchmarks.scaling.stated import MULTIPLY_ADDS, PARAMETERS, SPEEDS, Speed
from benchmarks.scaling.systems import SYSTEMS
from benchmarks.tables import table
from benchmarks.titles import title
from scoresde import (
    AdamsPC,
    Ancestral,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Solver,
)

Counts = Mapping[str, Count]

SAMPLES = 50_000  # as many as a Frechet distance takes
SOLVERS: tuple[tuple[Solver, int, str], ...] = (
    (Ancestral(), 1000, "DDPM"),
    (EulerMaruyama(), 1000, "DDPM++"),
    (PredictorCorrector(correct_first=True), 1000, "NCSN++"),
    (Ancestral(), 250, "ADM, DiT"),
    (Heun(), 18, "EDM on CIFAR-10"),
    (DPMSolverPP(), 20, "Lu et al. 2022"),
    (AdamsPC(), 20, "the default here"),
)


def page(counts: Counts) -> str:
    """Return the tables."""
    parts = [
        "## A call and its gradient",
        table(
            ["", "Input", "Parameters", "GFLOP forward", "GFLOP backward", "Backward / forward"],
            (_cost(name, count) for name, count in counts.items()),
        ),
        "## Memory in training",
        table(
            ["", "Weights, GB", "State, GB", "Activations of an image, GB", "Images in 80 GB"],
            (_memory(name, count) for name, count in counts.items()),
        ),
        "## Training",
        table(
            ["", "Images, 10^6", "EFLOP", "A100-hours", "H100-hours", "Steps x batch"],
            (_training(name, count) for name, count in counts.items()),
        ),
        "## Sampling",
        table(["Solver", "Steps", "Network calls", "As in"], map(list, _calls())),
        f"H100-hours for {SAMPLES:,} images; an A100 takes {H100.peak / A100.peak:.2f} times as "
        "long:",
        table(
            ["", *(f"{calls} calls" for calls in _distinct_calls())],
            (_sampling(name, count) for name, count in counts.items()),
        ),
        "## Beside what the papers state",
        "### Parameters, in millions",
        table(
            ["", "Stated", "Here", "Here / stated"],
            (
                _beside(name, stated, counts[name].parameters / 1e6)
                for name, stated in PARAMETERS.items()
            ),
        ),
        "### Multiply-adds of a call, in 10^9",
        table(
            ["", "Stated", "Here", "Here / stated"],
            (
                _beside(name, stated, counts[name].forward / 2e9)
                for name, stated in MULTIPLY_ADDS.items()
            ),
        ),
        f"### Images a second, here at {UTILISATION:.0%} of the peak",
        table(
            ["", "On", "Stated", "Here", "Here / stated", "Share of the peak", "What is stated"],
            (_speed(speed, counts[speed.system]) for speed in SPEEDS),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _cost(name: str, count: Count) -> list[str]:
    shape = " x ".join(map(str, SYSTEMS[name].shape))
    work = (f"{flops / 1e9:,.1f}" for flops in (count.forward, count.backward))
    return [name, shape, f"{count.parameters:,}", *work, f"{count.backward / count.forward:.4f}"]


def _memory(name: str, count: Count) -> list[str]:
    sizes = 4 * count.parameters, state_bytes(count), count.activations
    return [name, *(f"{size / 1e9:.3g}" for size in sizes), f"{largest_batch(count, A100):,}"]


def _training(name: str, count: Count) -> list[str]:
    system = SYSTEMS[name]
    hours = (f"{training_hours(count, system.images, d):,.0f}" for d in (A100, H100))
    work = _rounded(system.images * count.training / 1e18)
    return [name, f"{system.images / 1e6:,.1f}", work, *hours, system.source]


def _calls() -> Iterable[tuple[str, str, str, str]]:
    for solver, steps, where in SOLVERS:
        calls = solver.nfe(steps, denoise=True)
        yield f"`{title(solver)}`", str(steps), str(calls), where


def _distinct_calls() -> list[int]:
    return sorted({solver.nfe(steps, denoise=True) for solver, steps, _ in SOLVERS}, reverse=True)


def _sampling(name: str, count: Count) -> list[str]:
    hours = (sampling_hours(count, SAMPLES, calls, H100) for calls in _distinct_calls())
    return [name, *map(_rounded, hours)]


def _beside(name: str, stated: float, here: float) -> list[str]:
    return [name, f"{stated:g}", f"{here:.2f}", f"{here / stated:.3f}"]


def _speed(speed: Speed, count: Count) -> list[str]:
    flops = speed.flops(count)
    here = speed.devices / seconds(flops, speed.device)
    share = utilisation(flops, speed.rate, speed.device, speed.devices)
    kind = f"{speed.calls} calls" if speed.calls else "training"
    return [
        f"{speed.system}, {kind}",
        f"{speed.devices} x {speed.device.name}",
        _rounded(speed.rate),
        _rounded(here),
        f"{here / speed.rate:.2f}",
        f"{share:.0%}",
        speed.source,
    ]


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def as_json(counts: Counts) -> str:
    """Return counts as JSON."""
    return json.dumps({name: count._asdict() for name, count in counts.items()}, indent=1) + "\n"


def from_json(text: str) -> dict[str, Count]:
    """Return the counts that `as_json` wrote."""
    return {name: Count(**values) for name, values in json.loads(text).items()}
