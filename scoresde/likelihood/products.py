"""Products with the Jacobian of a network's flow at one level, forward or in reverse."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field
from scoresde.sde import Level
from scoresde.tensors import cos, sin

Mode = Literal["forward", "reverse"]
"""How products with the network's Jacobian are had: forward mode keeps no graph."""


def find_mode(field: Field, x: Tensor) -> Mode:
    """Return forward where the network takes forward mode, found out by one call on one sample.

    That call is made beside those of the solve, and no budget or record counts it.

    Operations without a forward derivative, checkpointed activations and work in place do not.
    """
    if not len(x):
        return "reverse"
    one = field.rows(torch.zeros(1, dtype=torch.long, device=x.device), len(x))
    level = field.sde.level(field.sde.t_min)
    with warnings.catch_warnings():
        # of torch, in loading its own derivatives
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        try:
            forward(flow_of(one.model, level, one.cond), x[:1], x[:1, None])
        except (RuntimeError, NotImplementedError):
            return "reverse"
    return "forward"


def flow_of(
    model: BaseDenoiser, level: Level, cond: Mapping[str, Any]
) -> Callable[[Tensor], Tensor]:
    """Return -v of the flow in the polar frame, as a function of x (B, *)."""
    c = model.data_std
    phi = level.angle(c)
    return lambda x: model(x, level, **cond).combine(x0=sin(phi) / c, eps=-cos(phi))


def products(
    flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor, mode: Mode
) -> tuple[Tensor, Tensor]:
    """Return a flow's value at x (B, *), and its Jacobian's products with probes (B, K, *)."""
    return (forward if mode == "forward" else reverse)(flow, x, probes)


def forward(flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow (B, *) and its Jacobian's products J e (B, K, *) with probes e."""

    def along(e: Tensor) -> tuple[Tensor, Tensor]:
        out, pushed = torch.func.jvp(flow, (x,), (e,))[:2]
        return out, pushed

    out, pushed = torch.func.vmap(along, 1, chunk_size=_at_once(probes))(probes)
    return out[0], pushed.movedim(0, 1)


def reverse(flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow (B, *) and its Jacobian's products J^T e (B, K, *) with probes e."""
    keep = torch.is_grad_enabled()
    # by autograd and not torch.func, which knows no checkpointed activations; a product, since a
    # leaf would answer a network that writes to its input before the denoiser can
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        out = flow(1.0 * x)
    parts = [_pull(out, x, chunk, keep) for chunk in probes.split(_at_once(probes), dim=1)]
    return out if keep else out.detach(), torch.cat(parts, 1)


def _pull(out: Tensor, x: Tensor, probes: Tensor, keep: bool) -> Tensor:
    if not out.requires_grad:
        return torch.zeros_like(probes)
    (pulled,) = torch.autograd.grad(
        out, x, probes.movedim(1, 0), is_grads_batched=True,
        retain_graph=True, create_graph=keep, materialize_grads=True,
    )  # fmt: skip
    return pulled.movedim(0, 1)


def _at_once(probes: Tensor) -> int:
    """Return how many of the probes (B, K, *) go through the network at once."""
    layer = _WIDTH * probes[:, :1].numel() * probes.element_size()
    return max(1, _MEMORY // max(1, layer))


_MEMORY = 2**28  # bytes of a layer, for all the probes that go through the network at once
_WIDTH = 64  # of the layer to that of the network's input
