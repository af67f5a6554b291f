"""The maps between data and model space, which know their log-determinants."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.data.checks import (
    require_continuous,
    require_finite,
    require_grey_levels,
    require_level_count,
)
from scoresde.data.moments import moments


class _Transform(ABC):
    """What the transforms share: grey levels in and out."""

    levels: int | None

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Map continuous x (B, *) in data units, as dequantisation leaves them, to model space."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Map y (B, *) from model space back to data units, unrounded."""

    @property
    @abstractmethod
    def _reach(self) -> float:
        """The size of the largest number that the map or its inverse rounds, in bins."""

    @abstractmethod
    def log_det_at(self, y: Tensor) -> float | Tensor:
        """Return log |dy/dx| per dimension at y (B, *), in nats: a float, or (B,)."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map data x (B, *) to model space, dequantising grey levels if a generator is given.

        Args:
            x: integers 0..levels-1, or finite floats where `levels` is None. Integers come out in
                torch's default dtype, floats keep theirs.
            generator: the source of uniform dequantisation noise, which a likelihood of integers
                needs. Continuous data need none, and draw none.

        Raises:
            ValueError: `x` is outside the declared range or of the wrong kind (such as float images
                in [0, 1] where grey levels are declared), or its features do not match the map's;
                noise is asked for, and the map puts levels so far from 0 for their distance that
                float32 has no room for it.
        """
        if self.levels is None:
            require_continuous("x", x)
        else:
            require_grey_levels("x", x, self.levels)
            x = x.to(torch.get_default_dtype())
            if generator is not None:
                x = x + _noise_within_bins(x, self._reach, generator)
        return self.embed(x)

    def to_pixels(self, y: Tensor) -> Tensor:
        """Return the grey level whose bin holds y, clipped to 0..levels-1.

        It undoes `forward`, with noise and, where there is room for noise, without. The result is
        uint8 up to 256 levels, int32 above.

        Raises:
            ValueError: the data are continuous, or `y` is not finite.
        """
        if self.levels is None:
            raise ValueError("levels=None: continuous data have no pixels; use inverse(y)")
        require_finite("y", y)
        pixels = self.inverse(y).round().clamp(0, self.levels - 1)
        return pixels.to(torch.uint8 if self.levels <= 256 else torch.int32)


@dataclass(frozen=True)
class Affine(_Transform):
    """The transform y = (x - loc) / scale from data x to the model's y, and back.

    With `levels`, data are integers 0..levels-1 and grey level k stands for the unit bin
    [k - 1/2, k + 1/2). Uniform dequantisation spreads a level over its bin; without it the level
    sits in the middle, so that rounding undoes both. The discrete likelihood of data in bits/dim is

        -(log p(y) / D + log_det) / ln 2,   averaged over the dequantisation noise,

    an upper bound on the negative log-likelihood of the integers (Theis et al. 2016,
    arXiv:1511.01844, section 3.1). A uniform density over all bins gives log2(levels) bits/dim
    whatever the scale.

    A plain value: `dataclasses.asdict(transform)` can be stored, `Affine(**stored)` reads it back.

    Attributes:
        loc: what the model sees as zero, in data units; one number, or one for each feature (axis
            1: the channels of images).
        scale: what the model sees as one, in data units; positive, one number or one a feature.
        levels: the number of grey levels, or None for continuous data.

    Raises:
        ValueError: `loc` or `scale` is not finite or not a number or list of numbers, `scale` is
            not positive, or `levels` is not in 2..65536.
    """

    loc: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        for name in ("loc", "scale"):
            given = getattr(self, name)
            values = torch.as_tensor(given, dtype=torch.float64)
            if values.ndim > 1 or values.numel() == 0 or not values.isfinite().all():
                raise ValueError(
                    f"{name}={given!r} must be one finite number or a list, one for each feature"
                )
            plain = values.tolist()
            object.__setattr__(self, name, tuple(plain) if values.ndim else plain)
            if name == "scale" and values.min() <= 0:
                raise ValueError(f"scale={given!r} must be positive")
        if self.levels is not None:
            require_level_count(self.levels)

    @classmethod
    def bins(cls, levels: int, low: float = -1.0, high: float = 1.0) -> Affine:
        """Let the bins of all grey levels fill [low, high]: y = low + (high - low)(k + u) / levels.

        Here u ~ U[0, 1) with dequantisation and u = 1/2 without; the customary map for likelihoods.
        """
        scale = levels / _width(low, high)
        return cls(loc=-0.5 - low * scale, scale=scale, levels=levels)

    @classmethod
    def endpoints(cls, levels: int, low: float = -1.0, high: float = 1.0) -> Affine:
        """Put the first grey level at `low` and the last at `high`: x / 127.5 - 1 for 256 levels.

        The map of EDM (Karras et al. 2022, arXiv:2206.00364). Half a bin lies beyond either end.
        """
        scale = (levels - 1) / _width(low, high)
        return cls(loc=-low * scale, scale=scale, levels=levels)

    @classmethod
    def standardise(cls, x: Tensor) -> Affine:
        """Give every feature of continuous data (N, C, *) mean 0 and variance 1.

        Raises:
            ValueError: `x` is not finite floats of rank 2 or more, or a feature is constant.
        """
        if x.ndim < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (N, C, *), features on axis 1")
        require_continuous("x", x)
        means, variances = (m.flatten(1) for m in moments(x.unsqueeze(-1)))
        # of a feature: the variance within its elements and that between their means
        apart = means - means[:, :1]
        mean = means[:, 0] + apart.mean(1)
        variance = variances.mean(1) + apart.var(1, correction=0)
        if not variance.min() > 0:
            constant = torch.nonzero(variance == 0).flatten().tolist()
            raise ValueError(f"x is constant in features {constant}: remove them")
        return cls(loc=tuple(mean.tolist()), scale=tuple(variance.sqrt().tolist()))

    @property
    def _reach(self) -> float:
        last = (self.levels or 1) - 0.5
        locs = self.loc if isinstance(self.loc, tuple) else (self.loc,)
        return max(max(last, abs(loc), abs(last - loc)) for loc in locs)

    @property
    def log_det(self) -> float:
        """The log |dy/dx| per dimension, in nats: the mean of -log(scale) over features."""
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        return -math.fsum(math.log(scale) for scale in scales) / len(scales)

    def embed(self, x: Tensor) -> Tensor:
        return (x - _along_features("loc", self.loc, x)) / _along_features("scale", self.scale, x)

    def inverse(self, y: Tensor) -> Tensor:
        return _along_features("loc", self.loc, y) + _along_features("scale", self.scale, y) * y

    def log_det_at(self, y: Tensor) -> float:
        return self.log_det


