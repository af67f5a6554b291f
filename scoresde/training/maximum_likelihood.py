"""Maximum likelihood: the negative log-likelihood of the probability flow as an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.gradients import Gradient
from scoresde.likelihood import Hutchinson, Trace, log_likelihood
from scoresde.solvers import AdamsPC, Solver


@dataclass(frozen=True)
class MaximumLikelihood:
    """The mean of -log p(x) / D over a batch, in nats per dimension, for fine-tuning.

    Denoising score matching bounds it from above; here the density of the flow itself is raised,
    with gradients through its solve (Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019,
    arXiv:1810.01367). A step costs a few solves, so a model is trained by `DSM` first. Grey
    levels have no density: let the batches dequantise them, each time anew.

    An estimated trace leaves loss and gradient without bias, since both are linear in it: one
    probe a sample is enough. What the solver's steps are too few for is no density, and may be
    exploited: measure with more steps than are trained with.

    Attributes:
        trace: how to take the trace of the flow's Jacobian.
        solver: deterministic.
        steps: steps a solve; None for a solver that adapts.
        gradient: how to take gradients; all but "direct" save memory.

    Raises:
        ValueError: when called, as `scoresde.log_likelihood`; with active dropout, so that a model
            to be fine-tuned is built without it.
    """

    trace: Trace = field(default_factory=lambda: Hutchinson(1))
    solver: Solver = field(default_factory=AdamsPC)
    steps: int | None = 20
    gradient: Gradient = "checkpoint"

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with probes by the generator alone."""
        place = {"generator": generator, "device": generator.device}
        found = log_likelihood(
            model, x0, trace=self.trace, solver=self.solver, steps=self.steps, cond=cond,
            seed=int(torch.randint(2**62, (), **place)), gradient=self.gradient,
        )  # fmt: skip
        return -found.nats.mean() / found.dim
