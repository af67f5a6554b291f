"""Sources of randomness: every draw is a function of a seed, a sample and an address.

Nothing here touches torch's global generator. Sample i of seed s gets the same numbers whatever
the batch it is drawn in, on every device.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.tensors import Scalar


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

    @abstractmethod
    def fold(self, key: int) -> Noise:
        """Return an independent source, named by an integer, for a repeated visit of a span."""

    @abstractmethod
    def rows(self, index: Tensor) -> Noise:
        """Return the source for some samples of the batch."""


class SeededNoise(Noise):
    """Counter-based normals: sample i of a seed is the same in every batch.

    A 64-bit key of the seed, the sample's index and the address is mixed with a counter by the
    finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), and two 32-bit
    halves become two normals by Box and Muller. Integers are the same on every device; the last
    bit of log, sin and cos may differ.

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
        key = _mix(self._index(like) + _hash(self.seed, *self._folds))
        for part in address:
            key = _mix(key + _bits(part))
        bits = _mix(_mix(_ramp(-(-size // 2), like)) + key[:, None])
        dtype = torch.promote_types(like.dtype, torch.float32)
        u = ((bits >> 32) & _LOW32).to(dtype) * 2.0**-32 + 2.0**-33
        angle = (bits & _LOW32).to(dtype) * (2.0 * math.pi * 2.0**-32)
        radius = (-2.0 * u.log()).sqrt()
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return pairs[:, :size].reshape(like.shape).to(like.dtype)

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
            return _ramp(len(like), like, self._start)
        if len(self._indices) != len(like):
            raise ValueError(f"indices: {len(self._indices)} given for a batch of {len(like)}")
        return self._indices.to(like.device) * _GOLDEN


class BrownianNoise(Noise):
    """One Brownian motion a sample, so that finer steps refine the same path.

    The paths are `torchsde.BrownianInterval`s (Kidger et al. 2021, arXiv:2105.13493) over
    [start, stop] of the solver's clock, one a sample, seeded by (seed, sample index).

    Args:
        seed: an integer.
        start: where the clock starts; `Solver.clock` of the last level of the solve.
        stop: where it stops; `Solver.clock` of the first level.
        resolution: share of the span below which increments are not refined.

    Raises:
        ValueError: an increment outside [start, stop].
    """

    def __init__(self, seed: int, start: float, stop: float, *, resolution: float = 1e-7) -> None:
        if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
            raise ValueError(f"start={start}, stop={stop}: a clock needs finite start < stop")
        self.start, self.stop, self._resolution = start, stop, resolution
        self._keys = SeededNoise(seed)
        self._indices: Tensor | None = None
        self._paths: dict[int, Any] = {}

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return self._keys.normal(like, *address)

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        rows = range(len(like)) if self._indices is None else self._indices.tolist()
        ends = zip(rows, _each(start, len(like)), _each(stop, len(like)), strict=True)
        return torch.stack([self._walk(i, a, b, like) for i, a, b in ends]).reshape(like.shape)

    def fold(self, key: int) -> BrownianNoise:
        return self._derive(self._keys.fold(key), self._indices)

    def rows(self, index: Tensor) -> BrownianNoise:
        chosen = index if self._indices is None else self._indices[index]
        derived = self._derive(self._keys.rows(index), chosen)
        derived._paths = self._paths
        return derived

    def _derive(self, keys: SeededNoise, indices: Tensor | None) -> BrownianNoise:
        derived = BrownianNoise(keys.seed, self.start, self.stop, resolution=self._resolution)
        derived._keys, derived._indices = keys, indices
        return derived

    def _walk(self, index: int, start: float, stop: float, like: Tensor) -> Tensor:
        low, high = sorted((self._clamp(start), self._clamp(stop)))
        sign = 1.0 if start <= stop else -1.0
        return self._path(index, like)(low, high) * (sign / math.sqrt(high - low))

    def _clamp(self, clock: float) -> float:
        slack = 4e-15 * max(abs(self.start), abs(self.stop))  # rounding of a level's own clock
        if not self.start - slack <= clock <= self.stop + slack:
            raise ValueError(
                f"increment at {clock} is outside the clock's span [{self.start}, {self.stop}]; "
                f"build BrownianNoise with Solver.clock of the first and last level"
            )
        return min(max(clock, self.start), self.stop)

    def _path(self, index: int, like: Tensor) -> Any:
        if index not in self._paths:
            import torchsde

            self._paths[index] = torchsde.BrownianInterval(
                self.start,
                self.stop,
                size=(math.prod(like.shape[1:]), 1),
                dtype=like.dtype,
                device=like.device,
                entropy=_hash(self._keys.seed, *self._keys._folds, index) & _LOW32,
                tol=self._resolution * (self.stop - self.start),
                halfway_tree=True,  # makes a path independent of the order of queries
            )
        return self._paths[index]


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

    def __init__(self, draws: Iterable[Tensor] | Sequence[Tensor]) -> None:
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
_LOW32 = (1 << 32) - 1


def _mix(z: Tensor) -> Tensor:
    # shifts of int64 keep the sign, so the bits that a logical shift would clear are masked
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _ramp(n: int, like: Tensor, start: int = 0) -> Tensor:
    return torch.arange(start, start + n, device=like.device) * _GOLDEN


def _hash(*parts: int) -> int:
    digest = hashlib.blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _bits(part: Scalar) -> int | Tensor:
    if isinstance(part, Tensor):
        return part.double().reshape(-1).view(torch.int64)
    return int.from_bytes(struct.pack("<d", part), "little", signed=True)


def _each(value: Scalar, n: int) -> list[float]:
    return value.flatten().tolist() if isinstance(value, Tensor) else [value] * n