@dataclass(frozen=True)
class Logit(_Transform):
    """The transform y = log(p / (1 - p)) of grey levels k, to all of the line.

        p = alpha + (1 - 2 alpha) (k + u) / levels,    u ~ U[0, 1) with dequantisation, 1/2 without

    and log |dy/dx| = log((1 - 2 alpha) / levels) - log p (1 - p), which depends on the data. Dinh
    et al. 2017, arXiv:1605.08803, section 4.1, keep p off 0 alone; here alpha keeps it off 1 too,
    as in Papamakarios et al. 2017, arXiv:1705.07057.

    Attributes:
        levels: the number of grey levels.
        alpha: how far p stays from 0 and 1.

    Raises:
        ValueError: `levels` is not in 2..65536, or `alpha` not between 0 and 1/2.
    """

    levels: int
    alpha: float = 0.05

    def __post_init__(self) -> None:
        require_level_count(self.levels)
        if not 0.0 < self.alpha < 0.5:
            raise ValueError(f"alpha={self.alpha} must be between 0 and 1/2")

    @property
    def _reach(self) -> float:
        return self.levels / (1.0 - 2.0 * self.alpha)

    def embed(self, x: Tensor) -> Tensor:
        return torch.logit(self.alpha + (1.0 - 2.0 * self.alpha) * (x + 0.5) / self.levels)

    def inverse(self, y: Tensor) -> Tensor:
        return self.levels * (torch.sigmoid(y) - self.alpha) / (1.0 - 2.0 * self.alpha) - 0.5

    def log_det_at(self, y: Tensor) -> Tensor:
        # -log p (1 - p) = |y| + 2 log(1 + e^-|y|), the same for y and -y
        size = y.double().abs().flatten(1)
        spread = (size + 2.0 * torch.log1p(torch.exp(-size))).mean(1)
        return math.log((1.0 - 2.0 * self.alpha) / self.levels) + spread


def _width(low: float, high: float) -> float:
    if not low < high:
        raise ValueError(f"low={low} must be below high={high}")
    return high - low


def _along_features(name: str, values: float | tuple[float, ...], x: Tensor) -> float | Tensor:
    if not isinstance(values, tuple):
        return values
    if x.ndim < 2 or x.shape[1] != len(values):
        raise ValueError(
            f"{name} has {len(values)} features, but the data have shape {tuple(x.shape)}: "
            "features lie on axis 1"
        )
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


def _noise_within_bins(x: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Draw noise uniform on (-1/2, 1/2), from the midpoints of 2^21 / reach (or fewer) cells.

    A draw from all of float32 would now and then be rounded across the edge of its bin, and the
    pixel would change; midpoints stay further from the edge than the map and its inverse round.
    """
    cells = 2**21 >> (math.ceil(reach) - 1).bit_length()
    if cells < 2:
        raise ValueError(
            "generator: float32 has no room for noise between levels that the map puts "
            f"{reach:.3g} times as far from 0 as from each other: give it a range nearer to 0"
        )
    draws = torch.randint(cells, x.shape, generator=generator, device=x.device)
    return ((draws + 0.5) / cells - 0.5).to(x.dtype)
