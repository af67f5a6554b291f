"""Checkpoints that survive a kill at any moment, and that load without running code.

A checkpoint is a directory `step-%09d` that appears under its name at once and whole:

    model.safetensors  ema.safetensors  optim.pt  state.json  MANIFEST.json

The manifest lists the size and the SHA-256 of the other four. It is checked before anything is
loaded, and it is how the newest complete checkpoint is found: there is no pointer to go stale.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scoresde import atomic
from scoresde.atomic import CorruptCheckpoint
from scoresde.denoiser import BaseDenoiser
from scoresde.training.ema import EMA
from scoresde.training.settings import describe, require_same, warn_of_nameless

MODEL, AVERAGE, OPTIMIZER, STATE = FILES = (
    "model.safetensors",
    "ema.safetensors",
    "optim.pt",
    "state.json",
)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are untouched."""


def save(
    folder: Path | str,
    step: int,
    model: BaseDenoiser,
    ema: EMA,
    optimizer: Optimizer,
    config: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of a step, check it, and only then delete the oldest.

    Args:
        folder: the directory of a run, which is made if need be; it belongs to one run.
        step: steps taken.
        model: the denoiser in training.
        ema: its average.
        optimizer: its optimizer.
        config: the settings of the run, as JSON takes them; `load` refuses others.
        keep: how many intact checkpoints to keep, 2 at least.

    Returns:
        The checkpoint's path.

    Raises:
        CheckpointError: the disk is full or fails; the checkpoints before this are untouched.
        CorruptCheckpoint: what was read back differs; likewise.
        FileExistsError: there is an intact checkpoint of this step.
        ValueError: keep < 2.
    """
    if keep < 2:
        raise ValueError(f"keep={keep}: one checkpoint is no help if it is damaged; keep 2 or more")
    folder = Path(folder)
    target = folder / f"step-{step:09d}"
    if target.exists() and atomic.fault(target, FILES) is None:
        raise FileExistsError(f"{target}: there is an intact checkpoint of this step")
    contents = {
        MODEL: safetensors.torch.save(_tensors(model)),
        AVERAGE: safetensors.torch.save(_tensors(ema.module)),
        OPTIMIZER: _pickled(optimizer.state_dict()),
        STATE: _json(
            {
                "step": step,
                "ema_updates": int(ema.n_averaged),
                "model": describe(model),
                "config": dict(config or {}),
                "scoresde": version("scoresde"),
                "torch": torch.__version__,
            }
        ),
    }
    try:
        atomic.write(target, contents)
        intact = 0
        for old in _all(folder):
            if intact == keep:
                atomic.remove(old)
            else:
                intact += atomic.fault(old, FILES) is None
    except OSError as error:
        raise CheckpointError(
            f"{target}: saving failed: {error}; the checkpoints before it are as they were"
        ) from error
    return target


def latest(folder: Path | str) -> Path | None:
    """Return the newest intact checkpoint of a run, or None where there are none at all.

    A damaged checkpoint is passed over with a warning that names the file at fault.

    Raises:
        CorruptCheckpoint: there are checkpoints, and none is intact.
    """
    found = _all(Path(folder))
    for path in found:
        problem = atomic.fault(path, FILES)
        if problem is None:
            return path
        warnings.warn(f"damaged checkpoint passed over: {problem}", RuntimeWarning, stacklevel=2)
    if found:
        raise CorruptCheckpoint(f"{folder}: none of its {len(found)} checkpoints is intact")
    return None


def load(
    path: Path | str,
    model: BaseDenoiser,
    ema: EMA,
    optimizer: Optimizer,
    config: Mapping[str, Any] | None = None,
) -> int:
    """Restore all that `save` wrote, in place, and return the number of steps taken.

    Settings that are functions without a name of their own, such as lambdas, cannot be compared;
    a warning says which.

    Raises:
        CorruptCheckpoint: a file is missing or damaged.
        ValueError: the checkpoint is of another process, parameterisation or config, or of a
            network with other parameters; nothing is changed then.
    """
    path = Path(path)
    state = _state(path)
    expected = {"model": describe(model), "config": json.loads(_json(dict(config or {})))}
    require_same(path, expected, {name: state[name] for name in expected})
    warn_of_nameless(expected["config"])
    pairs = [(module, _matching(path / name, module)) for module, name in
             ((model, MODEL), (ema.module, AVERAGE))]  # fmt: skip
    # the optimizer checks before it changes anything, and so comes first
    optimizer.load_state_dict(torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True))
    for module, tensors in pairs:
        module.load_state_dict(tensors)
    ema.n_averaged.fill_(state["ema_updates"])
    return state["step"]


def load_model(path: Path | str, model: BaseDenoiser, *, ema: bool = True) -> int:
    """Load the weights of a checkpoint, or of the newest one of a run, and return its step.

    Args:
        path: a checkpoint, or the folder of a run.
        model: the denoiser to load into, with the process and parameterisation of the training.
        ema: load the averaged weights, else the last ones.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CorruptCheckpoint: it is damaged.
        ValueError: it is of another process or parameterisation, or of a network with other
            parameters; nothing is changed then.
    """
    path = Path(path)
    if not (path / atomic.MANIFEST).exists():
        newest = latest(path)
        if newest is None:
            raise FileNotFoundError(f"{path}: no checkpoint there, nor step-* directories with one")
        path = newest
    state = _state(path)
    require_same(path, {"model": describe(model)}, {"model": state["model"]})
    model.load_state_dict(_matching(path / (AVERAGE if ema else MODEL), model))
    return state["step"]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-" + "[0-9]" * 9), reverse=True)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    # copies, because safetensors refuses tensors that share memory, as tied weights do
    return {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}


def _state(path: Path) -> dict[str, Any]:
    problem = atomic.fault(path, FILES)
    if problem is not None:
        raise CorruptCheckpoint(problem)
    return json.loads((path / STATE).read_bytes())


def _matching(path: Path, module: nn.Module) -> dict[str, Tensor]:
    found, own = safetensors.torch.load_file(path), module.state_dict()
    problems = {
        "missing": own.keys() - found.keys(),
        "unexpected": found.keys() - own.keys(),
        "of another shape or dtype": {
            k for k in own.keys() & found.keys()
            if (own[k].shape, own[k].dtype) != (found[k].shape, found[k].dtype)
        },
    }  # fmt: skip
    told = [f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"{path} is of another network; {'; '.join(told)}")
    return found
