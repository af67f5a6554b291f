"""Probabilities of integers, in bits per dimension, from densities of continuous states."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde.errors import require_integer
from scoresde.likelihood.decoder import Decoded
from scoresde.likelihood.dequantise import Dequantiser, UniformDequantiser
from scoresde.likelihood.draws import importance_bound, with_parts
from scoresde.likelihood.record import Density, LogLikelihood, Transform
from scoresde.noise import Noise


@dataclass(frozen=True)
class Discrete:
    """Log-probabilities of integers, from the density of what dequantisation makes of them.

        log P(x) >= E log 1/k sum_i p(y_i) |dy/dx| / q(u_i | x),    y_i = transform(x + u_i)

    Theis et al. 2016, arXiv:1511.01844, for k = 1; Hoogeboom et al. 2020, arXiv:2001.11235, for
    more. All k draws of a sample share the probes of its density: what those err by is then common
    to the draws, and none is favoured for the luck of its probes.

        density = partial(scoresde.log_likelihood, model, steps=40)
        found = Discrete(density, transform, k=8)(images, noise=SeededNoise(0))
        found.bits_per_dim

    Attributes:
        density: of states in model space.
        transform: from the data to model space, with their number of levels.
        dequantiser: the law of u.
        k: draws a sample; the standard error needs two. One alone for a density that is a noisy
            bound, as `elbo` is: the mean of its exp is none.

    Raises:
        ValueError: a transform of continuous data; a dequantiser of other levels; or k that is no
            integer from 1.
    """

    density: Density
    transform: Transform
    dequantiser: Dequantiser = UniformDequantiser()
    k: int = 1

    def __post_init__(self) -> None:
        require_integer(self.k, "k", 1)
        if self.transform.levels is None:
            raise ValueError(
                f"transform={self.transform}: continuous data have a density and no probability; "
                f"give the number of levels, or scoresde.log_likelihood(..., transform=transform)"
            )
        self.dequantiser.check_levels(self.transform)

    def __call__(self, x: Tensor, *, noise: Noise) -> LogLikelihood:
        """Return the log-probabilities of integers x (B, *), as lower bounds.

        Raises:
            ValueError: x of floats, or outside the transform's levels; a density that is of
                integers already, or a noisy bound with k above 1.
        """
        self.transform.forward(x)  # refuses what is no grey level
        draws = [self._draw(x, noise, i) for i in range(self.k)]
        # the weights of a decoder's draws have no bias, however noisy their bound is
        weights, method = isinstance(self.density, Decoded), type(self.dequantiser).__name__
        found = importance_bound(draws, f"{self.k} x {method}", weights=weights)
        return replace(found, probability=True)

    def _draw(self, x: Tensor, noise: Noise, i: int) -> LogLikelihood:
        with torch.no_grad():
            u, log_q = self.dequantiser.draw(x, noise.fold(1).fold(i))
            y = self.transform.embed(x.to(u) + (u - 0.5))
            log_det = math.prod(x.shape[1:]) * self.transform.log_det_at(y)
        found = self.density(y, noise=noise.fold(0))
        return with_parts(found, {"transform": log_det, "dequantiser": -log_q})
