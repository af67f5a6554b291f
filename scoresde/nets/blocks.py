"""The blocks of U-Nets: residual blocks and changes of resolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad, silu

from scoresde.nets.layers import Attention, GroupNorm, Resample, Residual, conv


class ResidualBlock(nn.Module):
    """A residual block: norm, SiLU, resample, conv, norm, modulate, SiLU, dropout, conv.

    DDPM's (Ho et al. 2020, arXiv:2006.11239) where it keeps the resolution, and BigGAN's (Brock et
    al. 2019, arXiv:1809.11096; Song et al. 2021, arXiv:2011.13456, App. H) where it changes it. The
    modulation (B, `modulation`) shifts the second signal before its norm, or scales and shifts it
    after.

    Args:
        dims: spatial dimensions.
        inputs: channels of the input.
        outputs: channels of the output.
        resample: what changes the resolution inside the block, or None.
        heads: of the attention after the block, or 0 for none.
        dropout: probability of dropping an activation in training.
        scale_shift: modulate as norm(h) (1 + scale) + shift after the norm, instead of h + shift
            before it.
        rescale: divide residual sums by sqrt(2).
        skip_conv: convolve the skip wherever the resolution changes, not only where channels do.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        *,
        resample: Resample | None = None,
        heads: int = 0,
        dropout: float,
        scale_shift: bool,
        rescale: bool,
        skip_conv: bool = True,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resamples = scale_shift, resample is not None
        self.modulation = 2 * outputs if scale_shift else outputs
        self.norm_in, self.norm_out = GroupNorm(inputs), GroupNorm(outputs)
        self.resample = resample or nn.Identity()
        self.conv_in = conv(dims, inputs, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = conv(dims, outputs, outputs, zero=True)
        straight = inputs == outputs and not (self.resamples and skip_conv)
        self.skip = nn.Identity() if straight else conv(dims, inputs, outputs, 1)
        self.add = Residual(rescale)
        self.attention = Attention(dims, outputs, heads, rescale) if heads else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = self.conv_in(self.resample(silu(self.norm_in(x))))
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = self.norm_out(h, scale, shift)
        else:
            h = self.norm_out(h + modulation.reshape(*modulation.shape, *(1,) * (x.ndim - 2)))
        h = self.conv_out(self.dropout(silu(h)))
        return self.attention(self.add(self.skip(self.resample(x)), h))


class Resize(nn.Module):
    """A change of resolution between blocks: a filter and a 3^dims convolution.

    Down, a convolution of stride 2, which the taps (1, 1) leave unfiltered as Ho et al. do, with a
    zero beyond the last points; up, a convolution after the filter, which also sees what the filter
    leaves beyond the border, as in the code of Song et al. 2021. It is called as a block is, and
    leaves the modulation alone.

    Args:
        dims: spatial dimensions, 1 to 3.
        inputs: channels of the input.
        outputs: channels of the output.
        taps: of the filter.
        up: double the resolution instead of halving it.
        before: with the zero of an unfiltered one before the first points, as in Improved DDPM.
    """

    modulation, resamples = 0, True

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        taps: Sequence[float] = (1.0, 1.0),
        *,
        up: bool = False,
        before: bool = False,
    ) -> None:
        super().__init__()
        plain = not up and tuple(taps) == (1, 1)
        # at stride 2 the last window of an even size ends with its last point, or one beyond
        self.zeros = ((1, 0) if before else (0, 1)) * dims if plain else ()
        beyond = int(up and len(taps) > 2)  # two taps reach no further than their own points
        blur = nn.Identity() if plain else Resample(dims, taps, stride=1)
        self.filter = Resample(dims, taps, up=True, beyond=beyond) if up else blur
        padded = up and not beyond
        self.conv = conv(dims, inputs, outputs, stride=1 if up else 2, padded=padded)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        del modulation
        return self.conv(self.filter(pad(x, self.zeros) if self.zeros else x))
