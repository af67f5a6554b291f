"""Networks as denoisers: one call, and x0, eps, v, score and velocity all follow.

A network predicts one linear combination of the data x0 and the noise eps in
x = alpha x0 + sigma eps. Together with x itself that fixes both, and so every other prediction
(Salimans and Ho 2022, arXiv:2202.00512, App. D; Karras et al. 2022, arXiv:2206.00364, eq. 7).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from scoresde.errors import require_kind
from scoresde.sde import SDE, Level
from scoresde.tensors import Scalar, Term, lincomb

Predicts = Literal["eps", "x0", "v", "score", "velocity", "edm"]
"""What a network puts out; `Denoiser` says what each means."""

Pair = tuple[Scalar, Scalar]


def _solve(predicts: Predicts, level: Level, sde: SDE, data_std: float) -> tuple[Pair, Pair]:
    """Return x0 and eps as coefficients of (x, out): the one table of conversions.

    No entry divides by sigma except where x0 is the output, and none by alpha except where the
    noise is: v and velocity are sound at alpha = 0, whatever alpha^2 + sigma^2 is.
    """
    a, s = level.alpha, level.sigma
    match predicts:
        case "eps":
            return (1.0 / a, -s / a), (0.0, 1.0)
        case "score":
            return (1.0 / a, s * s / a), (0.0, -s)
        case "x0":
            return (0.0, 1.0), (1.0 / s, -a / s)
        case "v":
            r2 = a * a + s * s
            return (a / r2, -s / r2), (s / r2, a / r2)
        case "velocity":
            da, ds = sde.dalpha(level.t), sde.dsigma(level.t)
            w = a * ds - s * da
            return (ds / w, -s / w), (-da / w, a / w)
        case "edm":
            r = level.radius(data_std)
            return (a * data_std**2 / r**2, s * data_std / r), (s / r**2, -a * data_std / r)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one network call says of x: the plane spanned by x and the output.

    Attributes:
        x: the noisy state (B, *).
        out: the network's output (B, *).
        level: the noise level of x.
        sde: the process.
        x0_of: (a, b) with x0 = a x + b out.
        eps_of: (a, b) with eps = a x + b out.
    """

    x: Tensor
    out: Tensor
    level: Level
    sde: SDE
    x0_of: Pair
    eps_of: Pair

    @staticmethod
    def of(
        predicts: Predicts, x: Tensor, out: Tensor, level: Level, sde: SDE, data_std: float = 1.0
    ) -> Prediction:
        """Return the prediction that the output `out` of a network of kind `predicts` makes."""
        return Prediction(x, out, level, sde, *_solve(predicts, level, sde, data_std))

    def combine(self, x: Scalar = 0.0, x0: Scalar = 0.0, eps: Scalar = 0.0) -> Tensor:
        """Return x * state + x0 * data + eps * noise, in two tensor operations."""
        of_x, of_out = self._coefficients(x, x0, eps)
        return lincomb((of_x, self.x), (of_out, self.out))

    def term(self, x: Scalar = 0.0, x0: Scalar = 0.0, eps: Scalar = 0.0) -> Term:
        """Return the same combination as a (coefficient, tensor), in one tensor operation.

        For multistep solvers, which keep it in a history and scale it anyway.
        """
        of_x, of_out = self._coefficients(x, x0, eps)
        if isinstance(of_x, Tensor) or isinstance(of_out, Tensor):
            return 1.0, lincomb((of_x, self.x), (of_out, self.out))
        if of_x == 0.0:
            return of_out, self.out
        return of_x, lincomb((1.0, self.x), (of_out / of_x, self.out))

    def _coefficients(self, x: Scalar, x0: Scalar, eps: Scalar) -> Pair:
        (xx, xo), (ex, eo) = self.x0_of, self.eps_of
        return x + x0 * xx + eps * ex, x0 * xo + eps * eo

    @property
    def x0(self) -> Tensor:
        """The expected data, E[x_0 | x]."""
        return self.combine(x0=1.0)

    @property
    def eps(self) -> Tensor:
        """The expected noise, E[eps | x] = (x - alpha x0) / sigma."""
        return self.combine(eps=1.0)

    @property
    def v(self) -> Tensor:
        """Velocity on the circle, v = alpha eps - sigma x0."""
        return self.combine(eps=self.level.alpha, x0=-self.level.sigma)

    @property
    def score(self) -> Tensor:
        """Gradient of the log-density of x, -eps / sigma."""
        return self.combine(eps=-1.0 / self.level.sigma)

    @property
    def velocity(self) -> Tensor:
        """Velocity of the probability flow, dx/dt = (d alpha/dt) x0 + (d sigma/dt) eps."""
        t = self.level.t
        return self.combine(x0=self.sde.dalpha(t), eps=self.sde.dsigma(t))


def feed_t(level: Level) -> Scalar:
    """Feed the network t itself, in [0, T]."""
    return level.t


def feed_999t(level: Level) -> Scalar:
    """Feed 999 t, as networks trained on 1000 discrete steps expect."""
    return 999.0 * level.t


def feed_log_sigma(level: Level) -> Scalar:
    """Feed log(sigma / alpha) / 4, the c_noise of EDM (arXiv:2206.00364, Table 1)."""
    return -0.25 * level.lam


class BaseDenoiser(nn.Module, ABC):
    """What solvers, likelihoods and guidance need of a model: a process and a prediction.

    Attributes:
        sde: the forward process.
        data_std: standard deviation of the data, one number; sets the scale of frames and grids.
    """

    def __init__(self, sde: SDE, data_std: float = 1.0) -> None:
        super().__init__()
        require_kind(sde, SDE, "sde")
        if not 0.0 < data_std < math.inf:
            raise ValueError(f"data_std={data_std} must be positive and finite")
        self.sde, self.data_std = sde, float(data_std)

    @abstractmethod
    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        """Return the prediction at x (B, *), for a level of floats or of one value a sample."""


