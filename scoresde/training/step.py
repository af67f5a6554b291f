"""One step of training: its randomness, its batch, its loss and its update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from scoresde.denoiser import BaseDenoiser
from scoresde.training.ema import EMA
from scoresde.training.history import Meter, Record

Batch = Callable[[int], tuple[Tensor, Mapping[str, Any] | None]]
"""Step k = 0, 1, ... to data (B, *) and the condition: a function of k alone, so that a resumed
run sees what it would have seen. Torch's global generators are seeded from (seed, k) when it is
called; those of NumPy and Python are not."""

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


@dataclass(frozen=True)
class Stepper:
    """What every step of a run is taken with.

    Attributes:
        objective: the loss.
        batch: the data of each step.
        rates: the optimizer's learning rates, one a group.
        schedule: factor of them at step k.
        grad_clip: largest norm of the gradient.
        seed: of all randomness.
        device: the model's.
        amp: whether the network computes in bfloat16.
        start: the first step taken, whose batch shows whether the data have the model's scale.
    """

    objective: Objective
    batch: Batch
    rates: list[float]
    schedule: Callable[[int], float]
    grad_clip: float
    seed: int
    device: torch.device
    amp: bool
    start: int

    def __call__(self, state: TrainState, meter: Meter) -> None:
        """Take a step, and note its loss and gradient norm where they were computed.

        Raises:
            ValueError: a batch that is empty or, in host memory, not finite.
            TypeError: a batch that is no pair.
        """
        self.schedule_rates(state, self.schedule(state.step))
        generator = _seed(self.seed, state.step, self.device)
        x0, cond = _check_batch(self.batch(state.step), state.step)
        if state.step == self.start:
            _check_scale(x0, state.model.data_std)
        x0, cond = _move(x0, cond, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.objective(state.model, x0, generator, cond)
        meter.add(loss.detach(), _update(state, loss, self.grad_clip), len(x0))

    def schedule_rates(self, state: TrainState, factor: float) -> None:
        """Set the optimizer's learning rates to a multiple of those that it came with."""
        for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor


def _seed(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Seed the global generators for a step, and return another for the objective."""
    ours, theirs = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64).tolist()
    # not torch.manual_seed, which takes 0.3 ms to look for devices
    torch.default_generator.manual_seed(theirs)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(theirs)
    return torch.Generator(device).manual_seed(ours)


def _check_batch(
    given: tuple[Tensor, Mapping[str, Any] | None], step: int
) -> tuple[Tensor, Mapping[str, Any] | None]:
    if not (isinstance(given, Sequence) and len(given) == 2):
        raise TypeError(
            f"batch({step}): a {type(given).__name__} is no pair; return (x0, cond), with None for "
            f"no condition"
        )
    x0, cond = given
    if not x0.numel():
        raise ValueError(f"batch({step}): shape {tuple(x0.shape)} holds no data")
    if x0.device.type == "cpu" and not bool(x0.isfinite().all()):
        rows = (~x0.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"batch({step}): NaN or infinite values in {len(rows)} of {len(x0)} rows, first "
            f"{rows[:8]}; remove or impute them"
        )
    return x0, cond


def _check_scale(x0: Tensor, data_std: float) -> None:
    """Warn unless data deviate by what the model expects, within a factor of 5, or not at all."""
    x = x0.double()
    std, low, high = (float(value) for value in (x.std(correction=0), x.min(), x.max()))
    if std > 0.0 and not 0.2 < std / data_std < 5.0:
        warnings.warn(
            f"the data of the first batch span {low:.4g} to {high:.4g} with a deviation of "
            f"{std:.4g}, but the model has data_std={data_std:.4g}: map them to model space, with "
            f"scoresde.data.Affine for one, or give the denoiser their data_std",
            UserWarning,
            stacklevel=4,
        )


def _move(
    x0: Tensor, cond: Mapping[str, Any] | None, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    moved = {
        k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v
        for k, v in (cond or {}).items()
    }
    return x0.to(device, non_blocking=True), moved


def _update(state: TrainState, loss: Tensor, grad_clip: float) -> Tensor:
    """Update the weights and their average, and return the norm of the gradient.

    A loss or a gradient that is not finite leaves the weights and the optimizer as they are. Fused
    optimizers see to that on the device; others wait for it.
    """
    scaler = GradScaler(loss.device.type, init_scale=1.0)
    state.optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), grad_clip)
    # the scaler looks at the gradients alone, and those of an infinite norm are clipped to 0
    sound = torch.where((norm + loss.detach()).isfinite(), 1.0, math.nan)
    next(p.grad for p in state.model.parameters() if p.grad is not None).mul_(sound)
    scaler.unscale_(state.optimizer)
    scaler.step(state.optimizer)
    state.ema.update_parameters(state.model)
    state.step += 1
    return norm
