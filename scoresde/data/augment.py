"""Random changes that leave an image of the same kind: functions of the batch and a generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (B, *, W) left to right with probability 1/2."""
    one_each = (len(x), *[1] * (x.ndim - 1))
    flip = torch.rand(one_each, generator=generator, device=generator.device) < 0.5
    return torch.where(flip.to(x.device), x.flip(-1), x)


def random_crop(
    x: Tensor, size: Sequence[int], generator: torch.Generator, *, padding: int = 0
) -> Tensor:
    """Cut each of (B, C, *) at a place of its own, uniformly drawn: shape (B, C, *size).

    Beyond its edges, up to `padding`, the data go on as in a mirror that does not repeat the edge.
    With the size of the data themselves it moves them by up to `padding` along every axis.

    Args:
        x: sounds (B, C, L), images (B, C, H, W) or volumes (B, C, D, H, W).
        size: of the result along the axes after the channels.
        generator: the source of the places.
        padding: how far a cut may reach beyond each edge.

    Raises:
        ValueError: `size` has another number of axes or does not fit, or `padding` is negative or
            not smaller than the data.
    """
    sides = x.shape[2:]
    if len(size) != len(sides) or not sides:
        raise ValueError(f"size={tuple(size)}: give one for each of the axes {tuple(sides)}")
    if not 0 <= padding < min(sides):
        raise ValueError(f"padding={padding} must be at least 0 and less than {min(sides)}")
    for axis, (side, cut) in enumerate(zip(sides, size, strict=True), start=2):
        places = side + 2 * padding - cut + 1
        if cut < 1 or places < 1:
            raise ValueError(f"size={tuple(size)} must lie in 1..{side + 2 * padding}")
        first = torch.randint(places, (len(x), 1), generator=generator, device=generator.device)
        index = (first - padding + torch.arange(cut, device=generator.device)).to(x.device).abs()
        index = side - 1 - (side - 1 - index).abs()
        shape = [len(x), *[1] * (x.ndim - 1)]
        shape[axis] = cut
        x = x.gather(axis, index.view(shape).expand(*x.shape[:axis], cut, *x.shape[axis + 1 :]))
    return x
