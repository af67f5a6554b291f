"""diffusers' schedulers (Hugging Face, github.com/huggingface/diffusers).

They carry x scaled to alpha^2 + sigma^2 = 1, one `step(x0, timestep, x)` a network call. Their own
spacings end at different noise levels, so the levels of the solve are put in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.base import Levels, Method, Wiring, require
from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.tensors import lincomb
from scoresde.testing import InjectedDraws

_library = require("diffusers")


def _exact(field: Field, levels: Levels) -> Callable[[Tensor, int], Tensor]:
    def model(y: Tensor, index: int) -> Tensor:
        level = levels[index]
        return field(lincomb((level.radius(), y)), level).x0

    return model


def _constant(out: Tensor) -> Callable[[Tensor, int], Tensor]:
    return lambda y, index: out


def _by_ratios(scheduler: Any, levels: Levels) -> None:
    """Place the steps of a scheduler that keeps sigma / alpha at its steps."""
    steps = len(levels) - 1
    scheduler.set_timesteps(steps)
    ratios = [level.sigma / level.alpha for level in levels]
    scheduler.sigmas = torch.tensor(ratios, dtype=torch.float64)
    scheduler.timesteps = torch.arange(steps, 0, -1)


def _by_table(scheduler: Any, levels: Levels) -> None:
    """Place the steps of a scheduler that looks alpha^2 up by its timestep, 0 at the end."""
    count = len(levels)
    alphas = [(level.alpha / level.radius()) ** 2 for level in reversed(levels)]
    scheduler.alphas_cumprod = torch.tensor(alphas, dtype=torch.float64)
    scheduler.register_to_config(num_train_timesteps=count)
    scheduler.num_inference_steps, scheduler.timesteps = count, torch.arange(count - 1, -1, -1)


def _method(
    name: str,
    order: int,
    label: str = "",
    place: Callable[[Any, Levels], None] = _by_ratios,
    *,
    stochastic: bool = False,
    eta: float | None = None,
    **settings: Any,
) -> Method:
    kind = getattr(_library, f"{name}Scheduler")
    of_step = {} if eta is None else {"eta": eta}

    def solve(network: Any, x: Tensor, levels: Levels, noise: Noise | None) -> Tensor:
        scheduler = kind(prediction_type="sample", **settings)
        place(scheduler, levels)
        y = lincomb((1.0 / levels[0].radius(), x))
        with InjectedDraws(noise) if stochastic and noise else nullcontext():
            # not strict: a table has a timestep for the end as well
            for index, t in zip(range(len(levels) - 1), scheduler.timesteps, strict=False):
                y = scheduler.step(network(y, index), t, y, return_dict=False, **of_step)[0]
        return lincomb((levels[-1].radius(), y))

    wiring = Wiring(_exact, _constant)
    return Method("diffusers", label or name, wiring, solve, order, 1, stochastic)


_TO_T_MIN: dict[str, Any] = {"final_sigmas_type": "sigma_min"}

FLOW = (
    _method("DDIM", 1, place=_by_table, clip_sample=False),
    _method("DEISMultistep", 3, "DEIS 3", solver_order=3),
    *(
        _method(
            "DPMSolverMultistep",
            order,
            f"{title} {order}M",
            algorithm_type=algorithm,
            solver_order=order,
            **_TO_T_MIN,
        )
        for algorithm, title in (("dpmsolver", "DPM-Solver"), ("dpmsolver++", "DPM-Solver++"))
        for order in (2, 3)
    ),
    _method(
        "DPMSolverSinglestep",
        3,
        "DPM-Solver++ 3S",
        solver_order=3,
        lower_order_final=True,
        **_TO_T_MIN,
    ),
    *(
        _method(
            "UniPCMultistep",
            order,
            f"UniPC {order} {kind} of {'x0' if of_x0 else 'eps'}",
            solver_order=order,
            solver_type=kind,
            predict_x0=of_x0,
            **_TO_T_MIN,
        )
        for order in (2, 3)
        for kind in ("bh1", "bh2")
        for of_x0 in (True, False)
    ),
    _method(
        "SASolver",
        3,
        "SA-Solver 3 tau=0",
        predictor_order=3,
        corrector_order=3,
        tau_func=lambda t: 0,
    ),
)
"""What it has for the probability flow."""

REVERSE = (
    _method("DDPM", 1, place=_by_table, clip_sample=False, stochastic=True),
    _method("DDIM", 1, "DDIM eta=1", place=_by_table, clip_sample=False, stochastic=True, eta=1.0),
    *(
        _method(
            "DPMSolverMultistep",
            2,
            f"SDE-DPM-Solver++ 2M {kind}",
            stochastic=True,
            algorithm_type="sde-dpmsolver++",
            solver_type=kind,
            **_TO_T_MIN,
        )
        for kind in ("midpoint", "heun")
    ),
    *(
        _method(
            "SASolver",
            order,
            f"SA-Solver {order} tau=1",
            stochastic=True,
            predictor_order=order,
            corrector_order=order,
            tau_func=lambda t: 1,
        )
        for order in (2, 3)
    ),
)
"""What it has for the reverse SDE, at full noise."""
