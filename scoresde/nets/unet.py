"""The U-Net of score-based image models, in one to three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde.nets.blocks import ResidualBlock, Resize
from scoresde.nets.checks import check_signal
from scoresde.nets.conditioning import (
    Conditioning,
    Sinusoids,
    fourier_frequencies,
    positional_frequencies,
)
from scoresde.nets.layers import GroupNorm, Resample, Residual, conv
from scoresde.nets.levels import Change, check_levels, decoder, encoder
from scoresde.nets.patches import to_channels, to_points
from scoresde.nets.pyramids import OutputSkip, input_pyramid, output_pyramid


class UNet(nn.Module):
    """DDPM++ and NCSN++, and what lies between (Song et al. 2021, arXiv:2011.13456, App. H).

    Level 0 is the full resolution and each level after it half the last. `ncsnpp`, `ddpmpp` and
    `ddpm` build the published networks.

    Args:
        channels: of x (B, channels, *).
        width: channels of level 0 before its multiplier.
        multipliers: of the width, one for each level.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: levels with self-attention: after each block going down, after the last going
            up. The middle has it as well, unless no level does.
        heads: of each attention.
        dims: spatial dimensions, 1 to 3.
        dropout: probability of dropping an activation in training.
        num_classes: K, or None for a network without classes.
        outputs: channels of the output, for example 2 `channels` with learned variances. None is
            as many as x has.
        embedding: of t: "positional", `width` sinusoids at geometric frequencies, or "fourier",
            2 `width` at Gaussian ones.
        time_scale: multiplies t, so that the embedding resolves it. Positional embeddings expect
            time_scale * t of up to 1000; Fourier ones have this many cycles per unit of t
            (standard deviation). None is 1000 and 16, both for t or log sigma of order 1; 0 ignores
            t, as NCSNv2 does.
        scale_shift: let the embedding scale and shift normalised signals (Nichol and Dhariwal
            2021, arXiv:2102.09672); False only shifts them, before the norm.
        skip_rescale: divide every residual sum by sqrt(2).
        resample: taps of the filter with which the resolution changes, such as (1, 3, 3, 1).
        resblock: where the resolution changes: inside residual blocks, "biggan", or by convolutions
            between them, "ddpm".
        progressive_input: what each level sees of x: nothing, "none" or False; a smaller copy,
            "input_skip"; or a pyramid that sums up what was before, "residual" or True.
        combine: whether a copy is added to a level, "sum", or joined as channels, "cat".
        progressive_output: what leads from each level to the output: the way up alone, "none"; a
            share of it, "output_skip"; or a pyramid that sums up the levels below, "residual".
        patch: side of the squares of points that become channels before the stem, and points again
            after the head: level 0 is then that much smaller (Hoogeboom et al. 2023,
            arXiv:2301.11093, Sec. 3.3).
        input_periods: periods of sines and cosines of x that the stem sees beside x, in the units
            of the network's input. Those of grey levels tell them apart where noise is below them
            (Kingma et al. 2021, arXiv:2107.00630, App. C).

    Raises:
        ValueError: an argument out of its range; when called, an x, t or label that does not fit,
            or a resolution that the levels cannot halve.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        heads: int = 1,
        dims: int = 2,
        dropout: float = 0.0,
        num_classes: int | None = None,
        outputs: int | None = None,
        embedding: Literal["positional", "fourier"] = "positional",
        time_scale: float | None = None,
        scale_shift: bool = True,
        skip_rescale: bool = True,
        resample: Sequence[float] = (1.0, 1.0),
        resblock: Literal["biggan", "ddpm"] = "biggan",
        progressive_input: Literal["none", "input_skip", "residual"] | bool = "none",
        combine: Literal["sum", "cat"] = "sum",
        progressive_output: Literal["none", "output_skip", "residual"] = "none",
        patch: int = 1,
        input_periods: Sequence[float] = (),
    ) -> None:
        super().__init__()
        outputs = channels if outputs is None else outputs
        check_levels(channels, outputs, width, multipliers, blocks, attention, dims)
        if min(heads, patch) < 1:
            raise ValueError(f"heads={heads} and patch={patch} must be positive")
        self.channels, self.dims, self.levels = channels, dims, len(multipliers)
        self.patch, self.periods = patch, _periods(input_periods)
        points, answers = channels * patch**dims, outputs * patch**dims
        widths = [width * m for m in multipliers]
        block, resize = _blocks(resblock, dims, resample, dropout, scale_shift, skip_rescale)
        grown = 2 if progressive_input == "input_skip" and combine == "cat" else 1
        at = [heads if level in attention else 0 for level in range(self.levels)]
        down, skips = encoder(block, resize, widths, width, blocks, at, grown)
        middle = [block(widths[-1], widths[-1], heads=h) for h in (heads * any(at), 0)]
        up = decoder(block, resize, widths, skips, blocks, at, every=False)
        told = [b.modulation for b in (*down, *middle, *up)]
        sinusoids = _sinusoids(embedding, width, time_scale)
        self.conditioning = Conditioning(sinusoids, 4 * width, told, num_classes)
        self.stem = conv(dims, points * (1 + 2 * len(self.periods)), width)
        self.down, self.middle, self.up = map(nn.ModuleList, (down, middle, up))
        sizes = dims, widths, resample, skip_rescale
        self.pyramid = nn.ModuleList(input_pyramid(progressive_input, combine, points, *sizes))
        self.outputs = nn.ModuleList(output_pyramid(progressive_output, answers, *sizes))
        self.add, self.norm = Residual(skip_rescale), GroupNorm(widths[0])
        self.head = conv(dims, widths[0], answers, zero=True)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, outputs, *) for x (B, channels, *), t (B,) and label (B,) or None."""
        check_signal(x, self.channels, self.dims, self.patch * 2 ** (self.levels - 1))
        modulations = iter(self.conditioning(x, t, label))
        inputs, copy = iter(self.pyramid), to_channels(x, self.patch)
        waves = [f(x * (2 * math.pi / p)) for p in self.periods for f in (torch.sin, torch.cos)]
        h = self.stem(to_channels(torch.cat([x, *waves], dim=1), self.patch) if waves else copy)
        skips = [h]
        for block in self.down:
            h = block(h, next(modulations))
            if self.pyramid and block.resamples:
                copy, h = next(inputs)(copy, h)
            skips.append(h)
        for block in self.middle:
            h = block(h, next(modulations))
        outputs, below = iter(self.outputs), None
        for block in self.up:
            if not block.resamples:
                h = torch.cat([h, skips.pop()], dim=1)
            elif self.outputs:
                below, h = next(outputs)(below, h)
            h = block(h, next(modulations))
        return to_points(self._last(h, below), self.patch)

    def _last(self, h: Tensor, below: Tensor | None) -> Tensor:
        """Return the output of level 0, with what the levels below add to it."""
        if below is None:
            return self.head(silu(self.norm(h)))
        if isinstance(self.outputs[-1], OutputSkip):
            return below + self.head(silu(self.norm(h)))
        return self.head(silu(self.norm(self.add(below, h))))


def _blocks(
    resblock: str,
    dims: int,
    taps: Sequence[float],
    dropout: float,
    scale_shift: bool,
    rescale: bool,
) -> tuple[Callable[..., ResidualBlock], Change]:
    """Return what makes the blocks within the levels, and what those between them."""
    block = partial(ResidualBlock, dims, dropout=dropout, scale_shift=scale_shift, rescale=rescale)
    match resblock:
        case "biggan":
            return block, lambda c, up: block(c, c, resample=Resample(dims, taps, up=up))
        case "ddpm":
            return block, lambda c, up: Resize(dims, c, c, taps, up=up)
    raise ValueError(f"resblock={resblock!r} must be 'biggan' or 'ddpm'")


def _periods(periods: Sequence[float]) -> tuple[float, ...]:
    if not all(0.0 < period < math.inf for period in periods):
        raise ValueError(f"input_periods={tuple(periods)} must be positive and finite")
    return tuple(periods)


def _sinusoids(embedding: str, width: int, scale: float | None) -> Sinusoids:
    match embedding:
        case "positional":
            return Sinusoids(positional_frequencies(width // 2, 1000.0 if scale is None else scale))
        case "fourier":
            return Sinusoids(fourier_frequencies(width, 16.0 if scale is None else scale))
    raise ValueError(f"embedding={embedding!r} must be 'positional' or 'fourier'")
