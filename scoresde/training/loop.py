"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from tqdm.auto import tqdm

from scoresde.denoiser import BaseDenoiser
from scoresde.training import atomic, checkpoint
from scoresde.training.ema import EMA
from scoresde.training.history import Meter, Record, append_log, rewind_log
from scoresde.training.schedules import Warmup
from scoresde.training.signals import Preempted, Signals

LOG = "log.jsonl"

Batch = Callable[[int], tuple[Tensor, Mapping[str, Any] | None]]
"""Step k = 0, 1, ... to data (B, *) and the condition: a function of k alone, so that a resumed
run sees what it would have seen. The global generators are seeded from (seed, k) when it is
called."""

Objective = Callable[[BaseDenoiser, Tensor, torch.Generator, Mapping[str, Any] | None], Tensor]
"""(model, x0, generator, cond) to a loss that is random by the generator alone; such as `DSM`."""


@dataclass
class TrainState:
    """A run, as `train` returns it and as callbacks see it.

    Attributes:
        model: the denoiser in training.
        ema: its average; `ema.module` is the denoiser to sample with.
        optimizer: the optimizer.
        step: steps taken.
        history: the records so far, of earlier runs in the same folder too.
    """

    model: BaseDenoiser
    ema: EMA
    optimizer: Optimizer
    step: int = 0
    history: list[Record] = field(default_factory=list)


Callback = Callable[[TrainState], None]
"""Called after every step; it may look at the state, but changes nothing in it."""


def train(
    model: BaseDenoiser,
    objective: Objective,
    batch: Batch,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    ema_decay: float = 0.9999,
    grad_clip: float = 1.0,
    amp: bool | None = None,
    seed: int = 0,
    workdir: Path | str | None = None,
    config: Mapping[str, Any] | None = None,
    checkpoint_every: int = 5000,
    keep: int = 2,
    log_every: int = 100,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> TrainState:
    """Train a denoiser, and go on from the newest checkpoint in `workdir` where there is one.

    All randomness of step k follows from (seed, k), so a run that was stopped and resumed ends
    with the weights of one that was not, bit for bit on the same CPU. The state of torch's global
    generators is afterwards what it was. With a workdir, SIGTERM and SIGUSR1 finish the step, save
    a checkpoint and raise `Preempted`, which exits with status 128 + the signal's number.

    Args:
        model: the denoiser; it trains in place, where it is.
        objective: the loss, such as `DSM()`.
        batch: the data of each step.
        steps: steps to take in all, those of earlier runs included.
        optimizer: by default Adam with a learning rate of 2e-4.
        schedule: factor of the optimizer's learning rate at step k; `Warmup(1000)` by default.
        ema_decay: final decay of the average of the weights.
        grad_clip: largest norm of the gradient; math.inf for no clipping.
        amp: compute the network in bfloat16, by torch.autocast; None does so where the processor
            is made for it.
        seed: of all randomness in training.
        workdir: folder for checkpoints and log.jsonl; None keeps nothing.
        config: further settings, as JSON takes them, that a resumed run must share.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        keep: how many checkpoints to keep.
        log_every: steps between records; the last step has one.
        callbacks: called after every step.
        progress: show a progress bar.

    Raises:
        ValueError: arguments out of range, by name; a checkpoint of other settings, which shows
            those that differ.
        TypeError: not a denoiser.
        NonFiniteLoss: the loss or its gradient is not finite; the checkpoints before are good.
        CheckpointError: a checkpoint could not be written; likewise.
        CorruptCheckpoint: there are checkpoints, and none is intact.
        Preempted: a signal asked to stop.
    """
    _check(
        model, grad_clip, steps=steps, checkpoint_every=checkpoint_every, keep=keep,
        log_every=log_every, seed=seed,
    )  # fmt: skip
    optimizer = optimizer or Adam(model.parameters(), lr=2e-4, fused=True)
    schedule = schedule or Warmup()
    state = TrainState(model.train(), EMA(model, ema_decay), optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]  # before a checkpoint's are loaded
    settings = {
        "objective": checkpoint.plain(objective), "optimizer": _hyperparameters(optimizer),
        "schedule": checkpoint.plain(schedule), "ema_decay": ema_decay, "grad_clip": grad_clip,
        "amp": amp, "seed": seed, "config": dict(config or {}),
    }  # fmt: skip
    folder = _Folder(workdir, settings, keep)
    folder.resume(state, steps)
    device = next(model.parameters()).device
    amp = fast_bfloat16(device) if amp is None else amp
    callbacks, meter = tuple(callbacks), Meter()
    ours = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with ours, Signals(enabled=workdir is not None) as signals:
        bar = tqdm(range(state.step, steps), initial=state.step, total=steps, disable=not progress)
        for step in bar:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
            generator = _seed(seed, step, device)
            x0, cond = _move(*batch(step), device)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                loss = objective(model, x0, generator, cond)
            meter.add(loss.detach(), _update(state, loss, grad_clip), len(x0))
            if _due(state.step, log_every, steps):
                record = meter.read(state.step, optimizer.param_groups[0]["lr"])
                bar.set_postfix(loss=f"{record.loss:.4g}")
                folder.log(state, record)
            if _due(state.step, checkpoint_every, steps):
                folder.save(state, meter)
            try:
                with signals.safe():
                    for callback in callbacks:
                        callback(state)
            except Preempted as stop:
                stop.checkpoint = folder.save(state, meter)
                raise
    return state


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether a processor computes in bfloat16 itself; others emulate it, ten times slower.

    CUDA devices from compute capability 8.0 do, and CPUs with AMX or AVX512-BF16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and cpu


def _update(state: TrainState, loss: Tensor, grad_clip: float) -> Tensor:
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), grad_clip)
    state.optimizer.step()
    state.ema.update_parameters(state.model)
    state.step += 1
    return norm


