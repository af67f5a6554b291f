"""Exact denoisers: data whose score is known at every level of every process.

For a mixture sum_k w_k N(mu_k, C_k) the law at a level is sum_k w_k N(alpha mu_k, V_k) with
V_k = alpha^2 C_k + sigma^2 I, and so are its score, its denoiser and its density. A Gaussian has
its probability flow in closed form too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.sde import CLEAN, SDE, Level
from scoresde.tensors import Scalar


class GaussianMixture:
    """The mixture sum_k w_k N(mu_k, C_k) over R^D.

    Attributes:
        weights: w (K,), not negative, summing to 1.
        means: mu (K, D).
        covariances: C (K, D, D), symmetric positive semi-definite.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite numbers, weights that are no
            distribution, or covariances that are not symmetric positive semi-definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        k, d = means.shape
        if weights.shape != (k,) or covariances.shape != (k, d, d):
            raise ValueError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)}, covariances "
                f"{tuple(covariances.shape)}: need (K,), (K, D), (K, D, D)"
            )
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            if not value.isfinite().all():
                raise ValueError(f"{name}: NaN or infinite numbers among them")
        if not (weights >= 0).all() or abs(float(weights.sum()) - 1.0) > 1e-6:
            raise ValueError(f"weights={weights.tolist()} must not be negative, and sum to 1")
        self.weights, self.means, self.covariances = weights, means, covariances
        self.variances, self.axes = torch.linalg.eigh(covariances)
        slack = -1e-6 * float(self.variances.abs().max())
        skew = float((covariances - covariances.mT).abs().max())
        if float(self.variances.min()) < slack or skew > -slack:
            raise ValueError("covariances must be symmetric and positive semi-definite")
        self.variances = self.variances.clamp(min=0.0)

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the mixture (D, D)."""
        spread = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + torch.einsum("k,ki,kj->ij", self.weights, spread, spread)

    def log_prob(self, x: Tensor, level: Level | None = None) -> Tensor:
        """Return the log-density (B,) in nats of x (B, *), as data or as states at a level.

        Raises:
            ValueError: a singular covariance, where data have no density.
        """
        if level is None:
            thin = torch.finfo(self.variances.dtype).eps * float(self.variances.max())
            if not float(self.variances.min()) > thin:
                raise ValueError("level: a singular covariance has a density at sigma > 0 only")
            level = CLEAN
        _, _, variances, coordinates = self._project(x, level)
        return self._log_joint(variances, coordinates).logsumexp(1)

    def sample(self, z: Tensor, u: Tensor) -> Tensor:
        """Map unit normals z (B, D) and uniforms u (B,) to samples (B, D)."""
        edges = self.weights.cumsum(0)[:-1].contiguous()
        k = torch.bucketize(u, edges)
        scaled = self.variances[k].sqrt() * z
        return self.means[k] + torch.einsum("bij,bj->bi", self.axes[k], scaled)

    def posterior(self, operator: Tensor, y: Tensor, noise_covariance: Tensor) -> GaussianMixture:
        """Return the law of x given y = A x + n, n ~ N(0, R): a mixture again.

        mu_k' = mu_k + K_k (y - A mu_k),  C_k' = (I - K_k A) C_k,  with
        K_k = C_k A^T (A C_k A^T + R)^-1 and w_k' proportional to w_k N(y; A mu_k, A C_k A^T + R).

        Args:
            operator: A (M, D), of any rank.
            y: the measurement (M,).
            noise_covariance: R (M, M), positive definite.
        """
        c = self.covariances
        s = operator @ c @ operator.mT + noise_covariance
        residual = y - self.means @ operator.mT
        gain = torch.linalg.solve(s, operator @ c).mT
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        keep = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device) - gain @ operator
        # Joseph's form keeps the covariance symmetric and positive under rounding
        after = keep @ c @ keep.mT + gain @ noise_covariance @ gain.mT
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(residual), s)
        weights = (self.weights.log() + normal.log_prob(residual)).softmax(0)
        return GaussianMixture(weights, means, after)

    def denoiser(self, sde: SDE, data_std: float | None = None) -> ExactDenoiser:
        """Return the exact denoiser of this data under a process."""
        return ExactDenoiser(self, sde, data_std)

    def _project(self, x: Tensor, level: Level) -> tuple[Scalar, Scalar, Tensor, Tensor]:
        # alpha and sigma, numbers or (B, 1, 1), and along the axes the variances of x_t (*, K, D)
        # and its coordinates (B, K, D)
        flat = x.flatten(1)
        if flat.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"x: samples of {flat.shape[1]} numbers, of a law over R^{self.means.shape[1]}"
            )
        a, s = (
            v.reshape(-1, 1, 1).to(x.dtype) if isinstance(v, Tensor) else v
            for v in (level.alpha, level.sigma)
        )
        variances = a * a * self.variances.to(x) + s * s
        offset = flat[:, None] - a * self.means.to(x)
        return a, s, variances, _each_by(offset, self.axes.to(x))

    def _log_joint(self, variances: Tensor, coordinates: Tensor) -> Tensor:
        each = coordinates * coordinates / variances + (2 * math.pi * variances).log()
        return self.weights.to(each).log() - 0.5 * each.sum(-1)


class Gaussian(GaussianMixture):
    """Gaussian data N(m, C), whose probability flow is known in closed form.

    Args:
        mean: m (D,).
        covariance: C (D, D).
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(torch.ones_like(mean[:1]), mean[None], covariance[None])

    @staticmethod
    def fit(x: Tensor) -> Gaussian:
        """Return the Gaussian of data x (N, *), with a covariance that suits few samples too.

        The covariance S is shrunk to (1 - b) S + b tr(S) / D I, with the b that has the least
        expected error (Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, Sec. 3.2).

        Raises:
            ValueError: less than two samples, or samples that are all the same.
        """
        flat = x.flatten(1).double()
        n, d = flat.shape
        mean = flat.mean(0)
        centred = flat - mean
        covariance = centred.mT @ centred / n
        scale = covariance.trace() / d
        if not (n >= 2 and float(scale) > 0.0):
            raise ValueError(f"x: {n} samples of variance {float(scale)} have no covariance")
        target = scale * torch.eye(d, dtype=x.dtype, device=x.device).double()
        apart = float((covariance - target).square().sum())
        fourth = float(centred.square().sum(1).square().sum()) / n
        doubt = (fourth - float(covariance.square().sum())) / n
        b = min(doubt / apart, 1.0) if apart > 0.0 else 1.0
        return Gaussian(mean, torch.lerp(covariance, target, b))

    def flow(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """Return where the probability flow takes x (B, *) from one level to another.

        x_u = alpha_u m + sqrt(V_u / V_t) (x_t - alpha_t m) along the axes of C, with
        V = alpha^2 c^2 + sigma^2.
        """
        _, _, before, coordinates = self._project(x, here)
        alpha, _, after, _ = self._project(x, there)
        moved = coordinates * (after / before).sqrt()
        out = alpha * self.means.to(x) + _each_by(moved, self.axes.to(x).mT)
        return out.reshape(x.shape)

    def reverse(self, x: Tensor, here: Level, there: Level, z: Tensor) -> Tensor:
        """Map unit normals z (B, *) to draws of x_u at a less noisy level, given x_t (B, *).

        Along the axes of C, with V = alpha^2 c^2 + sigma^2 and x_t = a x_u + s eps forwards,

            x_u | x_t ~ N(alpha_u m + a V_u / V_t (x_t - alpha_t m), s^2 V_u / V_t),

        which is the law of the reverse SDE, whatever the distance.
        """
        alpha_t, sigma_t, before, coordinates = self._project(x, here)
        alpha_u, sigma_u, after, _ = self._project(x, there)
        scale = alpha_t / alpha_u
        kept = scale * sigma_u
        std = ((sigma_t - kept) * (sigma_t + kept) * after / before).sqrt()
        drawn = scale * after / before * coordinates + std * z.flatten(1)[:, None]
        out = alpha_u * self.means.to(x) + _each_by(drawn, self.axes.to(x).mT)
        return out.reshape(x.shape)


class ExactDenoiser(BaseDenoiser):
    """The exact denoiser of a Gaussian mixture, at every level of a process.

    Args:
        data: the mixture.
        sde: the process.
        data_std: root mean variance of the mixture by default.
    """

    def __init__(self, data: GaussianMixture, sde: SDE, data_std: float | None = None) -> None:
        if data_std is None:
            data_std = float(data.covariance.diagonal().mean().sqrt())
        super().__init__(sde, data_std)
        self.data = data

    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        data = self.data
        alpha, sigma, variances, coordinates = data._project(x, level)
        # v = alpha eps - sigma x0, where eps is sigma and x0 is alpha c^2 of the whitened state: no
        # difference of like terms at any level, unlike eps from x0 or x0 from eps
        along = (alpha * sigma) * (1.0 - data.variances.to(x)) * (coordinates / variances)
        each = _each_by(along, data.axes.to(x).mT) - sigma * data.means.to(x)
        if len(data.weights) > 1:
            each = data._log_joint(variances, coordinates).softmax(1)[..., None] * each
        return Prediction.of("v", x, each.sum(1).reshape(x.shape), level.like(x), self.sde)


def _each_by(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return the row vectors (B, K, D) times the K matrices (K, D, D)."""
    return (vectors.transpose(0, 1) @ matrices).transpose(0, 1)
