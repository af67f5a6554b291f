"""From noise to data and back: `sample`, `solve`, `encode`, `decode`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from scoresde.denoiser import BaseDenoiser, Field, floating_dtype
from scoresde.gradients import Gradient
from scoresde.grids import Grid
from scoresde.integrate import Callback, Solution, integrate
from scoresde.noise import Noise, SeededNoise
from scoresde.sde import Prior
from scoresde.solvers import AdamsPC, Solver

STATE_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""What a state may be kept in. The range of float16 is too small for scores and velocities."""


def sample(
    model: BaseDenoiser,
    shape: Sequence[int] | None = None,
    *,
    x: Tensor | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
    cond: Mapping[str, Any] | None = None,
    prior: Prior | None = None,
    denoise: bool = True,
    state_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> Tensor:
    """Draw samples: solve from the prior at T to the data.

    Args:
        model: the denoiser.
        shape: (B, *) of the samples, whose start is drawn from the prior; or
        x: the start at T, (B, *).
        solver: how to step; `AdamsPC()` by default.
        grid: where to step; a `DensityGrid` moved to the data's deviation by default, and another,
            wider one where the solver draws noise.
        steps: number of steps, the one to sigma = 0 included; or
        nfe: budget of network calls, never exceeded. 50 steps where neither is given; adaptive
            solvers take neither.
        noise: the source of all randomness; or
        seed: its seed. Sample i of a seed is the same in every batch.
        cond: keyword arguments for the network; tensors of B rows are per sample, and all are
            moved to where the model is.
        prior: the law of the start; `model.sde.prior()` by default.
        denoise: end at sigma = 0; else at t_min, where the flow is still a bijection.
        state_dtype: of the state; by default the model's, but float32 at least.
        device: where to solve; where the model is, by default.
        callback: called after every step of a fixed grid.
        progress: show a progress bar.
        gradient: let gradients flow to x, cond and the parameters: "direct", "checkpoint" or
            "adjoint", as `Gradient` says. None builds no graph.

    Returns:
        Samples (B, *).

    Raises:
        ValueError: arguments that contradict each other or lie out of range, by name.
        SolveError: a solve that went wrong, as one of `NonFiniteState`, `StepSizeUnderflow` and
            `MaxEvaluations`; its `.x` keeps the samples that did not.
    """
    solution = solve(
        model, shape, x=x, solver=solver, grid=grid, steps=steps, nfe=nfe, noise=noise, seed=seed,
        cond=cond, prior=prior, denoise=denoise, state_dtype=state_dtype, device=device,
        callback=callback, progress=progress, gradient=gradient,
    )  # fmt: skip
    return solution.x


def solve(
    model: BaseDenoiser,
    shape: Sequence[int] | None = None,
    *,
    x: Tensor | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
    cond: Mapping[str, Any] | None = None,
    prior: Prior | None = None,
    denoise: bool = True,
    encode: bool = False,
    state_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    trajectory: bool = False,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> Solution:
    """Solve as `sample` does, and return the whole `Solution`.

    The arguments that `sample` has mean the same here; the others are

    Args:
        encode: solve from t_min to T instead, from x, by a deterministic solver.
        trajectory: keep the states at all levels of a fixed grid.

    Raises:
        ValueError, SolveError: as `sample`.
    """
    check_model(model)
    noise = noise_of(noise, seed)
    place = placement(model, x, device, state_dtype)
    if (x is None) == (shape is None):
        raise ValueError("shape, x: give the samples' shape (B, *), or the x to start from")
    if encode and x is None:
        raise ValueError(f"shape={shape}: encoding starts from data; give them as x")
    if x is not None:
        if prior is not None:
            raise ValueError("prior: nothing is drawn from it where x is given; leave it out")
        x = check_data(x, "x").to(**place)
    else:
        # the prior is a visit of its own: no draw of the solve shares its address
        z = noise.fold(-1).normal(torch.empty(_check_shape(shape), **place))
        x = (prior or model.sde.prior()).draw(z)
    with nullcontext() if gradient else torch.no_grad():
        return integrate(
            Field(model, place_cond(cond, x.device)), x, solver or AdamsPC(), noise, grid=grid,
            steps=steps, nfe=nfe, denoise=denoise, encode=encode,
            part=shape is None and not encode, callback=callback, trajectory=trajectory,
            progress=progress, gradient=gradient,
        )  # fmt: skip


def encode(
    model: BaseDenoiser,
    x: Tensor,
    *,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> Tensor:
    """Return the latent code at T of x (B, *), taken as the state at t_min, by the flow.

    `decode` inverts it, up to the error of the solver. The arguments are those of `sample`.

    Raises:
        ValueError: a stochastic solver; integer or non-finite x.
    """
    return solve(
        model, x=x, solver=solver, grid=grid, steps=steps, cond=cond, denoise=False, encode=True,
        progress=progress, gradient=gradient,
    ).x  # fmt: skip


def decode(
    model: BaseDenoiser,
    z: Tensor,
    *,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> Tensor:
    """Return the state at t_min of the latent code z (B, *) at T: the inverse of `encode`.

    Raises:
        ValueError: as `sample`.
    """
    return sample(
        model, x=z, solver=solver, grid=grid, steps=steps, cond=cond, denoise=False,
        progress=progress, gradient=gradient,
    )  # fmt: skip


def check_model(model: BaseDenoiser) -> None:
    """Refuse what is no denoiser, and a network in training mode where that makes a difference.

    Raises:
        TypeError: not a denoiser.
        ValueError: active dropout, which would make the field random, or batch normalisation by
            the statistics of the batch, which would tie samples to their batch mates.
    """
    if not isinstance(model, BaseDenoiser):
        raise TypeError(
            f"model: a {type(model).__name__} is no denoiser; wrap a network in "
            f"scoresde.Denoiser(net, sde, predicts=...), and unwrap DistributedDataParallel "
            f"(its .module), which would wait for calls of other processes"
        )
    for m in model.modules():
        if isinstance(m, _DropoutNd) and m.training and m.p > 0.0:
            raise ValueError("model: dropout is active and the network random; call model.eval()")
        if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None):
            raise ValueError(
                "model: batch normalisation takes its statistics from the batch, so samples would "
                "depend on their batch mates; call model.eval(), with track_running_stats=True"
            )


def check_data(x: Tensor, name: str) -> Tensor:
    """Return x (B, *) if it is floating and finite.

    Raises:
        ValueError: naming the argument, what is wrong and the remedy.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"{name}: dtype {x.dtype} where floats are meant; map integer data to model space "
            f"with the transform of the data set, such as scoresde.data.Affine"
        )
    if x.ndim < 2:
        raise ValueError(f"{name}: shape {tuple(x.shape)}, need (B, *) with at least two axes")
    if x.device.type != "meta" and not bool(x.isfinite().all()):
        rows = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"{name}: NaN or infinite values in {len(rows)} rows, first {rows[:8]}")
    return x


def noise_of(noise: Noise | None, seed: int | None) -> Noise:
    """Return the source that a caller gave, or one of the seed.

    Raises:
        ValueError: both are given.
    """
    if noise is not None and seed is not None:
        raise ValueError(f"seed={seed} and noise={noise}: give one of them")
    return noise or SeededNoise(seed)


def _check_shape(shape: Sequence[int] | None) -> tuple[int, ...]:
    whole = isinstance(shape, Iterable) and all(hasattr(n, "__index__") for n in shape)
    if not shape or not whole or len(shape) < 2 or any(n < (i > 0) for i, n in enumerate(shape)):
        raise ValueError(f"shape={shape} must be (B, *), with B >= 0 and positive axes after it")
    return tuple(shape)


def placement(
    model: BaseDenoiser,
    x: Tensor | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Return the device and the dtype of the state: the model's, and at least float32.

    Raises:
        ValueError: a device where the model is not; a dtype that is not one of `STATE_DTYPES`.
    """
    anchor = next(chain(model.parameters(), model.buffers()), None)
    owner = anchor if anchor is not None else x
    if device is None:
        device = torch.device("cpu") if owner is None else owner.device
    elif anchor is not None and torch.empty(0, device=device).device != anchor.device:
        raise ValueError(
            f"device={str(device)!r}: the model is on {anchor.device}; move it with model.to(...)"
        )
    if dtype is None:
        own = floating_dtype(model) or (x.dtype if x is not None else torch.get_default_dtype())
        dtype = torch.promote_types(own, torch.float32)
    elif dtype not in STATE_DTYPES:
        raise ValueError(f"state_dtype={dtype} must be one of {STATE_DTYPES}")
    return {"device": device, "dtype": dtype}


def place_cond(cond: Mapping[str, Any] | None, device: torch.device | str) -> dict[str, Any]:
    """Return the condition with its tensors on the device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in (cond or {}).items()}
