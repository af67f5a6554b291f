"""What a forward process is checked for: that its formulas are those of one Gaussian diffusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.tensors import Scalar
from scoresde.testing.report import ContractError, Report, findings, hold

EPS = torch.finfo(torch.float64).eps
NODES = 65


def check_process(sde: SDE) -> Report:
    """Hold a forward process to the identities that tie alpha, sigma, f, g^2 and lam together.

    All in float64, at times from t_min (from 1e-7 T, where that is 0) up to T; alpha may be 0 at T
    itself. What float32 makes of the same times is held against that.
    """
    return Report(sde, findings(CHECKS, sde))


def coefficients(sde: SDE) -> str:
    """Alpha' = f alpha and (sigma^2)' = 2 f sigma^2 + g^2, and what derives from them."""
    t = _times(sde)
    alpha, dalpha = _slope(sde.alpha, t)
    sigma, dsigma = _slope(sde.sigma, t)
    f, g2 = _of(sde.f, t), _of(sde.g2, t)
    _equal("alpha' and f alpha", dalpha, f * alpha, dalpha.abs())
    # the sum cancels where the process saturates: the error is relative to its terms
    terms = 2.0 * f.abs() * sigma**2 + g2.abs()
    total = 2.0 * f * sigma**2 + g2
    _equal("(sigma^2)' and 2 f sigma^2 + g^2", 2.0 * sigma * dsigma, total, terms)
    hold(bool((g2 >= 0.0).all()), f"g^2 is negative: {float(g2.min()):.3g}")
    _equal("g^2 and its root squared", _of(sde.g, t) ** 2, g2, g2)
    _equal("dalpha and alpha'", _of(sde.dalpha, t), dalpha, dalpha.abs())
    _equal("dsigma and sigma'", _of(sde.dsigma, t), dsigma, terms / sigma)
    return "alpha' = f alpha, (sigma^2)' = 2 f sigma^2 + g^2"


def inverse(sde: SDE) -> str:
    """Lam = log(alpha / sigma) decreases strictly, and t_at inverts it."""
    t = _times(sde)
    lam, rate = _slope(sde.lam, t)
    exact = (_of(sde.alpha, t) / _of(sde.sigma, t)).log()
    _equal("lam and log(alpha / sigma)", lam, exact, 1.0 + lam.abs())
    hold(bool((rate < 0.0).all() and (lam.diff() < 0.0).all()), "lam does not decrease strictly")
    # the inverse cannot be better than the rounding of lam
    bound = 64.0 * EPS * (1.0 + lam.abs()) / rate.abs() + 1e-10 * t
    far = float(((_of(sde.t_at, lam) - t).abs() / bound).max())
    hold(far <= 1.0, f"t_at(lam(t)) misses t, by {far:.2g} times the rounding of lam")
    return "lam decreases, and t_at inverts it"


def kernels(sde: SDE) -> str:
    """Transitions have the marginals' laws, and those through a time between compose."""
    times = _times(sde)[:: NODES // 8].tolist()
    for u, s, t in zip(times, times[1:], times[2:], strict=False):
        first, second, direct = sde.transition(u, s), sde.transition(s, t), sde.transition(u, t)
        size = float(sde.sigma(t)) ** 2
        pairs = {
            "scale": (second.scale * first.scale, direct.scale, direct.scale),
            "variance": (second.std**2 + (second.scale * first.std) ** 2, direct.std**2, size),
            "marginal": (direct.std**2 + (direct.scale * float(sde.sigma(u))) ** 2, size, size),
        }
        for what, (found, exact, scale) in pairs.items():
            far = abs(float(found) - float(exact)) / float(scale)
            hold(far <= 1e-11, f"the {what} of {u:.3g} -> {s:.3g} -> {t:.3g} is off by {far:.1e}")
    return "compose exactly, and carry one marginal to the next"


def tensors(sde: SDE) -> str:
    """Functions of time, and t_at, take floats and tensors to the same values, shapes, dtypes."""
    t = _times(sde)[:: NODES // 8]
    drift = (_of(sde.f, t) * _of(sde.sigma, t)).abs()
    terms = {"lam": torch.ones_like(t), "dsigma": drift}  # what may cancel in a value
    for name in ("alpha", "sigma", "f", "g2", "g", "lam", "dalpha", "dsigma", "t_at"):
        function, argument = getattr(sde, name), _of(sde.lam, t) if name == "t_at" else t
        each = [function(u) for u in argument.tolist()]
        hold(all(isinstance(v, float) for v in each), f"{name} of a float is no float")
        for dtype in (torch.float32, torch.float64):
            found = _of(function, argument[:, None].to(dtype))
            hold(
                found.shape == (len(t), 1) and found.dtype == dtype,
                f"{name} of {dtype} {(len(t), 1)} is {found.dtype} {tuple(found.shape)}",
            )
        exact = torch.tensor(each, dtype=torch.float64)
        scale = exact.abs() + terms.get(name, 0.0)
        _equal(f"{name} of floats and of tensors", _of(function, argument), exact, scale)
    return "floats and tensors agree; shape and dtype are kept"


def precision(sde: SDE) -> str:
    """In float32 alpha and sigma are as good as float32 is, at every time."""
    t = _times(sde).float()
    lam = _of(sde.lam, t.double()).abs().clamp(max=50.0)
    worst = 0.0
    for name in ("alpha", "sigma"):
        single, double = (getattr(sde, name)(u).double() for u in (t, t.double()))
        # an exponent or a difference near alpha = 0 is rounded at the size of its terms
        scale = double if name == "sigma" else double.clamp(min=1.0)
        far = (single - double).abs() / (scale * (1.0 + 0.2 * lam))
        worst = max(worst, float(far.max()))
        at = float(t[far.argmax()])
        hold(worst <= 1e-6, f"{name} in float32 is off by {worst:.1e} at t = {at:.1e}; use expm1")
    return f"float32 to {worst:.0e}, from t = {float(t[0]):.0e}"


def perturbs(sde: SDE) -> str:
    """A perturbed sample is alpha x0 + sigma eps, at a level of its own, in its own dtype."""
    x0, eps = torch.tensor([[[1.0, -2.0], [0.5, 3.0]], [[0.3, 1.0], [-1.0, 2.0]]])
    t = _times(sde)[[NODES // 3, NODES // 2]]
    noisy = sde.perturb(x0, t, eps)  # as many samples as columns: broadcasting must not choose
    hold(noisy.dtype == x0.dtype, f"samples in {x0.dtype} come out in {noisy.dtype}")
    for i, u in enumerate(t.tolist()):
        exact = float(sde.alpha(u)) * x0[i] + float(sde.sigma(u)) * eps[i]
        _equal("perturb and alpha x0 + sigma eps", noisy[i], exact, exact.abs().max(), rtol=1e-5)
    std = float(sde.prior().std)
    hold(
        abs(std / float(sde.sigma(sde.T)) - 1.0) < 1e-12,
        f"the prior's deviation is {std:.6g}, sigma(T) is {float(sde.sigma(sde.T)):.6g}",
    )
    return "alpha x0 + sigma eps; the prior has the deviation sigma(T)"


def value(sde: SDE) -> str:
    """A process is a value, and knows its time span."""
    try:
        sde.attribute = None  # type: ignore[attr-defined]
    except FrozenInstanceError:
        pass
    else:
        raise ContractError("takes new attributes: not a frozen dataclass")
    for t in (-0.1 * sde.T, 1.1 * sde.T):
        try:
            sde.level(t)
        except ValueError:
            continue
        raise ContractError(f"has a level at t={t:g}, outside [0, {sde.T:g}]")
    return "a frozen dataclass on [0, T]"


CHECKS = (coefficients, inverse, kernels, tensors, precision, perturbs, value)


def _times(sde: SDE) -> Tensor:
    # in steps that shrink with t; short of T, where alpha may be 0 and f infinite
    low, high = max(sde.t_min, 1e-7 * sde.T), 0.9999 * sde.T
    shares = torch.linspace(0.0, 1.0, NODES, dtype=torch.float64)
    return low * (high / low) ** shares


def _of(function: Callable[[Scalar], Scalar], t: Tensor) -> Tensor:
    found = function(t)
    if not isinstance(found, Tensor):
        name = getattr(function, "__name__", function)
        raise ContractError(f"{name} takes a tensor to {found!r}; return a tensor of its shape")
    return found


def _slope(function: Callable[[Scalar], Scalar], t: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function of time at t and its derivative there, by automatic differentiation."""
    t = t.clone().requires_grad_()
    found = _of(function, t)
    if not found.requires_grad:
        return found, torch.zeros_like(found)
    return found.detach(), torch.autograd.grad(found.sum(), t)[0]


def _equal(what: str, found: Tensor, exact: Tensor, scale: Tensor, *, rtol: float = 1e-10) -> None:
    far = (found - exact).abs() / scale.clamp(min=torch.finfo(torch.float64).tiny)
    far = torch.where(found == exact, 0.0, far.nan_to_num(nan=torch.inf))
    worst = int(far.argmax())
    ratio = float(found.flatten()[worst] / exact.flatten()[worst])
    hold(float(far.max()) <= rtol, f"{what} differ by a factor of {ratio:.9g}")
