"""The RefineNet of NCSN and NCSNv2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, embedding

from scoresde.nets.checks import check_inputs, check_signal
from scoresde.nets.refinement import (
    EncoderBlock,
    InstanceNormPlus,
    Norm,
    RefineBlock,
    Unnormalised,
    same_conv,
)


class RefineNet(nn.Module):
    """The RefineNet of NCSN and NCSNv2 (Song and Ermon 2019, arXiv:1907.05600, App. A).

    Residual blocks with dilated convolutions go down, and at each level on the way up a refinement
    block fuses their output with that of the level below (Lin et al. 2017, arXiv:1611.06612).

    By default it is NCSNv2's (Song and Ermon 2020, arXiv:2006.09011, App. B): it ignores t, and
    the score is net(x) / sigma, their technique 3. So it predicts -eps, and under
    `Denoiser(net, sde, predicts="eps")` it is their model, up to a sign that it learns, and to
    their code's map of data in [0, 1] to [-1, 1] before the first layer, which is not here. Sizes:

    - CIFAR-10: `RefineNet(3, width=128)`, of 29.7 M parameters
    - 96 to 128 points a side: `RefineNet(3, width=128, multipliers=(1, 2, 2, 4, 4))`, 83.4 M
    - 256 points: `RefineNet(3, width=128, multipliers=(1, 2, 2, 2, 4, 4))`, 94.1 M
    - NCSN on CIFAR-10, a `predicts="score"`: `RefineNet(3, width=128, noise_levels=10)`, 30.1 M

    Args:
        channels: of x (B, channels, *).
        width: channels of level 0 before its multiplier.
        multipliers: of the width, one for each level.
        dilations: of the convolutions of the last levels, which keep the resolution; each level
            before them is half the last in size.
        noise_levels: L, for NCSN's network: t is then the index of a noise level, rounded, and
            chooses the scales and shifts of each norm. None ignores t.
        dims: spatial dimensions, 1 to 3.
        outputs: channels of the output, for example 2 `channels` with learned variances. None is
            as many as x has.

    Raises:
        ValueError: an argument out of its range; when called, an x or t that does not fit, a label,
            a resolution that the levels cannot halve, or, on the CPU, a t outside [0, L).
    """

    indices: Tensor

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (2, 4),
        noise_levels: int | None = None,
        dims: int = 2,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        outputs = channels if outputs is None else outputs
        _check_sizes(channels, outputs, width, multipliers, dilations, noise_levels, dims)
        self.channels, self.dims, self.noise_levels = channels, dims, noise_levels
        undilated = len(multipliers) - len(dilations)
        self.factor = 2 ** (undilated - 1)
        widths = [width * m for m in multipliers]
        norm = partial(InstanceNormPlus, rows=noise_levels or 1)
        self.stem = same_conv(dims, channels, widths[0])
        self.encoder = nn.ModuleList()
        for level, dilation in enumerate([1] * undilated + list(dilations)):
            above, here = widths[max(level - 1, 0)], widths[level]
            first = EncoderBlock(dims, above, here, norm, dilation, change=level > 0)
            second = EncoderBlock(dims, here, here, norm, dilation, change=False)
            self.encoder.extend([first, second])
        self.refine = nn.ModuleList(_decoder(dims, widths, norm, noise_levels is not None))
        self.norm = norm(widths[0])
        self.head = same_conv(dims, widths[0], outputs)
        self.register_buffer("indices", torch.arange(noise_levels or 1)[:, None])

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, outputs, *) for x (B, channels, *), t (B,) and no label."""
        check_signal(x, self.channels, self.dims, self.factor)
        row = self._row(x, t, label)
        h, features = self.stem(x), []
        for block in self.encoder:
            h = block(h, row)
            features.append(h)
        below = []
        for refine, feature in zip(self.refine, features[::-2], strict=True):
            below = [refine([feature, *below], row)]
        return self.head(elu(self.norm(below[0], row)))

    def _row(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Return the row of each norm's table, (B,), or (1,) for one that all samples share."""
        check_inputs(x, t)
        if label is not None:
            raise ValueError("label: a RefineNet has no classes; leave it out")
        if self.noise_levels is None:
            return self.indices[0]
        try:  # the look-up checks the range, where a comparison would wait for the device
            return embedding(t.round().long(), self.indices)[:, 0]
        except IndexError:
            raise ValueError(
                f"t: values must be indices of noise levels, in [0, {self.noise_levels})"
            ) from None


def _decoder(dims: int, widths: Sequence[int], norm: Norm, told: bool) -> list[RefineBlock]:
    """Return the refinement blocks, from the last level to the first."""
    blocks, below = [], []
    for level in reversed(range(len(widths))):
        outputs = widths[max(level - 1, 0)] if below else widths[level]
        block = RefineBlock(
            dims,
            [widths[level], *below],
            outputs,
            norm=norm if told else Unnormalised,
            average=told,
            last=level == 0,
        )
        blocks.append(block)
        below = [outputs]
    return blocks


def _check_sizes(
    channels: int,
    outputs: int,
    width: int,
    multipliers: Sequence[int],
    dilations: Sequence[int],
    noise_levels: int | None,
    dims: int,
) -> None:
    if dims not in (1, 2, 3):
        raise ValueError(f"dims={dims} must be 1, 2 or 3")
    if min(channels, outputs, *multipliers, *dilations) < 1 or width < 2:
        raise ValueError(
            f"channels={channels}, outputs={outputs}, multipliers={tuple(multipliers)} and "
            f"dilations={tuple(dilations)} must be positive, and width={width} at least 2"
        )
    if len(multipliers) <= len(dilations):
        raise ValueError(
            f"multipliers={tuple(multipliers)} must be more than dilations={tuple(dilations)}: "
            f"one for each level, the first of which is not dilated"
        )
    if noise_levels is not None and noise_levels < 1:
        raise ValueError(
            f"noise_levels={noise_levels} must be positive, or None for a network without t"
        )
