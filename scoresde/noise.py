"""Sources of randomness: every draw is a function of a seed, a sample and an address.

Nothing here touches torch's global generator. Sample i of seed s gets the same numbers whatever
the batch it is drawn in, on every device.
"""

from __future__ import annotations

import hashlib
import math
import operator
import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import overload

import torch
from torch import Tensor

from scoresde.tensors import Scalar, lincomb, per_sample


class Noise(ABC):
    """A source of unit normals for the samples of one batch."""

    @abstractmethod
    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        """Return unit normals of the shape, dtype and device of `like` (B, *).

        Args:
            like: a tensor of the wanted kind.
            address: names the draw; the same address gives the same numbers again.
        """

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        """Return (W(stop) - W(start)) / sqrt(|stop - start|) for a Brownian motion W (B, *).

        Start and stop are times of the clock that a solver names. Here increments over disjoint
        spans are independent draws; `BrownianNoise` makes overlapping ones agree.
        """
        return self.normal(like, start, stop)

    def path(self, start: float, stop: float) -> Noise:
        """Return the source whose increments within [start, stop] are those of one path.

        Adaptive steps need it: the halves of a rejected step add up to that step, where fresh
        draws in its stead would favour the draws that are easily accepted.

        Raises:
            ValueError: a source that has no path.
        """
        raise ValueError(
            f"noise={self}: increments over spans that overlap do not agree, which adaptive steps "
            f"need; give SeededNoise or BrownianNoise, or define path()"
        )

    @abstractmethod
    def fold(self, key: int) -> Noise:
        """Return an independent source, named by an integer, for a repeated visit of a span."""

    @abstractmethod
    def rows(self, index: Tensor) -> Noise:
        """Return the source for some samples of the batch."""


