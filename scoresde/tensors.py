"""Linear combinations of tensors, and scalar functions of a float or a tensor.

A scalar of a solve is a Python float where the whole batch shares it, and a tensor of shape
(B, 1, ..., 1) where every sample has its own. Solvers are written once, against the functions of
this module, and serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Scalar = float | Tensor
"""A float, or a tensor of shape (B, 1, ..., 1)."""

Term = tuple[Scalar, Tensor]
"""A coefficient and the tensor it multiplies."""


def lincomb(*terms: Term) -> Tensor:
    """Return sum_i c_i x_i, one tensor operation a term, in the dtype of the tensors.

    Coefficients never promote: a float64 tensor of per-sample coefficients is cast to the dtype of
    the x it multiplies. A term whose coefficient is the float 0 is left out, so that 0 * inf never
    appears.

    Args:
        terms: pairs (c, x) with x (B, *) and c a float or a tensor (B, 1, ..., 1).
    """
    total: Tensor | None = None
    for c, x in terms:
        if isinstance(c, Tensor):
            c = c.to(x.dtype)
            total = x * c if total is None else torch.addcmul(total, x, c)
        elif c == 0.0:
            continue
        elif total is None:
            total = x if c == 1.0 else x * c
        else:
            total = torch.add(total, x, alpha=c)
    return torch.zeros_like(terms[0][1]) if total is None else total


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) with the rank of `like` (B, *)."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _either(
    of_float: Callable[[float], float], of_tensor: Callable[[Tensor], Tensor]
) -> Callable[[Scalar], Scalar]:
    def function(x: Scalar) -> Scalar:
        return of_tensor(x) if isinstance(x, Tensor) else of_float(x)

    return function


def _log(x: float) -> float:
    return math.log(x) if x != 0.0 else -math.inf


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


sin = _either(math.sin, torch.sin)
cos = _either(math.cos, torch.cos)
tan = _either(math.tan, torch.tan)
asinh = _either(math.asinh, torch.asinh)
sinh = _either(math.sinh, torch.sinh)
sqrt = _either(math.sqrt, torch.sqrt)
expm1 = _either(math.expm1, torch.expm1)
log = _either(_log, torch.log)  # log 0 = -inf for floats too: lam is infinite at sigma = 0
exp = _either(_exp, torch.exp)  # and exp saturates at inf instead of raising


def normal_cdf(z: float) -> float:
    """Return Phi(z), the distribution function of N(0, 1)."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def softplus(x: Scalar) -> Scalar:
    """Return log(1 + e^x) without overflow, to full relative accuracy for x << 0."""
    if isinstance(x, Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def atan2(y: Scalar, x: Scalar) -> Scalar:
    """Return the angle of the point (x, y)."""
    if isinstance(y, Tensor) or isinstance(x, Tensor):
        return torch.atan2(*_alike(y, x))
    return math.atan2(y, x)


def hypot(x: Scalar, y: Scalar) -> Scalar:
    """Return sqrt(x^2 + y^2)."""
    if isinstance(y, Tensor) or isinstance(x, Tensor):
        return torch.hypot(*_alike(x, y))
    return math.hypot(x, y)


def _alike(*values: Scalar) -> tuple[Tensor, ...]:
    # a float made a tensor by itself would be rounded to float32, on the host
    like = next(v for v in values if isinstance(v, Tensor))
    return tuple(torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values)
