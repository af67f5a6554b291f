"""The diffusion transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from scoresde.nets.conditioning import Conditioning, Sinusoids, transformer_frequencies
from scoresde.nets.layers import linear
from scoresde.nets.patches import to_channels, to_points


class DiT(nn.Module):
    """DiT with adaLN-Zero (Peebles and Xie 2023, arXiv:2212.09748, Sec. 3).

    x is cut into patches of `patch` points a side, each a token with the sines and cosines of its
    place. Every block is the identity at first. The published sizes, each with
    `num_classes=1000, outputs=8` on latents of shape (4, 32, 32):

    - DiT-S/2: `DiT(shape, width=384, depth=12, heads=6)`, of 33 M parameters
    - DiT-B/2: `DiT(shape, width=768, depth=12, heads=12)`, 130 M
    - DiT-L/2: `DiT(shape, width=1024, depth=24, heads=16)`, 458 M
    - DiT-XL/2: `DiT(shape, width=1152, depth=28, heads=16)`, 675 M

    Args:
        shape: of one sample, (channels, *) in 1 to 3 spatial dimensions.
        patch: points a side of a patch; divides every size.
        width: of a token; a multiple of `heads`, and of 2 for each spatial dimension.
        depth: number of blocks.
        heads: of each attention.
        mlp_ratio: width of the perceptrons in units of `width`.
        num_classes: K, or None for a network without classes.
        outputs: channels of the output, for example 2 `channels` with learned variances. None is
            as many as x has.
        time_scale: multiplies t, so that it reaches 1000 or so.
        fused: let torch choose the kernel of attention. The fused ones are faster and lighter but
            have first derivatives in reverse mode only: enough to train and to sample. The weights
            are the same either way.

    Raises:
        ValueError: an argument out of its range; when called, an x, t or label that does not fit.
    """

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: int = 4,
        num_classes: int | None = None,
        outputs: int | None = None,
        time_scale: float = 1000.0,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.patch = tuple(shape), patch
        channels, *sizes = self.shape or (0,)
        outputs = channels if outputs is None else outputs
        _check_sizes(self.shape, patch, width, depth, heads, mlp_ratio, outputs)
        self.grid = tuple(size // patch for size in sizes)
        points = patch ** len(sizes)
        sinusoids = Sinusoids(transformer_frequencies(128, time_scale))
        modulations = [6 * width] * depth + [2 * width]
        self.conditioning = Conditioning(sinusoids, width, modulations, num_classes)
        nn.init.zeros_(self.conditioning.project.weight)
        self.register_buffer("positions", grid_positions(self.grid, width))
        self.stem = linear(channels * points, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, mlp_ratio * width, fused) for _ in range(depth)
        )
        self.head = linear(width, outputs * points, zero=True)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, outputs, *) for x (B, channels, *), t (B,) and label (B,) or None."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x: shape {tuple(x.shape)} is not (B, {', '.join(map(str, self.shape))}), for "
                f"which the network has positions; build it with the shape of the data"
            )
        *modulations, last = self.conditioning(x, t, label)
        tokens = to_channels(x, self.patch).flatten(2).mT
        h = self.stem(tokens) + self.positions
        for block, modulation in zip(self.blocks, modulations, strict=True):
            h = block(h, modulation)
        shift, scale = last[:, None].chunk(2, dim=-1)
        y = self.head(normalise(h, shift, scale)).mT.unflatten(2, self.grid)
        return to_points(y, self.patch)


class TransformerBlock(nn.Module):
    """Attention, then a perceptron, on tokens h (B, N, width), each of which a gate lets through.

        h <- h + gate_1 attention(norm(h) (1 + scale_1) + shift_1)
        h <- h + gate_2 perceptron(norm(h) (1 + scale_2) + shift_2)

    Args:
        width: of a token.
        heads: a divisor of width.
        hidden: width of the perceptron.
        fused: let torch choose the kernel of attention, whatever its derivatives.
    """

    def __init__(self, width: int, heads: int, hidden: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.into, self.back = linear(width, hidden), linear(hidden, width)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Return h (B, N, width), for a modulation (B, 6 width): shift, scale, gate, twice."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation[:, None].chunk(6, dim=-1)
        h = h + gate_1 * self._attend(normalise(h, shift_1, scale_1))
        hidden = gelu(self.into(normalise(h, shift_2, scale_2)), approximate="tanh")
        return h + gate_2 * self.back(hidden)

    def _attend(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            result = scaled_dot_product_attention(q, k, v)
        else:  # fused kernels have neither a forward-mode nor a second derivative
            with sdpa_kernel(SDPBackend.MATH):
                result = scaled_dot_product_attention(q, k, v)
        return self.out(result.transpose(1, 2).flatten(2))


def normalise(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return norm(h) (1 + scale) + shift, for tokens h (B, N, width)."""
    return torch.addcmul(shift, layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)


def grid_positions(grid: Sequence[int], width: int) -> Tensor:
    """Return (N, width) sines and cosines of the places on a grid, an equal share for each axis."""
    share = width // len(grid)
    sinusoids = Sinusoids(transformer_frequencies(share // 2))
    lines = [sinusoids(torch.arange(size, dtype=torch.float32)) for size in grid]
    shares = [
        line.reshape(*(size if a == axis else 1 for a, size in enumerate(grid)), share).expand(
            *grid, share
        )
        for axis, line in enumerate(lines)
    ]
    return torch.cat(shares, dim=-1).flatten(0, -2)


def _check_sizes(
    shape: tuple[int, ...],
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: int,
    outputs: int,
) -> None:
    dims = len(shape) - 1
    if dims not in (1, 2, 3):
        raise ValueError(f"shape={shape} must be (channels, *) with 1 to 3 spatial dimensions")
    if min(*shape, patch, width, depth, heads, mlp_ratio, outputs) < 1:
        raise ValueError(
            f"shape={shape}, patch={patch}, width={width}, depth={depth}, heads={heads}, "
            f"mlp_ratio={mlp_ratio} and outputs={outputs} must be positive"
        )
    if any(size % patch for size in shape[1:]):
        raise ValueError(
            f"patch={patch} must divide every size of shape={shape}; pad x or choose another patch"
        )
    if width % math.lcm(heads, 2 * dims):
        raise ValueError(
            f"width={width} must be a multiple of heads={heads}, and of {2 * dims}, a sine and a "
            f"cosine for each of {dims} spatial dimensions"
        )
