"""The U-Net of Improved DDPM and of guided diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde.nets.blocks import ResidualBlock, Resize
from scoresde.nets.checks import check_signal
from scoresde.nets.conditioning import Conditioning, Sinusoids, transformer_frequencies
from scoresde.nets.layers import GroupNorm, Resample, conv
from scoresde.nets.levels import check_levels, decoder, encoder


class ADM(nn.Module):
    """ADM, the U-Net of Dhariwal and Nichol 2021, arXiv:2105.05233, Sec. 3 and App. B.

    The embedding of time and class scales and shifts every normalised signal, the resolution
    changes inside residual blocks, and attention of a fixed width per head follows every block of
    its levels on both ways. Published sizes, each with `outputs=6` for learned variances:

    - ImageNet 64x64: `ADM(3, width=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(1, 2, 3),
      dropout=0.1, num_classes=1000)`, of 296 M parameters
    - ImageNet 256x256 without classes: `ADM(3, width=256, multipliers=(1, 1, 2, 2, 4, 4),
      attention=(3, 4, 5))`, 553 M
    - Improved DDPM (Nichol and Dhariwal 2021, arXiv:2102.09672) on CIFAR-10: `ADM(3, width=128,
      multipliers=(1, 2, 2, 2), blocks=3, dropout=0.3, conv_resample=True)`, 52.5 M

    With classes there is one more row than theirs, for "no class".

    Args:
        channels: of x (B, channels, *).
        width: channels of level 0 before its multiplier.
        multipliers: of the width, one for each level; each level is half the last in size.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: levels with self-attention after every block; the middle always has it.
        head_channels: channels of each head of attention.
        dims: spatial dimensions, 1 to 3.
        dropout: probability of dropping an activation in training.
        num_classes: K, or None for a network without classes.
        outputs: channels of the output, for example 2 `channels` with learned variances. None is
            as many as x has.
        time_scale: multiplies t, so that it reaches 1000 or so.
        conv_resample: change the resolution by convolutions between the blocks, as Improved DDPM
            does, instead of inside of blocks.

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
        attention: Sequence[int] = (1, 2),
        head_channels: int = 64,
        dims: int = 2,
        dropout: float = 0.0,
        num_classes: int | None = None,
        outputs: int | None = None,
        time_scale: float = 1000.0,
        conv_resample: bool = False,
    ) -> None:
        super().__init__()
        outputs = channels if outputs is None else outputs
        check_levels(channels, outputs, width, multipliers, blocks, attention, dims)
        self.channels, self.dims, self.factor = channels, dims, 2 ** (len(multipliers) - 1)
        widths = [width * m for m in multipliers]
        heads = _heads(widths, attention, head_channels)
        block = partial(
            ResidualBlock, dims, dropout=dropout, scale_shift=True, rescale=False, skip_conv=False
        )
        change = partial(_convolution, dims) if conv_resample else partial(_resampling, block, dims)
        down, skips = encoder(block, change, widths, widths[0], blocks, heads)
        middle = [block(widths[-1], widths[-1], heads=h) for h in (widths[-1] // head_channels, 0)]
        up = decoder(block, change, widths, skips, blocks, heads, every=True)
        sizes = [b.modulation for b in (*down, *middle, *up)]
        sinusoids = Sinusoids(transformer_frequencies(width // 2, time_scale))
        self.conditioning = Conditioning(sinusoids, 4 * width, sizes, num_classes)
        self.stem = conv(dims, channels, widths[0])
        self.down, self.middle, self.up = map(nn.ModuleList, (down, middle, up))
        self.norm = GroupNorm(widths[0])
        self.head = conv(dims, widths[0], outputs, zero=True)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, outputs, *) for x (B, channels, *), t (B,) and label (B,) or None."""
        check_signal(x, self.channels, self.dims, self.factor)
        modulations = iter(self.conditioning(x, t, label))
        h = self.stem(x)
        skips = [h]
        for block in self.down:
            h = block(h, next(modulations))
            skips.append(h)
        for block in self.middle:
            h = block(h, next(modulations))
        for block in self.up:
            if not block.resamples:
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, next(modulations))
        return self.head(silu(self.norm(h)))


def _resampling(block: Callable[..., ResidualBlock], dims: int, c: int, up: bool) -> ResidualBlock:
    return block(c, c, resample=Resample(dims, (1.0, 1.0), up=up))


def _convolution(dims: int, c: int, up: bool) -> Resize:
    return Resize(dims, c, c, up=up, before=True)


def _heads(widths: Sequence[int], attention: Sequence[int], head_channels: int) -> list[int]:
    """Return each level's number of heads, 0 where there is no attention."""
    asked = [widths[level] for level in attention] + [widths[-1]]
    if head_channels < 1 or any(w % head_channels for w in asked):
        raise ValueError(
            f"head_channels={head_channels} must divide the channels of the levels with attention "
            f"and of the last one, which are {tuple(asked)}"
        )
    return [w // head_channels if i in attention else 0 for i, w in enumerate(widths)]
