"""Hypothesis strategies for what properties are tested on: processes, levels, data, measurements.

    @given(st.data(), strategies.processes())
    def test_mine(data, sde):
        level = data.draw(strategies.levels(sde))

Tensors are functions of a drawn seed, so that a failure shrinks to a few numbers. Needs hypothesis.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from scoresde.analytic import Gaussian, GaussianMixture
from scoresde.chains import CosineBetas, GeometricSigmas, LinearBetas
from scoresde.grids import DensityGrid, Grid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    GaussianSDE,
    Level,
    RectifiedFlow,
    SubVPSDE,
)

__all__ = [
    "gaussians",
    "grids",
    "levels",
    "measurements",
    "mixtures",
    "normals",
    "processes",
    "rotations",
    "seeds",
    "times",
]

_BETAS = {"beta_min": st.floats(1e-3, 1.0), "beta_max": st.floats(1.0, 40.0)}

_BETA = st.floats(1e-5, 0.01)

_KINDS: dict[type[SDE], SearchStrategy[SDE]] = {
    VPSDE: st.builds(VPSDE, **_BETAS),
    SubVPSDE: st.builds(SubVPSDE, **_BETAS),
    VESDE: st.builds(VESDE, st.floats(1e-4, 0.1), st.floats(1.0, 200.0)),
    CosineVPSDE: st.builds(CosineVPSDE, st.floats(1e-3, 0.1), T=st.floats(0.5, 0.999)),
    EDMSDE: st.builds(EDMSDE, T=st.floats(1.0, 200.0)),
    RectifiedFlow: st.builds(RectifiedFlow, T=st.floats(0.5, 0.9999)),
    GaussianSDE: st.builds(
        lambda rate, size: _arc(rate, size), st.floats(0.5, 1.5), st.floats(0.5, 5.0)
    ),
    LinearBetas: st.builds(LinearBetas, st.integers(2, 1000), _BETA, st.floats(0.02, 0.5)),
    CosineBetas: st.builds(CosineBetas, st.integers(2, 1000)),
    GeometricSigmas: st.builds(
        GeometricSigmas, st.integers(2, 1000), st.floats(1.0, 200.0), st.floats(1e-3, 0.1)
    ),
}


def _arc(rate: float, size: float) -> GaussianSDE:
    return GaussianSDE(lambda t: torch.cos(rate * t), lambda t: size * torch.sin(rate * t))


def processes(*kinds: type[SDE]) -> SearchStrategy[SDE]:
    """Draw a process of one of the kinds, of any by default, with alpha(T) > 0."""
    return st.one_of(*(_KINDS[kind] for kind in kinds or _KINDS))


def times(sde: SDE) -> SearchStrategy[float]:
    """Draw a time from t_min, or 1e-4 T where that is less, to T: evenly in log t."""
    low = max(sde.t_min, 1e-4 * sde.T)
    return st.floats(0.0, 1.0).map(lambda share: min(low * (sde.T / low) ** share, sde.T))


def levels(sde: SDE) -> SearchStrategy[Level]:
    """Draw a noise level of a process."""
    return times(sde).map(sde.level)


def grids() -> SearchStrategy[Grid]:
    """Draw a grid that serves any process and number of steps."""
    return st.one_of(
        st.just(UniformGrid()),
        st.just(QuadraticGrid()),
        st.just(LogSNRGrid()),
        st.builds(KarrasGrid, st.floats(1.0, 10.0)),
        st.builds(DensityGrid, st.floats(-2.0, 1.0), st.floats(1.0, 4.0), st.floats(0.1, 1.0)),
    )


def seeds() -> SearchStrategy[int]:
    """Draw a seed."""
    return st.integers(0, 2**32 - 1)


def normals(*shape: int, dtype: torch.dtype = torch.float64) -> SearchStrategy[Tensor]:
    """Draw a tensor of unit normals."""
    return seeds().map(lambda seed: _normal(seed, *shape).to(dtype))


def rotations(d: int) -> SearchStrategy[Tensor]:
    """Draw an orthogonal matrix (d, d) in float64."""
    return seeds().map(lambda seed: _rotation(seed, d))


def gaussians(d: int | None = None) -> SearchStrategy[Gaussian]:
    """Draw Gaussian data over R^d, or from 1 to 8 dimensions; variances lie in [0.01, 4]."""
    return _dimensions(d).flatmap(
        lambda d: st.builds(
            _gaussian, seeds(), st.lists(st.floats(0.01, 4.0), min_size=d, max_size=d)
        )
    )


def mixtures(d: int | None = None) -> SearchStrategy[GaussianMixture]:
    """Draw a mixture of 1 to 4 Gaussians, of weights from 0.1 to 1 before they are normalised."""
    weights = st.lists(st.floats(0.1, 1.0), min_size=1, max_size=4)
    return st.builds(_mixture, seeds(), weights, _dimensions(d))


def measurements(d: int) -> SearchStrategy[tuple[Tensor, Tensor, Tensor]]:
    """Draw a linear measurement y = A x + n of x in R^d: A (M, d), y (M,) and R (M, M).

    A may have less than full rank, and M may exceed d.
    """
    return st.builds(
        _measurement,
        seeds(),
        st.just(d),
        st.integers(1, d + 1),
        st.integers(1, d),
        st.floats(0.01, 1.0),
    )


def _dimensions(d: int | None) -> SearchStrategy[int]:
    return st.integers(1, 8) if d is None else st.just(d)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rotation(seed: int, d: int) -> Tensor:
    return torch.linalg.qr(_normal(seed, d, d)).Q.contiguous()


def _gaussian(seed: int, variances: list[float]) -> Gaussian:
    d = len(variances)
    axes = _rotation(seed, d)
    covariance = axes @ torch.tensor(variances, dtype=torch.float64).diag() @ axes.mT
    return Gaussian(_normal(seed + 1, d), 0.5 * (covariance + covariance.mT))


def _mixture(seed: int, weights: list[float], d: int) -> GaussianMixture:
    sizes = 0.02 + 0.5 * _normal(seed, len(weights), d).square()
    parts = [_gaussian(seed + 2 * k, row) for k, row in enumerate(sizes.tolist())]
    shares = torch.tensor(weights, dtype=torch.float64)
    return GaussianMixture(
        shares / shares.sum(),
        torch.stack([part.mean for part in parts]),
        torch.stack([part.covariance for part in parts]),
    )


def _measurement(
    seed: int, d: int, m: int, rank: int, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    operator = _normal(seed, m, rank) @ _normal(seed + 1, rank, d)
    covariance = _gaussian(seed + 2, [noise * (1.0 + k) for k in range(m)]).covariance
    return operator, _normal(seed + 3, m), covariance
