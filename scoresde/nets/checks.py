"""What networks ask of their inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def check_signal(x: Tensor, channels: int, dims: int, factor: int) -> None:
    """Hold x to (B, channels, *) with `dims` sizes that are positive multiples of a factor.

    Raises:
        ValueError: x of another shape.
    """
    if x.ndim != dims + 2 or x.shape[1] != channels:
        raise ValueError(
            f"x: shape {tuple(x.shape)} is not (B, {channels}, *) with {dims} spatial dimensions"
        )
    if not all(x.shape[2:]) or any(size % factor for size in x.shape[2:]):
        raise ValueError(
            f"x: size {tuple(x.shape[2:])} must be divisible by {factor} and not 0, for patches to "
            f"be cut and levels to halve it; pad x or build the network with fewer multipliers"
        )


def check_inputs(x: Tensor, t: Tensor) -> None:
    """Hold x to floating point, and t to one time in float32 or float64 for each of its samples.

    Raises:
        ValueError: x of another dtype; t of another shape or dtype.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"x: {x.dtype} must be floating point; give the network the data in model space, where "
            f"a transform takes them, in the dtype of its weights"
        )
    if t.shape != x.shape[:1] or t.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"t: shape {tuple(t.shape)}, {t.dtype}; pass one float32 or float64 time for each "
            f"of the {len(x)} samples"
        )
