"""Gradients of a solve: through its graph, by recomputing parts of it, or by the adjoint flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from scoresde.denoiser import Field, Prediction
from scoresde.noise import InjectedNoise, Noise, RecordedNoise
from scoresde.sde import Level
from scoresde.solvers import AdaptiveSolver, PolarFrame, Solver
from scoresde.tensors import Scalar, lincomb, per_sample

Gradient = Literal["direct", "checkpoint", "adjoint"]
"""How a solve of N steps gets its gradients with respect to x, cond and the parameters.

- "direct": through the graph of all steps, whose memory grows like N.
- "checkpoint": the same, of about sqrt(N) steps at a time, which are taken again for it. Noise is
  a function of its address, so they are the same steps; fixed grids only.
- "adjoint": by a solve of the adjoint flow back to the start, in memory that does not grow: the
  gradients of the exact flow, up to the error of the solver; deterministic solvers only, and no
  second derivatives. It goes back by the same solver, after `AdaptiveAdams` by `DormandPrince`.
"""

_FRAME = PolarFrame()


def check_gradient(
    gradient: Gradient | None,
    field: Field,
    x: Tensor,
    solver: Solver,
    noise: Noise,
    trajectory: bool,
) -> None:
    """Refuse what a way to take gradients cannot do, before anything is solved from x (B, *).

    Raises:
        ValueError: naming what stands against it, and the remedy.
    """
    if gradient not in (None, *get_args(Gradient)):
        raise ValueError(f"gradient={gradient!r} must be None or one of {get_args(Gradient)}")
    adaptive, stochastic = isinstance(solver, AdaptiveSolver), solver.stochastic
    if gradient == "checkpoint" and adaptive:
        other = "direct" if stochastic else "adjoint"
        raise ValueError(
            f"gradient='checkpoint': {solver} does not know beforehand how many steps it takes; "
            f"take gradient={other!r}"
        )
    if gradient == "checkpoint" and stochastic and isinstance(noise, InjectedNoise | RecordedNoise):
        raise ValueError(
            f"gradient='checkpoint': {noise} draws in order, and steps that are taken again would "
            f"draw anew; take gradient='direct', or SeededNoise"
        )
    if gradient == "adjoint" and stochastic:
        other = "direct" if adaptive else "checkpoint"
        raise ValueError(
            f"gradient='adjoint': {solver} draws noise, and the adjoint is that of a flow; take "
            f"gradient={other!r}"
        )
    if gradient == "adjoint" and trajectory:
        raise ValueError(
            "gradient='adjoint': gradients are those of the end alone; leave trajectory out, or "
            "take gradient='checkpoint'"
        )
    if gradient == "adjoint":
        _check_counted(solver)
        _check_hidden(field, x)


def parts(steps: int, gradient: Gradient | None) -> list[range]:
    """Return the steps in the parts that are taken again at once: about sqrt(N) of that length."""
    length = math.isqrt(max(steps - 1, 0)) + 1 if gradient == "checkpoint" else max(steps, 1)
    return [range(k, min(k + length, steps)) for k in range(0, steps, length)]


def again(part: Callable[..., Any], gradient: Gradient | None) -> Callable[..., Any]:
    """Return a part of a solve as one that keeps no graph, but is run again for its gradients."""
    if gradient != "checkpoint":
        return part
    # nothing that a solve does reads torch's global generator
    return lambda *args: checkpoint(part, *args, use_reentrant=False, preserve_rng_state=False)


def adjoint(
    field: Field,
    x: Tensor,
    end: Tensor,
    last: Tensor,
    solver: Solver,
    levels: Sequence[Level],
    denoise: bool,
) -> Tensor:
    """Return the end of a solve with gradients by the adjoint of the flow.

    Args:
        field: what was solved.
        x: the start (B, *).
        end: what was found (B, *), without a graph.
        last: the state at the last level with sigma > 0 (B, *).
        solver: how, and how to go back.
        levels: from the start to there; each sample's own, (B, 1), after an adaptive solve.
        denoise: whether a step to sigma = 0 followed.
    """
    bound = [k for k, v in field.cond.items() if isinstance(v, Tensor) and v.requires_grad]
    own = [p for p in chain(field.model.parameters(), field.model.buffers()) if p.requires_grad]
    calls = solver.nfe(len(levels) - 1, denoise=False)
    back = _Back(field, solver, tuple(levels[::-1]), calls, denoise, tuple(bound), _autocast(x))
    return _Adjoint.apply(back, last, end, x, *own, *(field.cond[k] for k in bound))


def _check_counted(solver: Solver) -> None:
    try:
        solver.nfe(1, denoise=False)
    except ValueError:
        said = f"gradient='adjoint': {solver} cannot tell its calls; take DormandPrince"
        raise ValueError(said) from None


def _check_hidden(field: Field, x: Tensor) -> None:
    if not len(x):
        return
    model, one = field.model, field.rows(torch.zeros(1, dtype=torch.long, device=x.device), len(x))
    known = {k: v.detach() for k, v in chain(model.named_parameters(), model.named_buffers())}
    cond = {k: v.detach() if isinstance(v, Tensor) else v for k, v in one.cond.items()}
    level = field.sde.level(field.sde.t_min)
    with torch.enable_grad():
        found = functional_call(model, known, (x[:1].detach(), level), cond)
    if found.out.requires_grad:
        raise ValueError(
            "gradient='adjoint': the network depends on a tensor with gradients that it does not "
            "own; make it a parameter or a buffer, hand it over in cond, or take "
            "gradient='checkpoint'"
        )


def _autocast(x: Tensor) -> torch.autocast:
    kind = x.device.type
    return torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
    )


class _Adjoint(torch.autograd.Function):
    """The end of a solve as a function of its start and of the tensors that the flow depends on."""

    @staticmethod
    def forward(
        ctx: Any, back: _Back, last: Tensor, end: Tensor, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.back = back
        ctx.save_for_backward(last, *tensors)
        return end.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        last, *tensors = ctx.saved_tensors
        return None, None, None, *ctx.back(last, grad, tensors)


@dataclass(frozen=True)
class _Back:
    """The way back of a solve.

    Attributes:
        field: what was solved.
        solver: how.
        levels: from the last one with sigma > 0 back to the start.
        calls: network calls on that way.
        denoise: whether a step to sigma = 0 followed.
        bound: the tensors of the condition, by name, which gradients are wanted for.
        autocast: as it was on the way there.
    """

    field: Field
    solver: Solver
    levels: tuple[Level, ...]
    calls: int
    denoise: bool
    bound: tuple[str, ...]
    autocast: torch.autocast

    def __call__(self, last: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients with respect to the start and the tensors, the condition's last."""
        own = len(tensors) - len(self.bound)
        leaves = [v.detach().requires_grad_() for v in tensors[own:]]  # so that graphs end here
        cond = {**self.field.cond, **dict(zip(self.bound, leaves, strict=True))}
        flow = _AdjointFlow(
            Field(self.field.model, cond), last.shape, [*tensors[:own], *leaves], self._weights()
        )
        rows, c = last.flatten(1), self.field.data_std
        first, start = (self.levels[k].like(rows) for k in (0, -1))
        with self.autocast:
            if self.denoise:
                level = first.like(last)
                grad = flow.pull(lambda x: flow.field(x, level).x0, last, grad)[1]
            # b = r dL/dx, and the coordinate is r b
            adjoint = lincomb((first.radius(c) ** 2, grad.flatten(1)))
            both = _walk(self.solver, flow, torch.cat([rows, adjoint], 1), self.levels)
        found = lincomb((start.radius(c) ** -2, both[:, rows.shape[1] :])).reshape(last.shape)
        pairs = zip(flow.sums, tensors, strict=True)
        return [found, *(total.to(tensor.dtype) for total, tensor in pairs)]

    def _weights(self) -> list[Scalar]:
        """Return the weights of the network calls in the integral of b, given r b at each.

        A solver is linear in the predictions: a coordinate for each call, which moves there alone,
        ends at the weight of the call. Samples with levels of their own have weights (B,) of their
        own.
        """
        t = self.levels[0].t
        shape = (len(t) if isinstance(t, Tensor) else 1, self.calls)
        device = t.device if isinstance(t, Tensor) else None
        units = torch.zeros(shape, dtype=torch.float64, device=device)
        ends = _walk(self.solver, _Units(self.field.model), units, self.levels)
        ends = ends / self.levels[-1].radius(self.field.data_std)
        return list(ends.unbind(1)) if isinstance(t, Tensor) else ends[0].tolist()


