"""A founding system: trained, sampled, and measured beside training data."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde import AdamsPC, atomic
from scoresde.chains import GeometricSigmas, Respaced, annealed_langevin, best_step
from scoresde.config import read, solve_settings
from scoresde.data import Dataset
from scoresde.likelihood import fingerprint, summary
from scoresde.measure import measure_all
from scoresde.metrics import (
    Embedding,
    Estimate,
    Features,
    classifier_features,
    frechet_distance,
    kid,
)
from scoresde.pretrained import draw
from scoresde.report import png, stretch
from scoresde.run import Run, train_run

CONFIGS = Path(__file__).parents[2] / "configs"
CALLS = (10, 50, 1000)
DEFAULT_CALLS = 20
SAMPLES = 300
MEASURED = 400


class System(NamedTuple):
    """A founding system.

    Attributes:
        title: what tables call it.
        likelihood: whether it has one: NCSN's paper bounds none.
    """

    title: str
    likelihood: bool


SYSTEMS = {
    "ddpm_fashion": System("DDPM", likelihood=True),
    "iddpm_fashion": System("Improved DDPM", likelihood=True),
    "ncsnv2_fashion": System("NCSNv2", likelihood=False),
    "score_sde_vp_fashion": System("score SDE, VP", likelihood=True),
    "score_sde_ve_fashion": System("score SDE, VE", likelihood=True),
}
"""The systems, by their file in configs/."""


class Cell(NamedTuple):
    """Samples of one sampler against the test data.

    Attributes:
        sampler: "own", or "default", that of `scoresde.sample`.
        calls: the budget of network calls.
        frechet: the Frechet distance.
        kid: the kernel distance.
    """

    sampler: str
    calls: int
    frechet: Estimate
    kid: Estimate


@dataclass(frozen=True)
class Result:
    """What was measured of a system.

    Attributes:
        name: of its file in configs/.
        steps: of its training, each of `batch` images.
        batch: images a step.
        parameters: of its network.
        cells: its samples.
        bits: the summary of its likelihoods, or None.
    """

    name: str
    steps: int
    batch: int
    parameters: int
    cells: tuple[Cell, ...]
    bits: dict[str, float | None] | None


@dataclass(frozen=True)
class Yardstick:
    """What samples are compared with.

    Attributes:
        features: a classifier's, trained on the training data.
        test: the features of all test data.
        floor: as many training data as there are samples, against the test data.
    """

    features: Features
    test: Embedding
    floor: Cell

    def cell(self, sampler: str, calls: int, x: Tensor) -> Cell:
        """Compare samples (N, *) with the test data."""
        return _cell(sampler, calls, self.features(x), self.test)


def yardstick(data: Dataset, folder: Path, n: int) -> Yardstick:
    """Return what n samples are compared with; the classifier is trained once a folder."""
    assert data.train_labels is not None
    kept = folder / "classifier.safetensors"
    features = classifier_features(data.train, data.train_labels, keep=kept)
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:n]
    test = features(data.test)
    floor = _cell("training data", 0, features(data.train[rows]), test)
    return Yardstick(features, test, floor)


def measure(
    name: str,
    stick: Yardstick,
    folder: Path,
    *,
    n: int = SAMPLES,
    steps: int | None = None,
    calls: Sequence[int] = CALLS,
    measured: int = MEASURED,
    pictures: Path | None = None,
) -> Result:
    """Train a system, or go on, and measure n samples for each budget and some likelihoods.

    Args:
        name: of `SYSTEMS`.
        stick: what samples are compared with.
        folder: of all systems; other numbers of steps have folders of their own.
        n: samples for each budget.
        steps: of training; those of the configuration by default.
        calls: budgets of network calls for the system's own sampler.
        measured: test images whose likelihood is measured.
        pictures: where a grid of samples is written, from the largest budget.
    """
    config, home = read(CONFIGS / f"{name}.py"), folder / name
    if steps is not None:
        config.train.steps, home = steps, folder / f"{name}-{steps}"
        config.optim.warmup = min(config.optim.warmup, steps)
    run = train_run(config, home)
    wanted = [("own", budget, own(run, budget)) for budget in calls]
    wanted.append(("default", DEFAULT_CALLS, {"solver": AdamsPC(), "nfe": DEFAULT_CALLS}))
    cells = []
    for sampler, budget, settings in wanted:
        x = drawn(run, home / f"{sampler}-{budget}-{n}-{_digest(run, settings)}.npy", n, settings)
        cells.append(stick.cell(sampler, budget, x))
        if pictures is not None and (sampler, budget) == ("own", max(calls)):
            image = png(stretch(x[:64], run.transform.levels), scale=2)
            (pictures / f"{name}.png").write_bytes(image)
    bits = None
    if SYSTEMS[name].likelihood:
        columns = measure_all(run, run.held_out(measured), home / "likelihood")
        bits = None if columns is None else summary(columns)
    parameters = sum(p.numel() for p in run.model.parameters())
    chosen = config.train
    return Result(name, chosen.steps, chosen.batch_size, parameters, tuple(cells), bits)


def own(run: Run, calls: int) -> dict[str, Any]:
    """Return the settings of a system's own sampler for a budget of network calls."""
    chosen = solve_settings(run.config, "sample")
    if isinstance(run.model.sde, GeometricSigmas):
        return langevin(run.model.sde, calls)
    return {"solver": chosen["solver"], "grid": chosen["grid"], "nfe": calls}


def langevin(sde: GeometricSigmas, calls: int) -> dict[str, Any]:
    """Return NCSNv2's sampler for a budget: levels five times each, but nine levels at least.

    The step is that of technique 4 for the levels and corrections that are left; what is left of
    the budget when all levels are visited goes into more corrections.
    """
    levels = min(sde.n, max(9, (calls - 1) // 5))
    corrections = max(1, (calls - 1) // levels)
    ratio = math.exp((sde.lams[0] - sde.lams[-1]) / (levels - 1))
    solver = annealed_langevin(best_step(ratio, corrections), corrections)
    return {"solver": solver, "grid": Respaced(), "steps": levels}


def drawn(run: Run, path: Path, n: int, settings: dict[str, Any]) -> Tensor:
    """Return the samples of a file, which are drawn if there is none."""
    if not path.is_file():
        x, _ = draw(run.trained(), n, **settings)
        buffer = io.BytesIO()
        np.save(buffer, x.numpy())
        atomic.replace(path, buffer.getvalue())
    return torch.from_numpy(np.load(path))


def _digest(run: Run, settings: dict[str, Any]) -> str:
    """Return the hash of the weights and of how samples are drawn, the code of solvers aside."""
    told = f"{fingerprint(run.model)} {settings} {run.config.sample}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _cell(sampler: str, calls: int, x: Embedding, reference: Embedding) -> Cell:
    return Cell(sampler, calls, frechet_distance(x, reference), kid(x, reference))
