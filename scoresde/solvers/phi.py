"""The phi functions of exponential integrators, without cancellation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.tensors import Scalar, expm1


def phi(order: int, z: Scalar) -> Scalar:
    """Return phi_k(z), the integral of e^{(1-s) z} s^{k-1} / (k-1)! over s in [0, 1].

    phi_1(z) = (e^z - 1) / z, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z and phi_k(0) = 1/k! (Hochbruck
    and Ostermann 2010, doi:10.1017/S0962492910000048, eq. 2.10).
    """
    if isinstance(z, Tensor):
        small = z.abs() < 1.0
        near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)
        return torch.where(small, _series(order, near), _quotient(order, far))
    return _series(order, z) if abs(z) < 1.0 else _quotient(order, z)


def phi1(z: Scalar) -> Scalar:
    """Return (e^z - 1) / z."""
    return phi(1, z)


def phi2(z: Scalar) -> Scalar:
    """Return (e^z - 1 - z) / z^2."""
    return phi(2, z)


def _series(order: int, z: Scalar) -> Scalar:
    # 18 terms leave less than rounding for |z| < 1
    value: Scalar = 0.0
    for k in reversed(range(order, order + 18)):
        value = value * z + 1.0 / math.factorial(k)
    return value


def _quotient(order: int, z: Scalar) -> Scalar:
    value = expm1(z) / z
    for k in range(1, order):
        value = (value - 1.0 / math.factorial(k)) / z
    return value