class _AdjointFlow(Field):
    """The flow of (x, r b), flattened, where b is the gradient with respect to y = x / r.

    In the polar frame dy/dphi = v(y), so db/dphi = -(dv/dy)^T b, and r b is a coordinate like any
    other. The gradient with respect to a tensor p is the integral of (dv/dp)^T b dphi from start
    to end, and is summed on the way with the weights that the solver gives to its calls (Chen et
    al. 2018, arXiv:1806.07366, App. B).

    Attributes:
        field: what was solved.
        sums: the gradients with respect to tensors so far.
    """

    def __init__(
        self, field: Field, shape: torch.Size, tensors: Sequence[Tensor], weights: list[Scalar]
    ) -> None:
        super().__init__(field.model, field.cond)
        self.field, self._shape, self._tensors, self._weights = field, shape, tensors, weights
        wide = (torch.promote_types(t.dtype, torch.float32) for t in tensors)
        self.sums = [torch.zeros_like(t, dtype=d) for t, d in zip(tensors, wide, strict=True)]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        data, adjoint = (part.reshape(self._shape) for part in x.chunk(2, 1))
        own, weight = level.like(data), self._weights[self.nfe]
        self.nfe += 1
        v, moved = self.pull(lambda x: _FRAME.slope(self.field, x, own), data, adjoint, weight)
        out = torch.cat([-v.flatten(1), moved.flatten(1)], 1)
        return Prediction.of("edm", x, out, level, self.sde, self.data_std)

    def pull(
        self, function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, weight: Scalar = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return f(x) and its J^T grad, and sum up the weighted products for the tensors."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            out = function(x)
        if isinstance(weight, Tensor):
            (moved,) = _pull(out, [x], grad)
            found = _pull(out, self._tensors, lincomb((per_sample(weight, grad), grad)))
            weight = 1.0
        else:
            moved, *found = _pull(out, [x, *self._tensors], grad)
        for total, part in zip(self.sums, found, strict=True):
            total.add_(part, alpha=weight)
        return out.detach(), moved


class _Units(Field):
    """The flow whose slope at call k is minus the unit vector k, over r."""

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        minus = torch.zeros_like(x)
        minus[:, self.nfe : self.nfe + 1] = 1.0 / level.radius(self.data_std)
        self.nfe += 1
        return Prediction.of("edm", x, minus, level, self.sde, self.data_std)


def _walk(solver: Solver, field: Field, x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Carry x (B, *) along levels of sigma > 0 by a deterministic solver."""
    state, nothing = solver.init(field, x, levels[0]), InjectedNoise(())
    for here, there in pairwise(levels):
        x, state, _ = solver.step(field, x, here, there, state, nothing)
    return x


def _pull(out: Tensor, inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Return the products J^T grad for each of the inputs."""
    if not (inputs and out.requires_grad):
        return tuple(map(torch.zeros_like, inputs))
    return torch.autograd.grad(out, inputs, grad, retain_graph=True, materialize_grads=True)
