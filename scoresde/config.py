"""Run configurations: `ml_collections` values, turned into constructor calls in one place.

A configuration names an object by the call that builds it, as Python would:

    config.sde = "VPSDE(beta_max=20.0)"
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-1.2, std=1.2))"

`build` reads such a call. It takes names of this library and literals, and runs nothing else.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, TypeVar, get_args

import torch
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from torch import nn

import scoresde
from scoresde import atomic, data, nets, training
from scoresde.data import Affine, Dataset
from scoresde.denoiser import BaseDenoiser, Denoiser
from scoresde.grids import Grid
from scoresde.sde import SDE

T = TypeVar("T")

Config = Any
"""An `ml_collections.ConfigDict`, whose keys no type checker knows."""

OBJECTIVE: Any = training.DSM | training.SlicedScoreMatching | training.LearnedUncertainty
"""What a run can be trained by."""

FILE = "config.json"

_FUNCTIONS = (
    *(data.digits, data.moons, data.spirals, data.rings, data.gaussians8, data.checkerboard),
    *(data.npy, data.npz, data.idx, data.images, data.cifar10, nets.ddpm, nets.ddpmpp, nets.ncsnpp),
    *(training.sigma2, training.likelihood, training.edm, training.velocity),
    *(scoresde.feed_t, scoresde.feed_999t, scoresde.feed_log_sigma),
)


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
        "batch_size": 500,
    }
    config.likelihood = {
        "method": "flow",  # or "elbo": of grey levels themselves, unless they are dequantised
        "levels": 100,  # of the ELBO, network calls
        "solver": "AdamsPC()",
        "grid": placeholder(str),
        "steps": 32,
        "trace": "Flipped(Hutchinson(n=4))",
        "control_variate": False,  # whether the trace is less that of the data's Gaussian
        "batch_size": 200,
    }
    return config


def build(call: str, kind: type[T], **given: Any) -> T:
    """Build the object that a call names, such as "DPMSolverPP(order=3)".

    Args:
        call: a name of the library, or a call of one with literals, names and calls as arguments.
        kind: the type that the result must have.
        given: further keyword arguments of the outermost call, where its signature has them.

    Raises:
        ValueError: text that is no such call; a name or an argument that does not exist, with the
            nearest of the kind that does; a result of another type; what the constructor itself
            refuses.
    """
    try:
        tree = ast.parse(call, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{call!r} is not a call such as 'VPSDE(beta_max=20.0)'") from None
    result = _evaluate(tree, call, kind, given)
    if isinstance(result, kind):
        return result
    if isinstance(tree, ast.Name):
        raise ValueError(f"{call!r} is a name; write the call, such as '{call}()'")
    raise ValueError(f"{call!r} is a {type(result).__name__}, but a {_told(kind)} is needed")


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
    dataset = build_at(config, "data", Dataset)
    if not len(dataset.test):
        dataset = dataset.split(0.1, seed=config.seed)
    if config.transform is not None:
        return dataset, build_at(config, "transform", Affine)
    if dataset.levels is None:
        return dataset, Affine.standardise(dataset.train)
    return dataset, Affine.bins(dataset.levels, config.low, config.high)


def build_model(config: Config, dataset: Dataset, transform: Affine) -> BaseDenoiser:
    """Return the untrained denoiser of a run; its weights follow from the seed."""
    shape = dataset.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build_at(
            config,
            "net",
            nn.Module,
            shape=shape,
            channels=shape[0],
            dims=len(shape) - 1,
            num_classes=dataset.num_classes if config.conditional else None,
        )
    std = config.data_std
    if std is None:
        std = float(transform.forward(dataset.train[:10_000]).double().std())
    sde, feed = build_at(config, "sde", SDE), build_at(config, "time_input", FunctionType)
    model = Denoiser(net, sde, config.predicts, data_std=std, time_input=feed)
    uncertain = isinstance(build_at(config, "objective", OBJECTIVE), training.LearnedUncertainty)
    return training.WithUncertainty(model) if uncertain else model


def identity(config: Config, transform: Affine) -> dict[str, Any]:
    """Return what two runs must share for one to go on where the other stopped.

    Training itself compares the process, the objective and the optimizer.
    """
    names = ("data", "conditional", "low", "high", "net")
    shared = {name: config[name] for name in names} | {"transform": asdict(transform)}
    shared |= {name: config.train[name] for name in ("batch_size", "flip")}
    # runs of before there was a choice are of dequantised data, and say nothing of it
    return shared if config.train.dequantise else shared | {"dequantise": False}


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
    """
    path = workdir / FILE
    if not path.is_file():
        raise FileNotFoundError(f"workdir={workdir}: no {FILE} there; `scoresde train` makes it")
    stored = json.loads(path.read_text())
    for name, section in defaults().to_dict().items():
        if isinstance(section, dict):
            stored[name] = section | stored.get(name, {})
    return ConfigDict(_with_unset(stored))


def _with_unset(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None as text that is not set, which a flag may set."""
    nested = {k: _with_unset(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: placeholder(str) if v is None else v for k, v in nested.items()}


def _names() -> dict[str, Any]:
    """Return what a configuration may name: the library's classes and grids, and some functions."""
    modules = (scoresde, data, nets, training)
    known = {k: v for m in modules for k, v in vars(m).items() if isinstance(v, type | Grid)}
    return known | {function.__name__: function for function in _FUNCTIONS}


def _evaluate(tree: ast.expr, call: str, kind: Any, given: Mapping[str, Any]) -> Any:
    match tree:
        case ast.Name(id=name):
            return _look_up(name, call, kind)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            function = _look_up(name, call, kind)
            if not callable(function):
                raise ValueError(f"{call!r}: {name} is a value; write the name alone")
            parameters = inspect.signature(function, eval_str=True).parameters
            kinds = {argument: p.annotation for argument, p in parameters.items()}
            named = {k: v for k, v in given.items() if k in parameters}
            for argument, value in ((str(k.arg), k.value) for k in keywords):
                if argument not in parameters:
                    nearest = _nearest(argument, parameters)
                    raise ValueError(f"{call!r}: {name} has no argument {argument!r}{nearest}")
                named[argument] = _evaluate(value, call, kinds[argument], {})
            in_order = zip(args, chain(kinds.values(), repeat(object)), strict=False)
            positional = [_evaluate(value, call, kind, {}) for value, kind in in_order]
            try:
                return function(*positional, **named)
            except TypeError as error:
                raise ValueError(f"{call!r}: {error}") from error
    try:
        return ast.literal_eval(tree)
    except ValueError:
        raise ValueError(
            f"{call!r}: {ast.unparse(tree)!r} is neither a literal nor a call of the library"
        ) from None


def _look_up(name: str, call: str, kind: Any) -> Any:
    names = _names()
    if name not in names:
        wanted = [known for known, value in names.items() if _gives(value, kind)]
        of_the_kind = f"; a {_told(kind)} is needed" if isinstance(kind, type | UnionType) else ""
        nearest = _nearest(name, wanted) or of_the_kind
        raise ValueError(f"{call!r}: the library has no {name!r}{nearest}")
    return names[name]


def _gives(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind, or makes one when it is called."""
    if not isinstance(kind, type | UnionType):  # an alias, of which this is not asked
        return True
    made = value
    if isinstance(value, FunctionType):
        made = inspect.signature(value, eval_str=True).return_annotation
    return isinstance(value, kind) or (isinstance(made, type) and issubclass(made, kind))


def _told(kind: Any) -> str:
    return " or ".join(part.__name__ for part in get_args(kind) or (kind,))


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
