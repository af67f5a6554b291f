"""The parts of the RefineNet: its norm, and residual, refining, fusing and pooling blocks.

Every part takes, beside its input, the `row` of the norms' tables that the noise level chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, embedding, interpolate

from scoresde.nets.layers import Resample

Norm = Callable[[int], nn.Module]
"""Makes a norm of so many channels."""


def same_conv(
    dims: int, inputs: int, outputs: int, size: int = 3, *, dilation: int = 1, bias: bool = True
) -> nn.Module:
    """Return a convolution that keeps the resolution, as torch initialises it."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return kind(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation, bias=bias)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++, which keeps what instance norm forgets: how the channels' means differ.

        gamma ((x - mu) / s + alpha (mu - m) / v) + beta

    mu and s are the mean and deviation of a channel over its points, m and v those of the mu of a
    sample over its channels: Song and Ermon 2019, arXiv:1907.05600, App. A.1, with gamma outside of
    both terms, as in the authors' code.

    Args:
        channels: of the input (B, channels, *), 2 or more.
        rows: how many triples (gamma, alpha, beta) there are to choose from.
    """

    def __init__(self, channels: int, rows: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, 3 * channels))
        nn.init.normal_(self.table.data[:, : 2 * channels], 1.0, 0.02)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        gamma, alpha, beta = (
            p[(..., *(None,) * (x.ndim - 2))] for p in embedding(row, self.table).chunk(3, dim=1)
        )
        mu = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        means = mu - mu.mean(dim=1, keepdim=True)
        variance = means.square().sum(dim=1, keepdim=True) / (x.shape[1] - 1)
        # not torch.nn.functional's, which refuses a single point of a single sample
        normed = torch.group_norm(x, x.shape[1], eps=1e-5)
        return torch.addcmul(beta, gamma, normed + alpha * (means * (variance + 1e-5).rsqrt()))


class Unnormalised(nn.Module):
    """Nothing, where a network has no norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        return x


class EncoderBlock(nn.Module):
    """The sum of a skip and of norm, ELU, conv, norm, ELU, conv.

    Args:
        dims: spatial dimensions.
        inputs: channels of the input.
        outputs: channels of the output.
        norm: makes a norm of so many channels.
        dilation: of the convolutions.
        change: whether a level begins, at half the resolution if nothing is dilated.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, norm: Norm, dilation: int, *, change: bool
    ) -> None:
        super().__init__()
        self.norm_in, self.norm_out = norm(inputs), norm(inputs)
        self.conv_in = same_conv(dims, inputs, inputs, dilation=dilation)
        self.conv_out = same_conv(dims, inputs, outputs, dilation=dilation)
        pools = change and dilation == 1
        self.pool = Resample(dims, (1.0, 1.0)) if pools else nn.Identity()
        skip = same_conv(dims, inputs, outputs, 1 if pools else 3, dilation=dilation)
        self.skip = skip if change else nn.Identity()

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        h = self.conv_in(elu(self.norm_in(x, row)))
        h = self.conv_out(elu(self.norm_out(h, row)))
        return self.pool(self.skip(x) + h)


class RefineBlock(nn.Module):
    """Residual convolution units on each input, their fusion, chained pooling, and more units.

    Args:
        dims: spatial dimensions.
        inputs: channels of each input, the first of which has the output's resolution.
        outputs: channels of the output.
        norm: makes a norm of so many channels, for before each convolution.
        average: pool by the mean of the 5^dims points around each, in place of their maximum.
        last: end with three units instead of one.
    """

    def __init__(
        self,
        dims: int,
        inputs: Sequence[int],
        outputs: int,
        *,
        norm: Norm,
        average: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ResidualUnits(dims, c, 2, norm) for c in inputs)
        self.fusion = Fusion(dims, inputs, outputs, norm) if len(inputs) > 1 else None
        self.chain = ChainedPooling(dims, outputs, norm, average)
        self.units = ResidualUnits(dims, outputs, 3 if last else 1, norm)

    def forward(self, inputs: Sequence[Tensor], row: Tensor) -> Tensor:
        adapted = [adapt(x, row) for adapt, x in zip(self.adapt, inputs, strict=True)]
        h = adapted[0] if self.fusion is None else self.fusion(adapted, row)
        return self.units(self.chain(h, row), row)


class ResidualUnits(nn.Module):
    """RCU: x <- x + f(f(x)) with f = conv ELU norm, so many times."""

    def __init__(self, dims: int, channels: int, count: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2 * count))
        self.convs = nn.ModuleList(
            same_conv(dims, channels, channels, bias=False) for _ in range(2 * count)
        )

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        for i in range(0, len(self.convs), 2):
            h = self.convs[i](elu(self.norms[i](x, row)))
            x = x + self.convs[i + 1](elu(self.norms[i + 1](h, row)))
        return x


class Fusion(nn.Module):
    """MSF: the sum of conv norm x_i, each interpolated to the resolution of the first."""

    def __init__(self, dims: int, inputs: Sequence[int], outputs: int, norm: Norm) -> None:
        super().__init__()
        self.mode = ("linear", "bilinear", "trilinear")[dims - 1]
        self.norms = nn.ModuleList(norm(c) for c in inputs)
        self.convs = nn.ModuleList(same_conv(dims, c, outputs) for c in inputs)

    def forward(self, inputs: Sequence[Tensor], row: Tensor) -> Tensor:
        size, terms = inputs[0].shape[2:], []
        for x, norm, conv in zip(inputs, self.norms, self.convs, strict=True):
            h = conv(norm(x, row))
            if h.shape[2:] != size:
                h = interpolate(h, size, mode=self.mode, align_corners=True)
            terms.append(h)
        return sum(terms[1:], terms[0])


class VolumeAverage(nn.Module):
    """The mean of the 5^3 points around each, 0 beyond the border: of planes, then across them.

    torch's own takes neither sides of 1 and 2 nor, on processors, bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        planes = avg_pool2d(x.flatten(1, 2), 5, 1, 2).unflatten(1, x.shape[1:3])
        return avg_pool2d(planes.flatten(3), (5, 1), 1, (2, 0)).unflatten(3, x.shape[3:])


class ChainedPooling(nn.Module):
    """CRP: the sum of h_0 = ELU x, h_1 and h_2, where h_(i+1) = conv pool norm h_i."""

    def __init__(self, dims: int, channels: int, norm: Norm, average: bool) -> None:
        super().__init__()
        maxima, means = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), (nn.AvgPool1d, nn.AvgPool2d)
        if average and dims == 3:
            self.pool = VolumeAverage()
        else:
            self.pool = (means if average else maxima)[dims - 1](5, stride=1, padding=2)
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.convs = nn.ModuleList(
            same_conv(dims, channels, channels, bias=False) for _ in range(2)
        )

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        total = h = elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(self.pool(norm(h, row)))
            total = total + h
        return total
