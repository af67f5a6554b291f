"""Laws of the probes that a trace is estimated with: random vectors with E[e e^T] = I."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.noise import Noise


class Probes(ABC):
    """A law of probes e with E[e e^T] = I, so that e^T M e has the mean tr M.

    None has the negatives of its probes in a set: -e has the quadratic form of e.
    """

    @abstractmethod
    def draw(self, like: Tensor, n: int, noise: Noise) -> Tensor:
        """Return n probes (B, n, *) for each sample of a batch like (B, *)."""

    def left(self, n: int, d: int) -> float:
        """Return the share of the variance of n independent probes that n of a set leave."""
        return 1.0


@dataclass(frozen=True)
class Rademacher(Probes):
    """Independent signs: the variance is 2 sum_{i != j} S_ij^2, S the symmetric part of M."""

    def draw(self, like: Tensor, n: int, noise: Noise) -> Tensor:
        return _signs(normals(like, n, noise))


@dataclass(frozen=True)
class UnitNormal(Probes):
    """Independent unit normals: the variance is 2 |S|_F^2."""

    def draw(self, like: Tensor, n: int, noise: Noise) -> Tensor:
        return normals(like, n, noise)


@dataclass(frozen=True)
class Sphere(Probes):
    """Uniform on the sphere of radius sqrt(D): 2 D / (D + 2) (|S|_F^2 - tr(S)^2 / D)."""

    def draw(self, like: Tensor, n: int, noise: Noise) -> Tensor:
        z = normals(like, n, noise)
        norm = z.flatten(2).norm(dim=2).reshape(*z.shape[:2], *(1,) * (z.ndim - 2))
        return z * (math.sqrt(math.prod(z.shape[2:])) / norm)


@dataclass(frozen=True)
class Hadamard(Probes):
    """Signs that are orthogonal to each other: rows of Hadamard's matrix, under shared signs.

    The matrix is Sylvester's, of P >= D rows, P the next power of two, cut to D columns. All its
    rows together give the trace itself. So a sample's set is drawn from P values without
    replacement: its variance is that of Rademacher probes by (P - n) / (P - 1).

    Raises:
        ValueError: more probes than rows.
    """

    def draw(self, like: Tensor, n: int, noise: Noise) -> Tensor:
        d = math.prod(like.shape[1:])
        if n > _rows(d):
            raise ValueError(f"n={n}: {self} has {_rows(d)} probes in {d} dimensions")
        order = noise.fold(1).normal(like.new_empty(len(like), _rows(d)))
        # the entry of row k and column i is the parity of the bits that k and i share
        bits = order.argsort(1)[:, :n, None] & torch.arange(d, device=like.device)
        for shift in (32, 16, 8, 4, 2, 1):
            bits = bits ^ (bits >> shift)
        walsh = (1 - 2 * (bits & 1)).to(like.dtype).reshape(len(like), n, *like.shape[1:])
        return walsh * _signs(noise.fold(0).normal(like))[:, None]

    def left(self, n: int, d: int) -> float:
        return 1.0 - n / _rows(d)


def normals(like: Tensor, n: int, noise: Noise) -> Tensor:
    """Return n independent unit normals (B, n, *) for each sample of a batch like (B, *)."""
    return torch.stack([noise.fold(k).normal(like) for k in range(n)], 1)


def _signs(z: Tensor) -> Tensor:
    return torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def _rows(d: int) -> int:
    return 1 << (d - 1).bit_length()
