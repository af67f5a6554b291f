"""A multilayer perceptron for data in a few dimensions."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde.nets.conditioning import Conditioning, Sinusoids, fourier_frequencies
from scoresde.nets.layers import linear


class MLP(nn.Module):
    """A residual perceptron of x, told the time and the class in every block.

        h <- h + B_i SiLU(A_i SiLU(h) + modulation_i(t, label))

    Args:
        shape: of one sample: D, or a tuple, which is flattened.
        hidden: width of h.
        depth: number of blocks.
        embed: number of Fourier features of t, even (Tancik et al. 2020, arXiv:2006.10739).
        time_scale: standard deviation of the features' frequencies, in cycles per unit of t.
        num_classes: K, or None for a network without classes.
        outputs: channels of the output, its first size, for example twice those of x with learned
            variances. None is as many as x has.

    Raises:
        ValueError: a size that is not positive; an odd `embed`; when called, an x, t or label that
            does not fit.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        hidden: int = 128,
        depth: int = 3,
        embed: int = 64,
        *,
        time_scale: float = 4.0,
        num_classes: int | None = None,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        sizes = self.shape or (0,)
        outputs = sizes[0] if outputs is None else outputs
        if min(*sizes, hidden, depth, embed, outputs) < 1 or embed % 2:
            raise ValueError(
                f"shape={shape}, hidden={hidden}, depth={depth}, embed={embed}, outputs={outputs} "
                f"must be positive and embed even"
            )
        size, self.answer = math.prod(self.shape), (outputs, *self.shape[1:])
        sinusoids = Sinusoids(fourier_frequencies(embed // 2, time_scale))
        self.conditioning = Conditioning(sinusoids, hidden, [hidden] * depth, num_classes)
        self.stem = linear(size, hidden)
        self.into = nn.ModuleList(linear(hidden, hidden) for _ in range(depth))
        self.back = nn.ModuleList(linear(hidden, hidden) for _ in range(depth))
        self.head = linear(hidden, math.prod(self.answer), zero=True)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, outputs, *) for x (B, *shape), t (B,) and label (B,) or None."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x: shape {tuple(x.shape)} is not (B, {', '.join(map(str, self.shape))})"
            )
        modulations = self.conditioning(x, t, label)
        h = self.stem(x.flatten(1))
        for into, back, modulation in zip(self.into, self.back, modulations, strict=True):
            h = h + back(silu(into(silu(h)) + modulation))
        return self.head(silu(h)).reshape(len(x), *self.answer)
