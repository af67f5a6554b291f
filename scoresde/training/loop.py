"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from tqdm.auto import tqdm

from scoresde import atomic
from scoresde.denoiser import BaseDenoiser
from scoresde.training import checkpoint
from scoresde.training.ema import EMA
from scoresde.training.history import Meter, append_log, rewind_log
from scoresde.training.schedules import Warmup
from scoresde.training.settings import plain
from scoresde.training.signals import Preempted, Signals
from scoresde.training.step import Batch, Objective, Stepper, TrainState

LOG = "log.jsonl"

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
    max_skipped: int = 10,
    begin: Callback | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> TrainState:
    """Train a denoiser, and go on from the newest checkpoint in `workdir` where there is one.

    All of torch's randomness in step k follows from (seed, k), so a run that was stopped and
    resumed ends with the weights of one that was not, bit for bit on the same CPU. The state of
    torch's global generators and the optimizer's learning rates are afterwards what they were. With
    a workdir, SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) finish the step, save a checkpoint and raise
    `Preempted`, which exits with status 128 + the signal's number; a second one acts at once.

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
        max_skipped: how many steps in a row may be skipped because the gradient is not finite,
            which leaves the weights as they are.
        begin: called once before the first step, when it is known that the folder holds no other
            run.
        callbacks: called after every step.
        progress: show a progress bar.

    Raises:
        ValueError: arguments out of range, by name; a checkpoint of other settings, which shows
            those that differ; a batch that is empty or, in host memory, not finite.
        TypeError: not a denoiser; a batch that is no pair.
        NonFiniteLoss: more than `max_skipped` steps in a row were skipped; the checkpoints before
            are good.
        CheckpointError: a checkpoint could not be written; likewise.
        CorruptCheckpoint: there are checkpoints, and none is intact.
        Preempted: a signal asked to stop.
    """
    _check(
        model, grad_clip, steps=steps, checkpoint_every=checkpoint_every, keep=keep,
        log_every=log_every, seed=seed, max_skipped=max_skipped,
    )  # fmt: skip
    optimizer = optimizer or Adam(model.parameters(), lr=2e-4, fused=True)
    schedule = schedule or Warmup()
    state = TrainState(model.train(), EMA(model, ema_decay), optimizer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]  # not a checkpoint's
    settings = {
        "objective": plain(objective), "optimizer": _hyperparameters(optimizer),
        "schedule": plain(schedule), "ema_decay": ema_decay, "grad_clip": grad_clip,
        "amp": amp, "seed": seed, "config": dict(config or {}),
    }  # fmt: skip
    folder = _Folder(workdir, settings, keep, log_every, checkpoint_every)
    folder.resume(state, steps)
    if begin is not None:
        begin(state)
    device = next(model.parameters()).device
    amp = fast_bfloat16(device) if amp is None else amp
    stepper = Stepper(
        objective, batch, rates, schedule, grad_clip, seed, device, amp, start=state.step
    )
    try:
        _run(state, steps, stepper, folder, Meter(max_skipped), tuple(callbacks), progress)
    finally:
        stepper.schedule_rates(state, 1.0)
    return state


def _run(
    state: TrainState,
    steps: int,
    stepper: Stepper,
    folder: _Folder,
    meter: Meter,
    callbacks: tuple[Callback, ...],
    progress: bool,
) -> None:
    device = stepper.device
    ours = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with ours, Signals(enabled=folder.kept) as signals:
        bar = tqdm(range(state.step, steps), initial=state.step, total=steps, disable=not progress)
        for _ in bar:
            stepper(state, meter)
            if folder.keep(state, meter, steps):
                bar.set_postfix(loss=f"{state.history[-1].loss:.4g}")
            try:
                with signals.safe():
                    for callback in callbacks:
                        callback(state)
            except Preempted as stop:
                stop.checkpoint = folder.save(state, meter)
                raise


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


class _Folder:
    """Where a run is kept, or nowhere."""

    def __init__(
        self,
        path: Path | str | None,
        settings: Mapping[str, Any],
        keep: int,
        log_every: int,
        checkpoint_every: int,
    ) -> None:
        self._path = None if path is None else Path(path)
        self._settings, self._keep = settings, keep
        self._log_every, self._checkpoint_every = log_every, checkpoint_every
        self._newest: Path | None = None
        self._step = 0

    @property
    def kept(self) -> bool:
        """Whether the run is kept at all."""
        return self._path is not None

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

    def keep(self, state: TrainState, meter: Meter, last: int) -> bool:
        """Keep what is due after a step, and return whether that is a record."""
        recorded = _due(state.step, self._log_every, last)
        if recorded:
            record = meter.read(state.step, state.optimizer.param_groups[0]["lr"])
            state.history.append(record)
            if self._path is not None:
                append_log(self._path / LOG, record)
        if _due(state.step, self._checkpoint_every, last):
            self.save(state, meter)
        return recorded

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


def _hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    # numbers only: flags such as `fused` choose an implementation, and differ among versions
    kinds = (int, float, tuple, Tensor)
    groups = [
        {k: float(v) if isinstance(v, Tensor) else v for k, v in group.items() if type(v) in kinds}
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
        least = {"seed": 0, "keep": 2, "max_skipped": 0}.get(name, 1)
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not grad_clip > 0.0:
        raise ValueError(f"grad_clip={grad_clip} must be positive; math.inf clips nothing")
