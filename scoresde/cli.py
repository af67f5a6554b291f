"""The command line: `scoresde demo | train | sample | likelihood | evaluate | export | check`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

USAGE = """usage: scoresde COMMAND [--flag=value ...]

  demo         train on 8x8 digits, sample three ways, measure bits/dim, write a report
  train        train the run of a configuration, or go on where it stopped
  sample       draw from a trained run, or from a model that comes with the package, into
               samples.npz and samples.png
  likelihood   bits/dim of a trained run on its test data, into likelihood.json and .npz or
               .parquet; goes on where it stopped, and torchrun shares it between processes
  evaluate     metrics of samples of a trained run against its test data, into metrics.json
  export       write the model of a trained run as a folder that needs no data to draw from
  check        hold a solver, a process or a sampling loop to its contract: its orders, laws, ...

  --config=FILE         configuration of train and demo, such as configs/vp_digits.py
  --config.KEY=VALUE    a setting in place of the configuration's
  --workdir=FOLDER      where the run is kept
  --pretrained=NAME     model to draw from, without a run or data: fashion, or an exported folder;
                        --workdir is where samples go then, and the current folder by default
  --label=NAME,NAME     classes to draw, by name or number, in turn; all by default
  --to=FOLDER           where export writes
  --n=NUMBER            how many samples to draw, or test samples to measure, taken at random
  --seed=NUMBER         of sampling and of trace probes
  --metrics=NAME,NAME   of evaluate: frechet, frechet_infinity, kid, precision_recall,
                        density_coverage, sliced, energy, mmd, c2st
  --features=NAME       what it compares: classifier, trained on the data; digits; none
  --format=npz|parquet  of the likelihoods of each sample
  --order=NUMBER        what a sampling loop is held to by check, which it cannot say itself;
  --evals=NUMBER        its network calls a step;
  --stochastic          that it draws noise
  --operations=NUMBER   tensor operations that a solver may take for a network call; 6

  scoresde train --config=configs/vp_digits.py --workdir=runs/digits --config.optim.lr=1e-3
  scoresde sample --workdir=runs/digits --n=64 --config.sample.solver='DDIM(eta=1.0)'
  scoresde sample --pretrained=fashion --label=Coat,Sneaker
  scoresde check mypackage.solvers:MySolver
  scoresde demo --config.train.steps=1000       a shorter run
