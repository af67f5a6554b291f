"""The parts that networks are built of: convolutions, norms, resampling, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool1d,
    avg_pool2d,
    interpolate,
)
from torch.nn.functional import group_norm as normalise


def linear(inputs: int, outputs: int, *, zero: bool = False) -> nn.Linear:
    """Return a linear layer, Xavier-uniform or zero, without initial bias."""
    layer = nn.Linear(inputs, outputs)
    _initialise(layer, zero)
    return layer


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    stride: int = 1,
    padded: bool = True,
    zero: bool = False,
) -> nn.Module:
    """Return a convolution in `dims` dimensions, Xavier-uniform or zero, without initial bias.

    Padded, at stride 1, it keeps the resolution.
    """
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(inputs, outputs, size, stride, padding=size // 2 if padded else 0)
    _initialise(layer, zero)
    return layer


def _initialise(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, zero: bool) -> None:
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class GroupNorm(nn.GroupNorm):
    """GroupNorm of at most 32 groups and at least 4 channels a group, with a modulation.

    norm(x) (1 + scale) + shift, for scale and shift (B, channels) of every sample's own.
    """

    def __init__(self, channels: int) -> None:
        largest = max(1, min(32, channels // 4))
        groups = next(g for g in range(largest, 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=1e-6)

    def forward(
        self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        x = input  # the name of the base class
        # By rows: torch's kernel for bfloat16 with channels last is slower than both copies
        rows = x.contiguous()
        if scale is None or shift is None:
            y = super().forward(rows)
        else:
            # One sample of B times the channels has weights for each of them, and so the norm
            # modulates without another pass over x
            weight, bias = self.weight * (1 + scale), torch.addcmul(shift, self.bias, 1 + scale)
            joined = rows.reshape(1, len(x) * x.shape[1], *x.shape[2:])
            groups = max(1, len(x) * self.num_groups)  # also of an empty batch
            y = normalise(joined, groups, weight.flatten(), bias.flatten(), self.eps)
            y = y.view(rows.shape)
        if x.is_contiguous() or not x.movedim(1, -1).is_contiguous():
            return y
        return y.movedim(1, -1).contiguous().movedim(-1, 1)


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
        beyond: points to give past each border too, when up; fewer than half the taps.

    Raises:
        ValueError: taps of odd length, or of a sum that is 0 or not finite.
    """

    kernel: Tensor

    def __init__(
        self,
        dims: int,
        taps: Sequence[float],
        *,
        stride: int = 2,
        up: bool = False,
        beyond: int = 0,
    ) -> None:
        super().__init__()
        if not taps or len(taps) % 2 or sum(taps) == 0 or not math.isfinite(sum(taps)):
            raise ValueError(
                f"resample={tuple(taps)} must have an even number of taps and a finite sum other "
                f"than 0, such as (1, 1) or (1, 3, 3, 1)"
            )
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        kernel = line * 2 if up else line
        for _ in range(dims - 1):
            kernel = kernel[..., None] * (line * 2 if up else line)
        self.register_buffer("kernel", kernel[None, None])
        self.up, self.stride, self.padding = up, stride, len(taps) // 2 + 1 - stride - beyond
        # torch pools volumes in float32 alone
        self.box = dims < 3 and stride == 2 and len(taps) == 2 and taps[0] == taps[1]
        self.pool = avg_pool1d if dims == 1 else avg_pool2d

    def forward(self, x: Tensor) -> Tensor:
        if self.box:
            return interpolate(x, scale_factor=2.0) if self.up else self.pool(x, 2)
        # In float32, which autocast leaves to this name of a convolution on processors: they take
        # ten times longer for one without sums over channels in bfloat16
        exact = torch.promote_types(x.dtype, torch.float32)
        channels, dims = x.shape[1], x.ndim - 2
        kernel = self.kernel.to(exact).expand(channels, *self.kernel.shape[1:])
        stride, padding, one, zero = ([n] * dims for n in (self.stride, self.padding, 1, 0))
        y = torch.convolution(
            x.to(exact), kernel, None, stride, padding, one, self.up, zero, channels
        )
        return y.to(x.dtype)


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
        self.norm = GroupNorm(channels)
        self.qkv = conv(dims, channels, 3 * channels, 1)
        self.out = conv(dims, channels, channels, 1, zero=True)
        self.add = Residual(rescale)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        # Written out, since fused kernels have neither a forward-mode nor a second derivative,
        # which likelihoods and their gradients take.
        weights = torch.softmax((q * q.shape[2] ** -0.5).mT @ k, dim=-1)
        return self.add(x, self.out((v @ weights.mT).reshape(x.shape)))
