"""The networks of DDPM and of score SDEs, as published.

`ddpm`, `ddpmpp` and `ncsnpp` have the sizes of the authors' configurations for CIFAR-10
(github.com/yang-song/score_sde_pytorch) and their numbers of parameters. Tensors correspond one to
one but for two: the 1x1 matrices of an attention's queries, keys and values, transposed, are the
rows of `attention.qkv`, and the `Dense_0` of all residual blocks, from first to last, the rows of
`conditioning.project`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from scoresde.nets.unet import UNet


def ddpm(
    channels: int = 3,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 2,
    attention: Sequence[int] = (1,),
    dims: int = 2,
    dropout: float = 0.1,
    num_classes: int | None = None,
    outputs: int | None = None,
) -> UNet:
    """Return the U-Net of DDPM, on 999 t (Ho et al. 2020, arXiv:2006.11239, App. B).

    As in the code of score SDEs: on the way up attention follows the last block of a level, where
    Ho et al. have it after each. 35.2 million parameters for CIFAR-10. For 256 x 256 pixels, 111.6
    million with `multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), dropout=0.0`. The arguments are
    those of [`UNet`][scoresde.nets.UNet].
    """
    return UNet(
        channels,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        attention=attention,
        dims=dims,
        dropout=dropout,
        num_classes=num_classes,
        outputs=outputs,
        time_scale=1.0,
        scale_shift=False,
        skip_rescale=False,
        resblock="ddpm",
    )


def ddpmpp(
    channels: int = 3,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 4,
    attention: Sequence[int] = (1,),
    dims: int = 2,
    dropout: float = 0.1,
    num_classes: int | None = None,
    outputs: int | None = None,
) -> UNet:
    """Return DDPM++, on 999 t (Song et al. 2021, arXiv:2011.13456, App. H).

    61.8 million parameters for CIFAR-10; the deep one, `blocks=8`, 106.6 million. The arguments are
    those of [`UNet`][scoresde.nets.UNet].
    """
    return UNet(
        channels,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        attention=attention,
        dims=dims,
        dropout=dropout,
        num_classes=num_classes,
        outputs=outputs,
        time_scale=1.0,
        scale_shift=False,
    )


def ncsnpp(
    channels: int = 3,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 4,
    attention: Sequence[int] = (1,),
    dims: int = 2,
    dropout: float = 0.1,
    num_classes: int | None = None,
    outputs: int | None = None,
    embedding: Literal["positional", "fourier"] = "fourier",
    time_scale: float | None = None,
    progressive_input: Literal["none", "input_skip", "residual"] = "residual",
    progressive_output: Literal["none", "output_skip", "residual"] = "none",
) -> UNet:
    """Return NCSN++ (Song et al. 2021, arXiv:2011.13456, App. H).

    62.8 million parameters for CIFAR-10; the deep one, `blocks=8`, 107.6 million. Those read log
    sigma by Fourier features; with `embedding="positional"`, for VP and sub-VP, it reads 999 t. For
    256 x 256 pixels, 65.6 million with `multipliers=(1, 1, 2, 2, 2, 2, 2), blocks=2,
    attention=(4,), dropout=0.0, progressive_input="input_skip", progressive_output="output_skip"`.

    Args:
        channels: as the others, of [`UNet`][scoresde.nets.UNet].
        width: channels of level 0 before its multiplier.
        multipliers: of the width, one for each level.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: levels with self-attention.
        dims: spatial dimensions, 1 to 3.
        dropout: probability of dropping an activation in training.
        num_classes: K, or None for a network without classes.
        outputs: channels of the output; None is as many as x has.
        embedding: of what is fed as t.
        time_scale: multiplies it: by default 16, in cycles per unit of log sigma, for Fourier
            features, and 1, of 999 t, for positional ones.
        progressive_input: what each level sees of x.
        progressive_output: what leads from each level to the output.
    """
    if time_scale is None and embedding == "positional":
        time_scale = 1.0
    return UNet(
        channels,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        attention=attention,
        dims=dims,
        dropout=dropout,
        num_classes=num_classes,
        outputs=outputs,
        embedding=embedding,
        time_scale=time_scale,
        scale_shift=False,
        resample=(1.0, 3.0, 3.0, 1.0),
        progressive_input=progressive_input,
        progressive_output=progressive_output,
    )
