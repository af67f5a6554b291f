"""Run configurations: `ml_collections` values that name the parts of a run by calls."""

from __future__ import annotations

import json
import runpy
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scoresde import atomic, chains, training
from scoresde.calls import build
from scoresde.data import Affine, Dataset
from scoresde.grids import Grid
from scoresde.solvers import AdaptiveSolver, Solver

T = TypeVar("T")

Config = Any
"""An `ml_collections.ConfigDict`, whose keys no type checker knows."""

LEARNED: Any = chains.VLB | chains.Hybrid
"""What trains the variances of a chain too."""

OBJECTIVE: Any = (
    training.DSM
    | training.SlicedScoreMatching
    | training.LearnedUncertainty
    | chains.VLB
    | chains.Hybrid
)
"""What a run can be trained by."""

FILE = "config.json"


def defaults() -> Config:
    """Return the run of `scoresde demo`: scikit-learn's 8x8 digits under a VP process."""
    config = ConfigDict()
    config.seed = 0
    config.data = "digits()"
    config.conditional = True  # whether the network is told the class
    config.low, config.high = -1.0, 1.0  # what grey levels are mapped to
    config.transform = placeholder(str)  # to model space, such as "Affine(scale=2.0)"; or fitted
    config.data_std = placeholder(float)  # of the data there; or measured
    config.sde = "VPSDE()"
    config.net = "MLP(hidden=256, depth=4)"
    config.predicts = "edm"
    config.time_input = "feed_log_sigma"
    config.objective = (
        "DSM(weighting=edm, times=LogNormalTimes(mean=-0.7, std=1.8), label_dropout=0.25)"
    )
    config.optim = {"lr": 2e-3, "warmup": 100, "decay": True}
    config.train = {
        "steps": 5000,
        "batch_size": 64,
        "ema_decay": 0.999,
        "grad_clip": 1.0,
        "amp": "auto",  # bfloat16: "on", "off", or where the processor is made for it
        "flip": False,  # mirror images at random
        "shift": 0,  # move images and sounds at random, by up to this along every axis
        "dequantise": True,  # grey levels uniformly over their bins; False suits the ELBO
        "checkpoint_every": 2500,
        "log_every": 50,
        "tensorboard": False,
        "sample_every": 0,  # steps between grids of samples in TensorBoard; 0 is never
    }
    config.sample = {
        "solver": "AdamsPC()",
        "grid": placeholder(str),  # such as "LogSNRGrid()"; or the default for data_std
        "steps": 20,
        "clip": False,  # keep expected grey levels in their range at every step
        "amp": "off",  # bfloat16, as for training; its rounding depends on the batch
        "batch_size": 500,
    }
    config.likelihood = {
        "method": "flow",  # or "elbo", or a chain's "vlb": of grey levels, unless dequantised
        "levels": 100,  # that either bound draws, network calls
        "clip": False,  # keep expected grey levels in their range, in either bound
        "solver": "AdamsPC()",
        "grid": placeholder(str),
        "steps": 32,
        "trace": "Flipped(Hutchinson(n=4))",
        "control_variate": False,  # whether the trace is less that of the data's Gaussian
        "batch_size": 200,
    }
    return config


