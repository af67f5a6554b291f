"""The flags of a command, and the configuration that they start from and change."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from scoresde import config
from scoresde.config import Config
from scoresde.pretrained import locate


def parse(command: str, words: list[str]) -> Any:
    """Parse the flags of a command, with its configuration as `.config`.

    Raises:
        FileNotFoundError: there is no configuration where one is meant to be.
        ValueError: a flag or a key that does not exist, with the nearest that does or with all; a
            value of another type.
    """
    values = flags.FlagValues()
    words = _joined(words)
    given = {name: value for name, _, value in (word.partition("=") for word in words)}
    default = "runs/demo" if command == "demo" else "." if "--pretrained" in given else None
    flags.DEFINE_string("workdir", default, "folder of the run", flag_values=values)
    flags.DEFINE_integer("n", None, "samples", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "seed", lower_bound=0, flag_values=values)
    if command == "likelihood":
        flags.DEFINE_enum("format", "npz", ["npz", "parquet"], "of each row", flag_values=values)
    if command == "evaluate":
        flags.DEFINE_list("metrics", [], "names of metrics", flag_values=values)
        flags.DEFINE_string("features", None, "of the samples", flag_values=values)
    if command == "sample":
        flags.DEFINE_string("pretrained", None, "model, in place of a run", flag_values=values)
        flags.DEFINE_list("label", [], "classes", flag_values=values)
    if command == "export":
        flags.DEFINE_string("to", None, "folder of the model", flag_values=values)
    _require_known(words, (*values, "config"))
    start = _configuration(command, given)
    for flag in given:
        if flag.startswith("--config."):
            _require_key(flag.removeprefix("--config."), start)
    words = [word for word in words if not word.startswith("--config=")]
    sys.argv = ["scoresde", *words]  # where ml_collections looks for the single keys
    try:
        config_flags.DEFINE_config_dict("config", start, flag_values=values)
        unknown = values(["scoresde", *words])[1:]
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if unknown:
        raise ValueError(f"{' '.join(unknown)}: not a flag; flags are written --flag=value")
    for flag, value in given.items():
        if value == "None" and flag.startswith("--config."):  # the default again, as a file has it
            values.config.update_from_flattened_dict({flag.removeprefix("--config."): None})
    if values.workdir is None:
        raise ValueError("--workdir is missing: give a folder for the run")
    return values


def _joined(words: list[str]) -> list[str]:
    """Return the words with `--flag value` written `--flag=value`."""
    joined: list[str] = []
    for word in words:
        last = joined[-1] if joined else ""
        if last.startswith("--") and "=" not in last and not word.startswith("--"):
            joined[-1] = f"{last}={word}"
        else:
            joined.append(word)
    return joined


def _require_known(words: list[str], known: tuple[str, ...]) -> None:
    for word in words:
        name = word.lstrip("-").partition("=")[0].partition(".")[0]
        if word.startswith("--") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            nearest = f"; did you mean --{close[0]}?" if close else ""
            raise ValueError(f"{word}: no such flag{nearest}")


def _require_key(path: str, config: Config) -> None:
    """Raise ValueError unless a configuration has a key such as "train.steps"."""
    place: Any = config
    at = "config"
    for key in path.split("."):
        keys = list(place) if isinstance(place, ConfigDict) else []
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {at}.{close[0]}?" if close else f"{at} has {_listed(keys)}"
            raise ValueError(f"the configuration has no key {at}.{key}; {hint}")
        place, at = place[key], f"{at}.{key}"
    if isinstance(place, ConfigDict):
        raise ValueError(f"{at} is a group of keys; set one of {_listed(place)}")


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "no keys, but a value"


def _configuration(command: str, given: Mapping[str, str]) -> Config:
    """Return the configuration that a command starts from, before single keys are set."""
    file, workdir = given.get("--config"), given.get("--workdir")
    if command in ("demo", "train"):
        if file is None and command == "demo":
            return config.defaults()
        if file is None:
            raise ValueError("--config is missing: give a file, such as configs/vp_digits.py")
        return config.read(file)
    if file is not None:
        raise ValueError(f"--config={file}: a trained run has its own; set single keys of it")
    if "--pretrained" in given:
        return config.load(locate(given["--pretrained"]))
    if workdir is None:
        raise ValueError("--workdir is missing: give the folder of a trained run")
    return config.load(Path(workdir))
