"""Objects of other libraries behave as this library's own."""

from itertools import pairwise

import pytest
import torch
import torchsde

import scoresde as sd
from scoresde.interop.torchsde import TorchsdeNoise


def interval(**options):
    return torchsde.BrownianInterval(
        0.0, 1.0, size=(3, 2), dtype=torch.float64, entropy=7, **options
    )


def test_increments_of_a_refined_path_add_up():
    like = torch.empty(3, 2, dtype=torch.float64)
    noise = TorchsdeNoise(interval(halfway_tree=True, tol=1e-6))
    times = torch.linspace(0.0, 1.0, 17).tolist()
    fine = sum(noise.increment(like, a, b) * (b - a) ** 0.5 for a, b in pairwise(times))
    torch.testing.assert_close(fine, noise.increment(like, 0.0, 1.0), rtol=0, atol=1e-12)
    back = noise.increment(like, 1.0, 0.5)
    torch.testing.assert_close(back, -noise.increment(like, 0.5, 1.0), rtol=0, atol=0)


def test_euler_maruyama_follows_the_interval():
    """On data at the origin the reverse SDE is linear, and its sum over the path is known."""
    sde = sd.EDMSDE(T=1.0, t_min=0.25)
    origin = sd.Gaussian(torch.zeros(2).double(), torch.zeros(2, 2).double())
    path = interval(halfway_tree=True, tol=1e-6)
    grid = sd.UniformGrid()
    x = torch.ones(3, 2, dtype=torch.float64)
    found = sd.sample(
        origin.denoiser(sde, data_std=1.0), x=x, solver=sd.EulerMaruyama(), grid=grid, steps=3,
        noise=TorchsdeNoise(path), denoise=False,
    )  # fmt: skip
    for here, there in pairwise(grid.times(sde, 3)):
        # dx = -2 t score dt + sqrt(2 t) dw, with the score -x / t^2
        x = x + 2.0 / here * x * (there - here) + (2.0 * here) ** 0.5 * path(there, here)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


def test_what_an_interval_cannot_do_is_refused():
    noise = TorchsdeNoise(interval())
    like = torch.empty(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="one clock"):
        noise.increment(like, torch.zeros(3, 1), 1.0)
    with pytest.raises(ValueError, match="BrownianNoise"):
        noise.rows(torch.tensor([0]))
