"""The parts that networks are built of: embeddings, convolutions, resampling, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    silu,
)

from scoresde.nets.checks import check_times


def fourier_frequencies(count: int, scale: float) -> Tensor:
    """Return 2 pi scale N(0, 1), drawn from torch's generator (Song et al. 2021, App. C.1)."""
    return 2 * math.pi * scale * torch.randn(count)


def positional_frequencies(count: int, scale: float, max_period: float = 1e4) -> Tensor:
    """Return scale max_period^(-i/(count - 1)), i < count (Ho et al. 2020, arXiv:2006.11239).

    The slowest feature has period 2 pi max_period / scale in t, the fastest 2 pi / scale.
    """
    return scale * max_period ** -torch.linspace(0, 1, count)


def transformer_frequencies(count: int, scale: float = 1.0) -> Tensor:
    """Return scale 1e4^(-i/count), i < count (Vaswani et al. 2017, arXiv:1706.03762)."""
    return positional_frequencies(count, scale, 1e4 ** (1 - 1 / count))


class Sinusoids(nn.Module):
    """Sines and cosines of t at fixed frequencies, [sin(w t), cos(w t)] of shape (B, 2 count)."""

    frequencies: Tensor

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies)

    def forward(self, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sinusoids:
        # `net.to(torch.bfloat16)` would round the frequencies, and phases are hundreds of radians
        exact = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype != exact.dtype:
            self.frequencies = exact.to(self.frequencies.device)
        return self


def linear(inputs: int, outputs: int, *, zero: bool = False) -> nn.Linear:
    """Return a linear layer, Xavier-uniform or zero, without initial bias."""
    layer = nn.Linear(inputs, outputs)
    _initialise(layer, zero)
    return layer


def conv(
    dims: int, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, zero: bool = False
) -> nn.Module:
    """Return a convolution in `dims` dimensions, Xavier-uniform or zero, without initial bias.

    It keeps the resolution where stride is 1, and pads nothing where it is not.
    """
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(inputs, outputs, size, stride, padding=size // 2 if stride == 1 else 0)
    _initialise(layer, zero)
    return layer


def _initialise(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, zero: bool) -> None:
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 32 groups and at least 4 channels a group."""
    largest = max(1, min(32, channels // 4))
    groups = next(g for g in range(largest, 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Conditioning(nn.Module):
    """What the time and the class say to every block, in one matrix product.

        e = SiLU(W2 SiLU(W1 sinusoids(t)) + class embedding),   modulation_i = P_i e

    Args:
        sinusoids: the features of t.
        width: the size of e.
        sizes: the size of each block's modulation.
        num_classes: K, or None for a network without classes.

    Raises:
        ValueError: num_classes < 1.
    """

    def __init__(
        self, sinusoids: Sinusoids, width: int, sizes: Sequence[int], num_classes: int | None
    ) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be positive, or None for no classes")
        self.num_classes, self.sizes = num_classes, list(sizes)
        self.sinusoids = sinusoids
        self.hidden = linear(2 * len(sinusoids.frequencies), width)
        self.out = linear(width, width)
        if num_classes is not None:
            self.classes = nn.Embedding(num_classes + 1, width)  # row 0 is "no class"
        self.project = linear(width, sum(self.sizes))
        for rows in self.project.weight.split(self.sizes):
            nn.init.xavier_uniform_(rows)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        """Return the modulations (B, size_i), for x (B, *), t (B,) and label (B,) or None.

        Raises:
            ValueError: t or label of another shape or dtype; a label without classes; on the CPU,
                a label outside [-1, num_classes).
        """
        check_times(x, t)
        features = self.sinusoids(t).to(self.hidden.weight.dtype)
        e = self.out(silu(self.hidden(features)))
        e = self._add_class(e, label)
        return self.project(silu(e)).split(self.sizes, dim=1)

    def _add_class(self, e: Tensor, label: Tensor | None) -> Tensor:
        if self.num_classes is None:
            if label is not None:
                raise ValueError("label: this network has no classes; build it with num_classes=K")
            return e
        if label is None:
            return e + self.classes.weight[0]
        if label.shape != e.shape[:1] or label.dtype != torch.int64:
            raise ValueError(
                f"label: shape {tuple(label.shape)}, {label.dtype}; pass one int64 class for each "
                f"of the {len(e)} samples, -1 for none"
            )
        try:  # the look-up checks the range, where a comparison would wait for the device
            return e + self.classes(label + 1)
        except IndexError:
            raise ValueError(
                f"label: values must lie in [0, {self.num_classes}), or be -1 for no class"
            ) from None


class Resample(nn.Module):
    """FIR filter with a change of resolution (Zhang 2019, arXiv:1904.11486).

    Down, y = (k * x) at every `stride`-th point; up, 2^dims times its transpose, which filters x
    with zeros set between its points. k is the outer product of the taps, of sum 1; beyond the
    border x is 0. Taps (1, 1) are the mean of 2 x 2 points and nearest-neighbour upsampling,
    (1, 3, 3, 1) the filter of Song et al. 2021. At stride 1 it only blurs, onto one point more.

    Args:
        dims: spatial dimensions, 1 to 3.
        taps: the filter in one dimension, of even length.
        stride: 1 or 2.
        up: double the resolution instead of halving it.

    Raises:
        ValueError: taps of odd length or of sum 0.
    """

    kernel: Tensor

    def __init__(
        self, dims: int, taps: Sequence[float], *, stride: int = 2, up: bool = False
    ) -> None:
        super().__init__()
        if not taps or len(taps) % 2 or sum(taps) == 0:
            raise ValueError(
                f"resample={tuple(taps)} must have an even number of taps and a sum other than 0, "
                f"such as (1, 1) or (1, 3, 3, 1)"
            )
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        kernel = line * 2 if up else line
        for _ in range(dims - 1):
            kernel = kernel[..., None] * (line * 2 if up else line)
        self.register_buffer("kernel", kernel[None, None])
        self.up, self.stride, self.padding = up, stride, len(taps) // 2 + 1 - stride
        pairs = (conv1d, conv_transpose1d), (conv2d, conv_transpose2d), (conv3d, conv_transpose3d)
        self.convolve = pairs[dims - 1][up]

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, *self.kernel.shape[1:])
        return self.convolve(x, kernel, stride=self.stride, padding=self.padding, groups=channels)


class Residual(nn.Module):
    """The sum of a signal and a correction, divided by sqrt(2) to keep its variance if asked."""

    def __init__(self, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return (x + h) * 0.5**0.5 if self.rescale else x + h


class Attention(nn.Module):
    """Residual self-attention among the points of a sample, softmax(q^T k / sqrt(d)) v.

    Args:
        dims: spatial dimensions.
        channels: of the input (B, channels, *).
        heads: a divisor of channels; d = channels / heads.
        rescale: divide the sum of input and result by sqrt(2).

    Raises:
        ValueError: heads does not divide channels.
    """

    def __init__(self, dims: int, channels: int, heads: int, rescale: bool) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads={heads} must divide the {channels} channels of the level")
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = conv(dims, channels, 3 * channels, 1)
        self.out = conv(dims, channels, channels, 1, zero=True)
        self.add = Residual(rescale)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        # Written out, since fused kernels have neither a forward-mode nor a second derivative,
        # which likelihoods and their gradients take.
        weights = torch.softmax((q * q.shape[2] ** -0.5).mT @ k, dim=-1)
        return self.add(x, self.out((v @ weights.mT).reshape(x.shape)))


class ResidualBlock(nn.Module):
    """BigGAN's residual block: norm, SiLU, resample, conv, norm, modulate, SiLU, dropout, conv.

    Song et al. 2021, arXiv:2011.13456, App. H; Brock et al. 2019, arXiv:1809.11096. The modulation
    (B, `modulation`) shifts the second normalised signal, or scales and shifts it.

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
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
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
        modulation = modulation.reshape(*modulation.shape, *(1,) * (x.ndim - 2))
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        else:
            h = self.norm_out(h + modulation)
        h = self.conv_out(self.dropout(silu(h)))
        return self.attention(self.add(self.skip(self.resample(x)), h))