def read(path: str | Path) -> Config:
    """Return the configuration that the `get_config` of a Python file makes.

    A file may start from that of another: `read(Path(__file__).with_name("other.py"))`.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it defines no `get_config`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config={path}: no such file")
    make = runpy.run_path(str(path)).get("get_config")
    if make is None:
        raise ValueError(f"config={path}: the file defines no get_config()")
    return make()


def build_at(config: Config, key: str, kind: type[T], **given: Any) -> T:
    """Build what a configuration names at a key, such as "sample.solver".

    Raises:
        ValueError: as `build`, with the key.
    """
    try:
        return build(attrgetter(key)(config), kind, **given)
    except ValueError as error:
        raise ValueError(f"config.{key}: {error}") from error


def build_data(config: Config) -> tuple[Dataset, Affine]:
    """Return the data set of a run, and the map from it to model space."""
    try:
        dataset = build_at(config, "data", Dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config.data={config.data!r}: {error}") from error
    if not len(dataset.test):
        try:
            dataset = dataset.split(0.1, seed=config.seed)
        except ValueError as error:
            raise ValueError(
                f"config.data={config.data!r} has no test data, and a tenth of it is too little "
                f"({error}); name test data of its own, as the reader's second argument"
            ) from error
    if config.transform is not None:
        return dataset, build_at(config, "transform", Affine)
    if dataset.levels is None:
        return dataset, Affine.standardise(dataset.train)
    return dataset, Affine.bins(dataset.levels, config.low, config.high)


def build_grid(config: Config, section: str) -> Grid | None:
    """Return the grid of a section of a configuration; None is the default for its data."""
    named = config[section].grid is not None
    return build_at(config, f"{section}.grid", Grid) if named else None


def solve_settings(config: Config, section: str) -> dict[str, Any]:
    """Return the solver of a section of a configuration, with its grid and steps."""
    solver = build_at(config, f"{section}.solver", Solver)
    if isinstance(solver, AdaptiveSolver):
        return {"solver": solver}
    return {"solver": solver, "grid": build_grid(config, section), "steps": config[section].steps}


def amp(config: Config, section: str) -> bool | None:
    """Return whether a section computes in bfloat16; None is where the processor is made for it."""
    words, word = {"auto": None, "on": True, "off": False}, config[section].amp
    if word not in words:
        raise ValueError(
            f"config.{section}.amp={word!r} must be one of {', '.join(map(repr, words))}"
        )
    return words[word]


def identity(config: Config, transform: Affine) -> dict[str, Any]:
    """Return what two runs must share for one to go on where the other stopped.

    Training itself compares the process, the objective and the optimizer.
    """
    names = ("data", "conditional", "low", "high", "net")
    shared = {name: config[name] for name in names} | {"transform": asdict(transform)}
    shared |= {name: config.train[name] for name in ("batch_size", "flip")}
    # keys younger than a run say nothing while they are what it had
    younger = {"dequantise": True, "shift": 0}
    return shared | {k: config.train[k] for k, old in younger.items() if config.train[k] != old}


def settle(config: Config, transform: Affine, data_std: float) -> Config:
    """Return a configuration with what was fitted to its data, for good: sums depend on threads."""
    settled = config.copy_and_resolve_references()
    settled.transform, settled.data_std = repr(transform), data_std
    return settled


def recall(config: Config, workdir: Path) -> Config:
    """Return a configuration with what a run in a folder, if it is of the same data, settled."""
    if not (workdir / FILE).is_file() or not any(workdir.glob("step-*")):
        return config
    former, recalled = load(workdir), config.copy_and_resolve_references()
    if all(former[name] == config[name] for name in ("data", "low", "high")):
        for name in ("transform", "data_std"):
            if recalled[name] is None:
                recalled[name] = former[name]
    return recalled


def save(config: Config, workdir: Path) -> None:
    """Write a configuration to a run's folder, where `load` finds it."""
    workdir.mkdir(parents=True, exist_ok=True)
    atomic.replace(workdir / FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load(workdir: Path) -> Config:
    """Return the configuration of the run in a folder.

    Keys that are younger than the run have their default, which is how runs were before.

    Raises:
        FileNotFoundError: there is no run.
        CorruptCheckpoint: its file is damaged.
    """
    path = workdir / FILE
    if not path.is_file():
        raise FileNotFoundError(f"workdir={workdir}: no {FILE} there; `scoresde train` makes it")
    remedy = "delete it; `scoresde train` with its --config, or `scoresde export`, writes it anew"
    stored = atomic.read_json(path, remedy)
    for name, former in defaults().to_dict().items():
        value = stored.setdefault(name, former)
        if isinstance(former, dict):
            if not isinstance(value, dict):
                raise atomic.CorruptCheckpoint(
                    f"{path}: {name}={value!r} is no group of keys; {remedy}"
                )
            stored[name] = former | value
    return ConfigDict(_with_unset(stored))


def _with_unset(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None as text that is not set, which a flag may set."""
    nested = {k: _with_unset(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: placeholder(str) if v is None else v for k, v in nested.items()}
