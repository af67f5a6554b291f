"""The record of a log-likelihood: the number, its parts and its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde.noise import Noise


class Transform(Protocol):
    """A map between data and model space that knows its log-determinant.

    Attributes:
        levels: of integer data 0..levels-1, where level k stands for [k - 1/2, k + 1/2); or None.
    """

    @property
    def levels(self) -> int | None: ...

    def forward(self, x: Tensor) -> Tensor:
        """Map data (B, *) to model space, grey levels as the middles of their bins."""
        ...

    def embed(self, x: Tensor) -> Tensor:
        """Map continuous x (B, *) in data units to model space."""
        ...

    def to_pixels(self, y: Tensor) -> Tensor:
        """Return the grey levels whose bins hold y (B, *)."""
        ...

    def log_det_at(self, y: Tensor) -> float | Tensor:
        """Return log |d model / d data| per dimension at y (B, *), in nats: a float, or (B,)."""
        ...


class Density(Protocol):
    """Anything that gives the log-likelihood of states in model space.

    `partial(scoresde.log_likelihood, model, steps=40)` is one, and so is `partial(scoresde.elbo,
    model)`: a noisy bound, so one draw of `Discrete` suits it and several do not, and it has a
    decoder already.
    """

    def __call__(self, x: Tensor, *, noise: Noise) -> LogLikelihood:
        """Return the log-likelihoods of x (B, *), with all randomness from the noise."""
        ...


@dataclass(frozen=True)
class LogLikelihood:
    """Log-likelihoods of samples, what they are made of, and how far they may be off.

    Three errors are apart: `stderr` of the estimated trace or bound, which more probes or draws
    lower; `error` of the integrator, which a tolerance lowers; and `mismatch` of the prior, which
    neither lowers.

    Attributes:
        nats: log p(x), or a lower bound of it (B,): a density in model space, or the probability of
            integers, which counts all parts.
        parts: what `nats` is the sum of, by name (B,).
        stderr: standard error of `nats` (B,): 0 for an exact trace, NaN where a single probe or
            draw tells nothing of it.
        error: the integrator's own estimate of its error in `nats` (B,): the sum of its steps'
            estimated errors by size. It bounds the error in most cases at tolerances of 1e-5 or
            tighter by `AdaptiveAdams`, and is too small at loose ones and by Runge-Kutta pairs.
            None on a fixed grid, and under flips, whose trace the steps do not see.
        mismatch: KL(q(x_T | x) || prior) in nats (B,), whose mean over the data bounds that of
            log p_T - log prior; None where the prior is no Gaussian.
        nfe: network calls per sample (B,).
        products: products with the network's Jacobian per sample (B,).
        dim: dimensions D of a sample.
        latent: the code at T (B, *); None for bounds.
        log_det_data: log |d model / d data| per dimension, of the data transform: a float, or (B,)
            where it depends on the data; 0 for a probability.
        bound: whether `nats` is a lower bound.
        probability: whether `nats` is of integers, and counts all parts.
        method: how it was had, in words.
    """

    nats: Tensor
    parts: Mapping[str, Tensor]
    stderr: Tensor
    nfe: Tensor
    dim: int
    error: Tensor | None = None
    mismatch: Tensor | None = None
    products: Tensor | None = None
    latent: Tensor | None = None
    log_det_data: float | Tensor = 0.0
    bound: bool = False
    probability: bool = False
    method: str = ""

    @property
    def bits_per_dim(self) -> Tensor:
        """Bits per dimension of the data (B,): -(nats / D + log_det_data) / ln 2."""
        return -(self.nats / self.dim + self.log_det_data) / math.log(2.0)

    @property
    def bits_per_dim_stderr(self) -> Tensor:
        """Standard error of `bits_per_dim` (B,)."""
        return self.stderr / (self.dim * math.log(2.0))

    def to(self, device: torch.device | str) -> LogLikelihood:
        """Return the record with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, parts={k: v.to(device) for k, v in self.parts.items()}, **moved)

    def numpy(self) -> dict[str, np.ndarray]:
        """Return a column for everything that is known of each sample, the latent code aside."""
        columns = {
            "nats": self.nats,
            "stderr": self.stderr,
            "bits_per_dim": self.bits_per_dim,
            "bits_per_dim_stderr": self.bits_per_dim_stderr,
            **self.parts,
            "error": self.error,
            "mismatch": self.mismatch,
            "nfe": self.nfe,
            "products": self.products,
        }
        return {k: v.detach().cpu().numpy() for k, v in columns.items() if v is not None}

    def table(self) -> str:
        """Return the columns of `numpy` as a Markdown table, a line for each sample."""
        columns = self.numpy()
        rows = [[f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True)]
        return "\n".join(
            "| " + " | ".join(r) + " |" for r in [[*columns], ["---"] * len(columns), *rows]
        )

    def __str__(self) -> str:
        n, unit = len(self.nats), "bits/dim"
        if not n:
            return "log-likelihood of no samples"
        bits = self.bits_per_dim.detach().double()
        spread = float(bits.std() / n**0.5) if n > 1 else math.nan
        lines = [
            f"{'upper bound of ' if self.bound else ''}{float(bits.mean()):.4f} +- {spread:.4f} "
            f"{unit}, mean of {n} samples of {self.dim} dimensions",
            f"  trace or draws   {_rms(self.bits_per_dim_stderr):.2g} {unit} each",
        ]
        if self.error is not None:
            scale = self.dim * math.log(2.0)
            lines.append(f"  integrator       {_rms(self.error / scale):.2g} {unit} each")
        if self.mismatch is not None:
            share = float(self.mismatch.detach().mean()) / (self.dim * math.log(2.0))
            lines.append(f"  prior mismatch   at most {share:.2g} {unit} in the mean")
        means = {k: float(v.detach().double().mean()) for k, v in self.parts.items()}
        parts = ", ".join(f"{k} {v:.4f}" for k, v in means.items())
        lines.append(f"  nats             {parts}")
        lines.append(f"  network calls    {int(self.nfe.min())} to {int(self.nfe.max())}")
        return "\n".join([*lines, *([f"  by               {self.method}"] if self.method else [])])


def _rms(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())
