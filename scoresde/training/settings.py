"""What a run is made of, as plain values: told, compared, and named where they differ."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.denoiser import BaseDenoiser, Denoiser


def describe(model: BaseDenoiser) -> dict[str, Any]:
    """Return what must agree between a checkpoint and a model, apart from the parameters.

    The levels of the process, and what the network is fed there, are told in numbers: functions
    of different content may have one name.
    """
    times = np.linspace(model.sde.t_min, model.sde.T, 9).tolist()
    levels = [model.sde.level(t) for t in times]
    told: dict[str, Any] = {
        "sde": plain(model.sde),
        "data_std": model.data_std,
        "t": times,
        "alpha": [float(level.alpha) for level in levels],
        "sigma": [float(level.sigma) for level in levels],
    }
    # in a wrapper too
    own = next((part for part in model.modules() if isinstance(part, Denoiser)), None)
    if own is not None:
        told |= {"predicts": own.predicts, "time_input": plain(own.time_input)}
        told["fed"] = [float(own.time_input(level)) for level in levels]
    return told


def plain(value: object) -> str:
    """Return the repr of a value without addresses in memory: the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def require_same(path: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise ValueError, with every setting that differs, unless those found are as expected."""
    wanted, given = _flat(expected), _flat(found)
    lines = [
        f"  {key}: expected {wanted.get(key)!r}, found {given.get(key)!r}"
        for key in sorted(wanted.keys() | given.keys())
        if not _same(wanted.get(key), given.get(key))
    ]
    if lines:
        head, tail = f"{path} is of another run:", "use what was found there, or another folder"
        raise ValueError("\n".join([head, *lines, tail]))


def warn_of_nameless(config: Mapping[str, Any]) -> None:
    """Warn of settings that are functions without a name of their own: they cannot be compared."""
    for key, value in _flat(config).items():
        if isinstance(value, str) and re.search("<lambda>|<locals>| object>", value):
            warnings.warn(
                f"{key}={value!r} has no name of its own, so it is not known whether it is that "
                f"of the checkpoint; give a function of a module, or a dataclass",
                RuntimeWarning,
                stacklevel=3,
            )


def _same(a: Any, b: Any) -> bool:
    """Return whether two settings agree, floats but for what another processor rounds otherwise."""
    match a, b:
        case float(), float():
            return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-15)
        case list(), list():
            return len(a) == len(b) and all(map(_same, a, b))
        case dict(), dict():
            return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return a == b


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