class Denoiser(BaseDenoiser):
    """A network, a process, and what the network predicts.

    | predicts | the network's output is |
    | --- | --- |
    | "eps" | the noise |
    | "x0" | the data |
    | "v" | alpha eps - sigma x0 (arXiv:2202.00512) |
    | "score" | the gradient of log p_t |
    | "velocity" | dx/dt of the probability flow: d alpha/dt x0 + d sigma/dt eps |
    | "edm" | F of D = c_skip x + c_out F(c_in x) (arXiv:2206.00364, eq. 7), for any alpha |

    The network is called as `net(x, t, **cond)` with x (B, *) in the network's own dtype and t
    (B,) in float32, or in float64 for a float64 network; it returns a tensor of x's shape.

    Args:
        net: the network.
        sde: the forward process.
        predicts: what the network puts out.
        data_std: standard deviation of the data, which "edm" preconditions with.
        time_input: what is fed as t, a function of the level: `feed_t`, `feed_999t`,
            `feed_log_sigma` (the default for "edm") or your own.

    Raises:
        ValueError: unknown `predicts`; "eps" or "score" for a process whose alpha(T) is 0, where
            the noise says nothing of the data; a `time_input` that is infinite at T, as
            `feed_log_sigma` is there; an output of another shape or of integers; a network that
            changes its input in place.
        TypeError: an `sde` that is no process; an output that is no tensor.
    """

    def __init__(
        self,
        net: nn.Module,
        sde: SDE,
        predicts: Predicts = "eps",
        *,
        data_std: float = 1.0,
        time_input: Callable[[Level], Scalar] | None = None,
    ) -> None:
        super().__init__(sde, data_std)
        if predicts not in get_args(Predicts):
            raise ValueError(f"predicts={predicts!r} must be one of {get_args(Predicts)}")
        if predicts in ("eps", "score") and float(sde.alpha(sde.T)) == 0.0:
            raise ValueError(
                f"predicts={predicts!r}: alpha is 0 at T={sde.T} of {sde}, where the noise does "
                f"not determine the data; predict 'x0', 'v' or 'velocity', or choose a smaller T"
            )
        self.net = net
        self.predicts: Predicts = predicts
        self.time_input = time_input or (feed_log_sigma if predicts == "edm" else feed_t)
        if not math.isfinite(fed := float(self.time_input(sde.level(sde.T)))):
            raise ValueError(
                f"time_input: feeds the network {fed} at T={sde.T} of {sde}; use feed_t, or "
                f"choose a smaller T"
            )

    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        level = level.like(x)
        dtype = floating_dtype(self.net) or x.dtype
        fed = x.to(dtype)
        if self.predicts == "edm":
            fed = lincomb((1.0 / level.radius(self.data_std), fed))
        version = _version(x)
        out = self.net(fed, self._time(x, level, dtype), **cond)
        if _version(x) != version:
            raise ValueError("net: changes its input in place; let it work on x.clone()")
        return self._read(x, out, level)

    def _read(self, x: Tensor, out: Any, level: Level) -> Prediction:
        _check_output(out, x)
        return Prediction.of(self.predicts, x, out.to(x.dtype), level, self.sde, self.data_std)

    def _time(self, x: Tensor, level: Level, dtype: torch.dtype) -> Tensor:
        # a half-precision t would merge neighbouring levels: 999 t in bf16 has steps of 4
        dtype = torch.promote_types(dtype, torch.float32)
        value = self.time_input(level)
        if isinstance(value, Tensor):
            return value.reshape(-1).to(device=x.device, dtype=dtype).expand(len(x))
        return torch.full((len(x),), value, dtype=dtype, device=x.device)


class Field:
    """A denoiser with its condition bound: what a solver sees.

    Attributes:
        sde: the process.
        data_std: the data's standard deviation.
        nfe: network calls made through this field so far.
    """

    def __init__(self, model: BaseDenoiser, cond: Mapping[str, Any] | None = None) -> None:
        self.model, self.cond = model, dict(cond or {})
        self.sde, self.data_std = model.sde, model.data_std
        self.nfe = 0

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x (B, *)."""
        self.nfe += 1
        return self.model(x, level, **self.cond)

    def rows(self, index: Tensor, batch: int) -> Field:
        """Return the field for some samples of a batch.

        Tensors in the condition whose first dimension is `batch` are selected likewise.
        """
        cond = {
            k: v[index] if isinstance(v, Tensor) and v.ndim and len(v) == batch else v
            for k, v in self.cond.items()
        }
        return Field(self.model, cond)


def _version(x: Tensor) -> int:
    # a compiler cannot follow it, and tensors of inference mode have none
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


def _check_output(out: Any, x: Tensor) -> None:
    if not isinstance(out, Tensor):
        kind = type(out).__name__
        raise TypeError(f"net: returns a {kind}, not a tensor; wrap it to return the tensor in it")
    if out.shape != x.shape:
        raise ValueError(
            f"net: output has shape {tuple(out.shape)} for an input of shape {tuple(x.shape)}; a "
            f"denoiser's network keeps the shape"
        )
    if not out.is_floating_point():
        raise ValueError(f"net: output has dtype {out.dtype}; a denoiser's network returns floats")


def floating_dtype(net: nn.Module) -> torch.dtype | None:
    """Return the dtype of the network's floating parameters, or buffers, or None without any."""
    tensors = chain(net.parameters(), net.buffers())
    return next((p.dtype for p in tensors if p.is_floating_point()), None)
