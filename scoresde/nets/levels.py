"""The levels of U-Nets: their blocks on the way down and up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scoresde.nets.blocks import ResidualBlock, Resize

Block = ResidualBlock | Resize

Change = Callable[[int, bool], Block]
"""Makes the block between two levels, from its channels and whether it goes up."""


def encoder(
    block: Callable[..., ResidualBlock],
    change: Change,
    widths: Sequence[int],
    stem: int,
    blocks: int,
    heads: Sequence[int],
    grown: int = 1,
) -> tuple[list[Block], list[int]]:
    """Return the blocks on the way down, and the channels of the stem's and of every output.

    Args:
        block: makes a residual block from its inputs, outputs and `heads`.
        change: makes the block between two levels.
        widths: channels of each level.
        stem: channels of the stem.
        blocks: residual blocks a level.
        heads: of each level's attention, 0 where there is none.
        grown: how often what leads to a next level counts, where it is joined by as many channels.
    """
    layers, skips = [], [stem]
    for level, outputs in enumerate(widths):
        if level > 0:
            layers.append(change(skips[-1], False))
            skips.append(skips[-1] * grown)
        for _ in range(blocks):
            layers.append(block(skips[-1], outputs, heads=heads[level]))
            skips.append(outputs)
    return layers, skips


def decoder(
    block: Callable[..., ResidualBlock],
    change: Change,
    widths: Sequence[int],
    skips: list[int],
    blocks: int,
    heads: Sequence[int],
    *,
    every: bool,
) -> list[Block]:
    """Return the blocks on the way up, each of which takes a skip unless it resamples.

    Args:
        block, change, widths, blocks, heads: as for `encoder`, with one more block a level.
        skips: channels, as `encoder` returns them; used up.
        every: attend after every block of a level, not only after the last.
    """
    layers, inputs = [], widths[-1]
    for level in reversed(range(len(widths))):
        for i in range(blocks + 1):
            attends = every or i == blocks
            outputs, here = widths[level], heads[level] if attends else 0
            layers.append(block(inputs + skips.pop(), outputs, heads=here))
            inputs = outputs
        if level > 0:
            layers.append(change(inputs, True))
    return layers


def check_levels(
    channels: int,
    outputs: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    dims: int,
) -> None:
    """Hold the sizes of a U-Net to what can be built.

    Raises:
        ValueError: an argument out of its range.
    """
    levels = len(multipliers)
    if dims not in (1, 2, 3):
        raise ValueError(f"dims={dims} must be 1, 2 or 3")
    if min(channels, outputs, width, blocks, levels, *multipliers) < 1 or width % 2:
        raise ValueError(
            f"channels={channels}, outputs={outputs}, width={width}, multipliers="
            f"{tuple(multipliers)} and blocks={blocks} must be positive, width even, and a "
            f"multiplier given for each level"
        )
    if not set(attention) <= set(range(levels)):
        raise ValueError(
            f"attention={tuple(attention)} must name levels among 0 to {levels - 1}, one for "
            f"each multiplier; () names none"
        )