"""


def main() -> int:
    """Run the command of `sys.argv`; return the exit status.

    0; 1 for a check that fails; 2 for an error in the words or in what they name; 128 + the number
    of a signal that stopped it, so 130 for Ctrl-C.
    """
    commands: dict[str, Callable[[Any], None]] = {
        "demo": _demo,
        "train": _train,
        "sample": _sample,
        "likelihood": _likelihood,
        "evaluate": _evaluate,
        "export": _export,
    }
    words = sys.argv[1:]
    if not words or words[0] == "help" or {"--help", "-h"} & set(words):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] not in (*commands, "check"):
        known = ", ".join((*commands, "check"))
        print(f"scoresde: no command {words[0]!r}; one of {known}", file=sys.stderr)
        return 2
    try:
        if words[0] == "check":
            return _check(words[1:])
        _run(commands[words[0]], words)
    except KeyboardInterrupt:
        print(f"\nscoresde {words[0]}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    # what a user can mend: arguments and data, files, missing extras; and failed solves and runs
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"scoresde {words[0]}: {error}", file=sys.stderr)
        return 2
    return 0


def _run(command: Callable[[Any], None], words: list[str]) -> None:
    from scoresde.flags import parse
    from scoresde.training import Preempted

    try:
        command(parse(words[0], words[1:]))
    except Preempted as stop:
        told = f"stopped; the same command goes on from {stop.checkpoint}"
        print(f"\nscoresde {words[0]}: {told}", file=sys.stderr)
        raise


def _demo(flags: Any) -> None:
    from scoresde.demo import demo

    print(f"report: {demo(flags.config, Path(flags.workdir))}")


def _train(flags: Any) -> None:
    from scoresde.run import train_run

    run = train_run(flags.config, Path(flags.workdir))
    loss = f", loss {run.history[-1].loss:.4g}" if run.history else ""
    print(f"trained {flags.config.train.steps} steps{loss}")


def _sample(flags: Any) -> None:
    import io

    import numpy as np

    from scoresde.atomic import replace
    from scoresde.pretrained import draw, load
    from scoresde.report import png, require, stretch
    from scoresde.run import device, load_run

    folder = Path(flags.workdir)
    if flags.pretrained is None:
        trained = load_run(folder, flags.config).trained()
    else:
        trained = load(flags.pretrained, flags.config, device=device())
        folder.mkdir(parents=True, exist_ok=True)
    labels = [trained.label(name) for name in flags.label]
    x, nfe = draw(trained, flags.n or 64, flags.seed, labels=labels or None)
    packed = io.BytesIO()
    np.savez_compressed(packed, samples=x.numpy())
    replace(folder / "samples.npz", packed.getvalue())
    print(f"{len(x)} samples, {nfe} network calls each: {folder / 'samples.npz'}")
    levels = trained.transform.levels
    if levels is not None and trained.shape[:-2] in ((1,), (3,)):
        try:
            require("PIL")
        except ImportError as error:
            print(f"no picture: {error}")
            return
        replace(folder / "samples.png", png(stretch(x[:64], levels)))
        print(f"the first {min(len(x), 64)}: {folder / 'samples.png'}")


def _likelihood(flags: Any) -> None:
    from scoresde.atomic import replace
    from scoresde.likelihood import save_columns, summary
    from scoresde.measure import law, measure_all
    from scoresde.report import require
    from scoresde.run import load_run

    if flags.format == "parquet":
        require("pyarrow")
    folder = Path(flags.workdir)
    run = load_run(folder, flags.config)
    columns = measure_all(run, run.held_out(flags.n), folder / "likelihood", flags.seed)
    if columns is None:
        print("done with this process's share; the last one to finish writes the results")
        return
    save_columns(folder / f"likelihood.{flags.format}", columns)
    text = json.dumps({"law": law(run)} | summary(columns), indent=2)
    replace(folder / "likelihood.json", text + os.linesep)
    print(text)


def _evaluate(flags: Any) -> None:
    from scoresde.atomic import replace
    from scoresde.evaluate import evaluate
    from scoresde.run import load_run

    folder = Path(flags.workdir)
    run = load_run(folder, flags.config)
    found = evaluate(
        run,
        flags.n,
        metrics=flags.metrics,
        features=flags.features,
        seed=flags.seed,
        keep=folder / "classifier.safetensors",
    )
    replace(folder / "metrics.json", json.dumps(found.to_dict(), indent=2) + os.linesep)
    print(found.table())


def _export(flags: Any) -> None:
    from scoresde.pretrained import save
    from scoresde.run import load_run

    if flags.to is None:
        raise ValueError("--to is missing: give a folder for the model")
    save(load_run(Path(flags.workdir), flags.config).trained(), flags.to)
    print(f"scoresde sample --pretrained={flags.to}")


def _check(words: list[str]) -> int:
    from absl import flags

    from scoresde.sde import SDE
    from scoresde.testing import check_process, check_solver

    values = flags.FlagValues()
    flags.DEFINE_integer("order", None, "of a loop", flag_values=values)
    flags.DEFINE_integer("evals", None, "of a loop", flag_values=values)
    flags.DEFINE_boolean("stochastic", None, "of a loop", flag_values=values)
    flags.DEFINE_integer("operations", 6, "of a step", lower_bound=1, flag_values=values)
    try:
        targets = values(["scoresde", *words])[1:]
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if len(targets) != 1:
        raise ValueError("name one thing to check, as package.module:Name")
    given = {key: values[key].value for key in ("order", "evals", "stochastic")}
    subject = _subject(targets[0], {key: v for key, v in given.items() if v is not None})
    if isinstance(subject, SDE):
        report = check_process(subject)
    else:
        report = check_solver(subject, operations=values.operations)
    print(report)
    return 1 if report.failed else 0


def _subject(target: str, declared: dict[str, Any]) -> Any:
    """Return what package.module:Name names, as something that can be checked.

    Raises:
        ValueError: a target that names nothing, or nothing that can be checked; flags that say of
            a loop what a solver or a process says itself.
    """
    from scoresde.sde import SDE
    from scoresde.solvers import Solver
    from scoresde.testing import Sampler

    place, _, name = target.partition(":")
    if not (place and name):
        raise ValueError(f"{target}: write package.module:Name, such as scoresde:DDIM")
    sys.path.insert(0, os.getcwd())  # modules beside the user are found, as by `python -m`
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise ImportError(f"{target}: {error}") from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, dir(module), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{target}: no {name} in {place}{hint}")
    found = _instance(getattr(module, name), target)
    takes = len(inspect.signature(found).parameters) if inspect.isfunction(found) else 0
    if takes == 4:
        return Sampler(found, **declared)
    if not isinstance(found, Solver | SDE | Sampler) and takes != 1:
        raise ValueError(
            f"{target}: {found!r:.60} is no solver, no process, no function of "
            f"(field, x, levels, noise), and none from the number of steps to a solver"
        )
    if declared:
        raise ValueError(f"--{next(iter(declared))}: {target} says that itself; leave it out")
    return found


def _instance(found: Any, target: str) -> Any:
    """Return an instance of a class that has one without arguments, and all else as it is."""
    if not isinstance(found, type):
        return found
    try:
        return found()
    except TypeError as error:
        raise ValueError(f"{target}: {error}; name an instance instead") from None


if __name__ == "__main__":
    sys.exit(main())
