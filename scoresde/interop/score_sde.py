"""Weights of the authors' PyTorch code of score SDEs, github.com/yang-song/score_sde_pytorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from scoresde.nets import UNet
from scoresde.nets.blocks import Resize
from scoresde.nets.layers import Attention


def load_score_sde(net: UNet, weights: Sequence[Tensor], frequencies: Tensor | None = None) -> None:
    """Copy the weights of the authors' DDPM, DDPM++ or NCSN++ into the network of its sizes.

    Of a published checkpoint, whose average of the weights is a list,

        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        load_score_sde(ddpmpp(), checkpoint["ema"]["shadow_params"])

    The authors' VE networks read log sigma, map x in [0, 1] to 2 x - 1 themselves, and give -eps;
    the others read 999 t and x in [-1, 1], and give eps.

    Args:
        net: what [`ddpm`][scoresde.nets.ddpm], [`ddpmpp`][scoresde.nets.ddpmpp] or
            [`ncsnpp`][scoresde.nets.ncsnpp] builds; changed in place.
        weights: all that the authors train, in the order of their modules.
        frequencies: the `W` (width,) of Fourier features, "all_modules.0.W" in the authors' model,
            for a network that has them.

    Raises:
        ValueError: a network with classes; weights of another network; frequencies that are
            missing, not needed, or of another shape.
    """
    if net.conditioning.num_classes is not None:
        raise ValueError("net: the authors' networks have no classes; build it without num_classes")
    slots = list(_slots(net))
    if len(weights) != len(slots):
        raise ValueError(
            f"weights: {len(weights)} tensors, where the network has {len(slots)}; build it as the "
            f"checkpoint's configuration says"
        )
    turned = [_turned(weight, slot) for weight, slot in zip(weights, slots, strict=True)]
    for i, (weight, slot) in enumerate(zip(turned, slots, strict=True)):
        if weight.shape != slot.shape:
            raise ValueError(
                f"weights[{i}]: shape {tuple(weights[i].shape)} does not fit the network's "
                f"{tuple(slot.shape)}; build it as the checkpoint's configuration says"
            )
    _copy_frequencies(net, frequencies)
    for weight, slot in zip(turned, slots, strict=True):
        slot.copy_(weight)


def _copy_frequencies(net: UNet, frequencies: Tensor | None) -> None:
    own, width = net.conditioning.sinusoids.frequencies, net.stem.out_channels
    fourier = len(own) == width  # a positional embedding has half as many
    needed = (width,) if fourier else None
    given = None if frequencies is None else tuple(frequencies.shape)
    if given != needed:
        raise ValueError(
            f"frequencies: shape {given}, where the network needs {needed}: the authors' W for "
            f"Fourier features, and None without"
        )
    if frequencies is not None:
        own.copy_(2 * math.pi * frequencies)


def _turned(weight: Tensor, slot: Tensor) -> Tensor:
    """Return a matrix (inputs, outputs) as the convolution that it is here."""
    return weight.T[..., None, None] if weight.ndim == 2 and slot.ndim == 4 else weight


def _slots(net: UNet) -> Iterator[Tensor]:
    """Yield the network's weights, or the parts of them, in the order of the authors' modules."""
    told = net.conditioning
    yield from _layers(told.hidden, told.out, net.stem)
    weights, biases = (p.detach().split(told.sizes) for p in told.project.parameters())
    rows = iter(zip(weights, biases, strict=True))
    inputs, above = iter(net.pyramid), nn.Identity()
    outputs: Iterator[Any] = iter(net.outputs)
    for block in net.down:
        yield from _block(block, *next(rows))
        if block.resamples and net.pyramid:
            yield from _layers(next(inputs))
    for block in net.middle:
        yield from _block(block, *next(rows))
    for block in net.up:
        if block.resamples and net.outputs:
            step = next(outputs)
            yield from _layers(above, *(part for part in step.children() if part is not step.up))
            above = step.up  # which is theirs of the level above
        yield from _block(block, *next(rows))
    yield from _layers(above, net.norm, net.head)


def _block(block: Any, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Yield the weights of a block and its attention, for its rows of the modulation's matrix."""
    if isinstance(block, Resize):
        yield from _layers(block.conv)
        return
    yield from _layers(block.norm_in, block.conv_in)
    yield from (weight, bias)
    yield from _layers(block.norm_out, block.conv_out)
    if not isinstance(block.skip, nn.Identity):
        yield from _layers(block.skip)
    if isinstance(block.attention, Attention):
        yield from _layers(block.attention.norm)
        matrices = (p.detach().chunk(3) for p in block.attention.qkv.parameters())
        for part in zip(*matrices, strict=True):
            yield from part
        yield from _layers(block.attention.out)


def _layers(*layers: nn.Module) -> Iterator[Tensor]:
    """Yield the weight and the bias of each layer."""
    for layer in layers:
        yield from (p.detach() for p in layer.parameters())
