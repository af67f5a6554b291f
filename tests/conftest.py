"""What the tests share: every process, and data whose law is known at every level."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import settings

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    Gaussian,
    GaussianMixture,
    GaussianSDE,
    RectifiedFlow,
    SubVPSDE,
)

settings.register_profile("fixed", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("fresh", deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

torch.set_num_threads(1)


def slow(*values: Any, id: str | None = None) -> Any:
    """Mark one of a test's parameters: `make test-all` runs it."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def _circle_alpha(t: torch.Tensor) -> torch.Tensor:
    return torch.cos(1.5 * t)


def _circle_sigma(t: torch.Tensor) -> torch.Tensor:
    return 2.0 * torch.sin(1.5 * t)


PROCESSES: dict[str, SDE] = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(sigma_min=0.01, sigma_max=10.0),
    "cosine": CosineVPSDE(),
    "edm": EDMSDE(),
    "flow": RectifiedFlow(),
    "gaussian": GaussianSDE(_circle_alpha, _circle_sigma),
}
"""Every kind of process; only "flow" has alpha(T) = 0."""


@pytest.fixture(params=PROCESSES)
def sde(request: pytest.FixtureRequest) -> SDE:
    """Every kind of process in turn."""
    return PROCESSES[request.param]


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own, so that no test touches torch's global one."""
    return torch.Generator().manual_seed(seed)


def rotation(d: int, seed: int = 0) -> torch.Tensor:
    """Return an orthogonal matrix (d, d) in float64."""
    return torch.linalg.qr(
        torch.randn(d, d, generator=generator(seed), dtype=torch.float64)
    ).Q.contiguous()


def spread(*variances: float, seed: int = 0) -> torch.Tensor:
    """Return a covariance with these eigenvalues, along axes that are no coordinate's."""
    axes = rotation(len(variances), seed)
    return axes @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ axes.mT


@pytest.fixture
def gaussian() -> Gaussian:
    """Four dimensions, rotated, with variances from 0.05 to 2 and a mean that is not 0."""
    mean = torch.tensor([0.5, -1.0, 0.3, 0.0], dtype=torch.float64)
    return Gaussian(mean, spread(2.0, 0.7, 0.25, 0.05))


@pytest.fixture
def mixture() -> GaussianMixture:
    """Three rotated components of unequal weight in two dimensions."""
    return GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        torch.tensor([[-1.0, 0.5], [1.2, -0.3], [0.2, 1.5]], dtype=torch.float64),
        torch.stack([spread(0.3, 0.02, seed=1), spread(0.1, 0.05, seed=2), spread(0.2, 0.01)]),
    )