class SeededNoise(Noise):
    """Counter-based normals: sample i of a seed is the same in every batch.

    Seed, address and sample are mixed into a 64-bit key by the finaliser of SplitMix64, and the
    key, made odd, is the increment of a SplitMix64 generator of its own (Steele et al. 2014,
    doi:10.1145/2660193.2660195). Two 32-bit halves become two normals by Box and Muller. Integers
    are the same on every device; the last bit of log, sin and cos may differ.

    Args:
        seed: an integer; None draws one from the operating system, kept in `.seed`.
        start: index of the first sample, so that a second batch continues the first.
        indices: indices of the samples (B,), in place of start, start + 1, ...
    """

    def __init__(
        self, seed: int | None = None, *, start: int = 0, indices: Tensor | None = None
    ) -> None:
        self.seed = secrets.randbits(32) if seed is None else seed
        self._start, self._indices = start, indices
        self._folds: tuple[int, ...] = ()

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        size = math.prod(like.shape[1:])
        key: int | Tensor = _hash(self.seed, *self._folds)
        for part in address:
            key = _mix(_wrap(key + _bits(part)))  # on the host, where the batch shares the address
        gamma = _mix(self._index(like) + key) | 1
        bits = _mix(gamma[:, None] * torch.arange(1, 1 + -(-size // 2), device=like.device))
        halves = bits.view(torch.uint32).to(torch.promote_types(like.dtype, torch.float32))
        low, high = halves.unflatten(1, (-1, 2)).unbind(2)
        angle = low * (2.0 * math.pi * 2.0**-32)
        radius = (-2.0 * (high * 2.0**-32 + 2.0**-33).log()).sqrt()
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return pairs[:, :size].reshape(like.shape).to(like.dtype)

    def path(self, start: float, stop: float) -> BrownianNoise:
        """Return the Brownian motion of the same seed and samples."""
        return BrownianNoise(self.seed, start, stop)._with(self)

    def fold(self, key: int) -> SeededNoise:
        folded = SeededNoise(self.seed, start=self._start, indices=self._indices)
        folded._folds = (*self._folds, key)
        return folded

    def rows(self, index: Tensor) -> SeededNoise:
        indices = self._start + index if self._indices is None else self._indices[index]
        chosen = SeededNoise(self.seed, indices=indices)
        chosen._folds = self._folds
        return chosen

    def _index(self, like: Tensor) -> Tensor:
        if self._indices is None:
            index = torch.arange(self._start, self._start + len(like), device=like.device)
        elif len(self._indices) != len(like):
            raise ValueError(f"indices: {len(self._indices)} given for a batch of {len(like)}")
        else:
            index = self._indices.to(like.device, torch.int64)
        return index * _GOLDEN


class BrownianNoise(Noise):
    """One Brownian motion a sample, so that finer steps refine the same path.

    With the clock scaled to u in [0, 1], the path is the series of Levy and Ciesielski

        W(u) = u z + sum_l 2^{-l/2} min(y, 1 - y) z_{l,k},    k + y = 2^l u, k an integer,

    of seeded unit normals z: a function of the sample and the clock alone, whatever was asked
    before (Karatzas and Shreve 1991, Sec. 2.3, doi:10.1007/978-1-4612-0949-2).

    Args:
        seed: an integer.
        start: where the clock starts; `Solver.clock` of the last level of the solve.
        stop: where it stops; `Solver.clock` of the first level.
        resolution: share of the span below which the path is straight. A draw costs one or two
            seeded ones a halving; the default serves clocks over many decades.

    Raises:
        ValueError: an increment outside [start, stop] (checked for floats and for tensors in host
            memory).
    """

    def __init__(self, seed: int, start: float, stop: float, *, resolution: float = 2**-52) -> None:
        if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
            raise ValueError(f"start={start}, stop={stop}: a clock needs finite start < stop")
        if not 0.0 < resolution < 1.0:
            raise ValueError(f"resolution={resolution} must lie in (0, 1)")
        self.start, self.stop, self.resolution = start, stop, resolution
        self._keys = SeededNoise(seed)

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return self._keys.normal(like, *address)

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        a, b = self._share(start, like), self._share(stop, like)
        scale = (abs(b - a) + 1e-300) ** -0.5  # a step of no length gets no noise
        total = lincomb(((b - a) * scale, self.normal(like)))
        for level in range(math.ceil(-math.log2(self.resolution))):
            (i, low), (j, high) = _hat(a, level), _hat(b, level)
            same = 1.0 * (i == j)  # one draw then, and no difference of like terms
            total = lincomb(
                (1.0, total), ((high - same * low) * scale, self.normal(like, level, j))
            )
            rest = (same - 1.0) * low * scale
            if isinstance(rest, Tensor) or rest != 0.0:
                total = lincomb((1.0, total), (rest, self.normal(like, level, i)))
        return total

    def path(self, start: float, stop: float) -> BrownianNoise:
        return self

    def fold(self, key: int) -> BrownianNoise:
        return self._with(self._keys.fold(key))

    def rows(self, index: Tensor) -> BrownianNoise:
        return self._with(self._keys.rows(index))

    def _with(self, keys: SeededNoise) -> BrownianNoise:
        derived = BrownianNoise(keys.seed, self.start, self.stop, resolution=self.resolution)
        derived._keys = keys
        return derived

    def _share(self, clock: Scalar, like: Tensor) -> Scalar:
        slack = 4e-15 * max(abs(self.start), abs(self.stop))  # rounding of a level's own clock
        low, high = self.start - slack, self.stop + slack
        if isinstance(clock, Tensor):
            clock = per_sample(clock.double(), like)
            inside = clock.device.type != "cpu" or bool(((clock >= low) & (clock <= high)).all())
        else:
            inside = low <= clock <= high
        if not inside:
            raise ValueError(
                f"increment at {clock} is outside the clock's span [{self.start}, {self.stop}]; "
                f"build BrownianNoise with Solver.clock of the first and last level"
            )
        return (clock - self.start) / (self.stop - self.start)


def _hat(u: Scalar, level: int) -> tuple[Scalar, Scalar]:
    """Return the cell of u among 2^level, and the series' function on it at u."""
    cell = u * 2.0**level // 1.0
    return cell, (0.5 - abs(u * 2.0**level - cell - 0.5)) * 2.0 ** (-0.5 * level)


class RecordedNoise(Noise):
    """Another source, and a record of all it drew, in order.

    Attributes:
        draws: the tensors drawn so far.
    """

    def __init__(self, source: Noise, draws: list[Tensor] | None = None) -> None:
        self.source, self.draws = source, [] if draws is None else draws

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return self._keep(self.source.normal(like, *address))

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        return self._keep(self.source.increment(like, start, stop))

    def path(self, start: float, stop: float) -> RecordedNoise:
        return RecordedNoise(self.source.path(start, stop), self.draws)

    def fold(self, key: int) -> RecordedNoise:
        return RecordedNoise(self.source.fold(key), self.draws)

    def rows(self, index: Tensor) -> RecordedNoise:
        return RecordedNoise(self.source.rows(index), self.draws)

    def _keep(self, draw: Tensor) -> Tensor:
        self.draws.append(draw)
        return draw


class InjectedNoise(Noise):
    """Given draws, handed out in order: the way to replay a record or to probe a solver.

    Raises:
        ValueError: a draw of another shape than asked for, or more draws asked for than given.
    """

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        draw = next(self._draws, None)
        if draw is None:
            raise ValueError("draws: the solve asks for more draws than were given")
        if draw.shape != like.shape:
            raise ValueError(
                f"draws: one of shape {tuple(draw.shape)} where {tuple(like.shape)} is asked for"
            )
        return draw.to(like)

    def fold(self, key: int) -> InjectedNoise:
        return self

    def rows(self, index: Tensor) -> InjectedNoise:
        raise ValueError("draws: injected noise serves whole batches only")


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed integer
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


@overload
def _mix(z: int) -> int: ...
@overload
def _mix(z: Tensor) -> Tensor: ...
def _mix(z: int | Tensor) -> int | Tensor:
    # shifts of int64 keep the sign, so the bits that a logical shift would clear are masked
    z = _wrap((z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX1)
    z = _wrap((z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX2)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _wrap(z: int | Tensor) -> int | Tensor:
    """Return z modulo 2^64, signed, as an int64 tensor is of itself."""
    return z if isinstance(z, Tensor) else (z + (1 << 63)) % (1 << 64) - (1 << 63)


def _hash(*parts: int) -> int:
    text = ",".join(str(operator.index(part)) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _bits(part: Scalar) -> int | Tensor:
    # adding 0.0 makes one address of 0.0 and -0.0
    if isinstance(part, Tensor):
        return (part.double() + 0.0).reshape(-1).view(torch.int64)
    return int.from_bytes(struct.pack("<d", part + 0.0), "little", signed=True)
