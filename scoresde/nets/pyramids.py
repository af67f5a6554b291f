"""Progressive networks: what each level sees of the input, and gives to the output.

Song et al. 2021, arXiv:2011.13456, App. H; Karras et al. 2020, arXiv:1912.04958, Sec. 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde.nets.blocks import Resize
from scoresde.nets.layers import GroupNorm, Resample, Residual, conv


class InputSkip(nn.Module):
    """A smaller copy of x, joined to a level: h + conv(copy), or both as channels.

    Song et al. 2021, App. H, "input_skip".
    """

    def __init__(
        self, dims: int, channels: int, outputs: int, taps: Sequence[float], *, join: bool
    ) -> None:
        super().__init__()
        self.down, self.conv = Resample(dims, taps), conv(dims, channels, outputs, 1)
        self.join = join

    def forward(self, copy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next copy and the level's signal."""
        copy = self.down(copy)
        features = self.conv(copy)
        return copy, torch.cat([features, h], dim=1) if self.join else features + h


class ResidualInput(nn.Module):
    """The last level's pyramid, halved by a convolution and added to a level, as the next one.

    Song et al. 2021, App. H, "residual".
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, taps: Sequence[float], *, rescale: bool
    ) -> None:
        super().__init__()
        self.down, self.add = Resize(dims, inputs, outputs, taps), Residual(rescale)

    def forward(self, copy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next copy and the level's signal, which are the same."""
        h = self.add(self.down(copy), h)
        return h, h


class OutputSkip(nn.Module):
    """A level's share of the output, added to that of the levels below and upsampled.

    Song et al. 2021, App. H, "output_skip".
    """

    def __init__(self, dims: int, inputs: int, channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.norm, self.conv = GroupNorm(inputs), conv(dims, inputs, channels, zero=True)
        self.up = Resample(dims, taps, up=True)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output so far at the next level's resolution, and h as it was."""
        share = self.conv(silu(self.norm(h)))
        return self.up(share if pyramid is None else pyramid + share), h


class ResidualOutput(nn.Module):
    """The levels below, added to a level's signal, whose upsampled sum goes on to the next.

    Song et al. 2021, App. H, "residual". The deepest level goes on through a norm and convolution.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        taps: Sequence[float],
        *,
        rescale: bool,
        deepest: bool,
    ) -> None:
        super().__init__()
        self.add = Residual(rescale)
        if deepest:
            self.norm, self.conv = GroupNorm(inputs), conv(dims, inputs, inputs)
        self.up = Resize(dims, inputs, outputs, taps, up=True)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the next level adds, and the level's signal."""
        if pyramid is None:
            return self.up(self.conv(silu(self.norm(h)))), h
        h = self.add(pyramid, h)
        return self.up(h), h


def input_pyramid(
    kind: str | bool,
    combine: str,
    channels: int,
    dims: int,
    widths: Sequence[int],
    taps: Sequence[float],
    rescale: bool,
) -> list[InputSkip | ResidualInput]:
    """Return what joins x, of so many channels, to each level after the first.

    Raises:
        ValueError: a kind other than "none" or False, "input_skip", and "residual" or True; a way
            to combine other than "sum" and "cat".
    """
    if combine not in ("sum", "cat"):
        raise ValueError(f"combine={combine!r} must be 'sum' or 'cat'")
    match kind:
        case "none" | False:
            return []
        case "input_skip":
            join = combine == "cat"
            return [InputSkip(dims, channels, c, taps, join=join) for c in widths[:-1]]
        case "residual" | True:
            steps = pairwise([channels, *widths[:-1]])
            return [ResidualInput(dims, a, b, taps, rescale=rescale) for a, b in steps]
    raise ValueError(f"progressive_input={kind!r} must be 'none', 'input_skip' or 'residual'")


def output_pyramid(
    kind: str,
    channels: int,
    dims: int,
    widths: Sequence[int],
    taps: Sequence[float],
    rescale: bool,
) -> list[OutputSkip | ResidualOutput]:
    """Return what leads from each level but the first to the output, the deepest level first.

    Raises:
        ValueError: a kind other than "none", "output_skip" and "residual".
    """
    steps = list(pairwise(reversed(widths)))
    match kind:
        case "none":
            return []
        case "output_skip":
            return [OutputSkip(dims, a, channels, taps) for a, _ in steps]
        case "residual":
            return [
                ResidualOutput(dims, a, b, taps, rescale=rescale, deepest=i == 0)
                for i, (a, b) in enumerate(steps)
            ]
    raise ValueError(f"progressive_output={kind!r} must be 'none', 'output_skip' or 'residual'")