class _Folder:
    """Where a run is kept, or nowhere."""

    def __init__(self, path: Path | str | None, settings: Mapping[str, Any], keep: int) -> None:
        self._path = None if path is None else Path(path)
        self._settings, self._keep = settings, keep
        self._newest: Path | None = None
        self._step = 0

    def resume(self, state: TrainState, steps: int) -> None:
        """Restore the newest checkpoint, where there is one, and the records up to it."""
        if self._path is None:
            return
        self._path.mkdir(parents=True, exist_ok=True)
        self._newest = checkpoint.latest(self._path)
        if self._newest is not None:
            state.step = self._step = checkpoint.load(
                self._newest, state.model, state.ema, state.optimizer, self._settings
            )
        if state.step > steps:
            raise ValueError(f"steps={steps}: {self._newest} has taken {state.step} already")
        atomic.clean(self._path)
        state.history = rewind_log(self._path / LOG, state.step)

    def log(self, state: TrainState, record: Record) -> None:
        """Keep a record."""
        state.history.append(record)
        if self._path is not None:
            append_log(self._path / LOG, record)

    def save(self, state: TrainState, meter: Meter) -> Path | None:
        """Return the checkpoint of this step, written if it is not yet, and sound if it is."""
        if self._path is not None and self._step < state.step:
            meter.check(state.step)
            self._newest = checkpoint.save(
                self._path, state.step, state.model, state.ema, state.optimizer, self._settings,
                keep=self._keep,
            )  # fmt: skip
            self._step = state.step
        return self._newest


def _seed(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Seed the global generators for a step, and return another for the objective."""
    ours, theirs = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64).tolist()
    # not torch.manual_seed, which takes 0.3 ms to look for devices
    torch.default_generator.manual_seed(theirs)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(theirs)
    return torch.Generator(device).manual_seed(ours)


def _move(
    x0: Tensor, cond: Mapping[str, Any] | None, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    moved = {
        k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v
        for k, v in (cond or {}).items()
    }
    return x0.to(device, non_blocking=True), moved


def _hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    # numbers only: flags such as `fused` choose an implementation, and differ among versions
    groups = [
        {name: value for name, value in group.items() if type(value) in (int, float, tuple)}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, "groups": groups}


def _check(model: BaseDenoiser, grad_clip: float, **counts: int) -> None:
    if not isinstance(model, BaseDenoiser):
        raise TypeError(
            f"model: a {type(model).__name__} is no denoiser; wrap a network in "
            f"scoresde.Denoiser(net, sde, predicts=...)"
        )
    for name, value in counts.items():
        least = {"seed": 0, "keep": 2}.get(name, 1)
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not grad_clip > 0.0:
        raise ValueError(f"grad_clip={grad_clip} must be positive; math.inf clips nothing")
