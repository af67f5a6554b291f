"""Points to channels and back: smaller signals of more channels, for networks of less work."""

from __future__ import annotations

from torch import Tensor


def to_channels(x: Tensor, side: int) -> Tensor:
    """Turn cubes of side^d points into channels: x (B, C, side n, ...) to (B, C side^d, n, ...)."""
    if side == 1:
        return x
    dims = x.ndim - 2
    cubes = x.reshape(*x.shape[:2], *(n for size in x.shape[2:] for n in (size // side, side)))
    within, across = range(3, 3 + 2 * dims, 2), range(2, 2 + 2 * dims, 2)
    return cubes.permute(0, 1, *within, *across).flatten(1, 1 + dims)


def to_points(x: Tensor, side: int) -> Tensor:
    """Undo `to_channels`."""
    if side == 1:
        return x
    dims = x.ndim - 2
    cubes = x.unflatten(1, (-1, *[side] * dims))
    order = (axis for k in range(dims) for axis in (2 + dims + k, 2 + k))
    return cubes.permute(0, 1, *order).reshape(*cubes.shape[:2], *(side * n for n in x.shape[2:]))
