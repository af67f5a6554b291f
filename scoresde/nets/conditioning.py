"""What a network is told beside x: embeddings of the time and the class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde.nets.checks import check_inputs
from scoresde.nets.layers import linear


def fourier_frequencies(count: int, scale: float) -> Tensor:
    """Return 2 pi scale N(0, 1), drawn from torch's generator (Song et al. 2021, App. C.1).

    Raises:
        ValueError: a scale that is negative or not finite.
    """
    _check_scale(scale)
    return 2 * math.pi * scale * torch.randn(count)


def positional_frequencies(count: int, scale: float, max_period: float = 1e4) -> Tensor:
    """Return scale max_period^(-i/(count - 1)), i < count (Ho et al. 2020, arXiv:2006.11239).

    The slowest feature has period 2 pi max_period / scale in t, the fastest 2 pi / scale.

    Raises:
        ValueError: a scale that is negative or not finite.
    """
    _check_scale(scale)
    return scale * max_period ** -torch.linspace(0, 1, count)


def transformer_frequencies(count: int, scale: float = 1.0) -> Tensor:
    """Return scale 1e4^(-i/count), i < count (Vaswani et al. 2017, arXiv:1706.03762)."""
    return positional_frequencies(count, scale, 1e4 ** (1 - 1 / count))


def _check_scale(scale: float) -> None:
    if not 0.0 <= scale < math.inf:
        raise ValueError(f"time_scale={scale} must be finite, and positive, or 0 to ignore t")


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
        for rows in self.project.weight.split([size for size in self.sizes if size]):
            nn.init.xavier_uniform_(rows)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        """Return the modulations (B, size_i), for x (B, *), t (B,) and label (B,) or None.

        Raises:
            ValueError: x, t or label of another shape or dtype; a label without classes; on the
                CPU, a label outside [-1, num_classes).
        """
        check_inputs(x, t)
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
