"""Symmetries that every solver has, whatever the process, the data and the grid."""

from __future__ import annotations

from itertools import pairwise, repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_examples import Curve

import scoresde as sd
from scoresde import (
    DDIM,
    EDMSDE,
    VESDE,
    AdamsPC,
    Denoiser,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Gaussian,
    GaussianMixture,
    Heun,
    InjectedNoise,
    SeededNoise,
    UniformGrid,
)
from scoresde.testing import strategies

EPS = torch.finfo(torch.float64).eps

# one of each frame and history, with and without noise
KINDS = [Euler(), Heun(), DDIM(), DDIM(0.7), EulerMaruyama(), DPMSolverPP(3), AdamsPC(3)]
kinds = pytest.mark.parametrize("solver", KINDS, ids=str)


def turned(data, by):
    """Return the law of A x, for an orthogonal A and x of a mixture."""
    return GaussianMixture(data.weights, data.means @ by.mT, by @ data.covariances @ by.mT)


class Turned(sd.Noise):
    """The draws of another source, turned: so does the law of white noise not change."""

    def __init__(self, by, noise):
        self.by, self.noise = by, noise

    def normal(self, like, *address):
        return self.noise.normal(like, *address) @ self.by.mT

    def fold(self, key):
        return Turned(self.by, self.noise.fold(key))

    def rows(self, index):
        return Turned(self.by, self.noise.rows(index))


def symmetries(d):
    """Draw a permutation of the coordinates, a flip of their signs, or a rotation."""
    eye = torch.eye(d, dtype=torch.float64)
    return st.one_of(
        st.permutations(range(d)).map(lambda order: eye[list(order)]),
        st.just(-eye),
        strategies.rotations(d),
    )


@kinds
def test_a_turn_of_the_data_turns_the_samples(solver):
    @settings(max_examples=12)
    @given(st.data(), strategies.processes(), strategies.grids(), st.integers(1, 8))
    def check(data, sde, grid, steps):
        d = data.draw(st.integers(1, 4))
        law, by = data.draw(strategies.mixtures(d)), data.draw(symmetries(d))
        start, noise = sde.sigma(sde.T) * data.draw(strategies.normals(3, d)), SeededNoise(1)
        how = {"solver": solver, "grid": grid, "steps": steps}
        c = float(law.covariance.diagonal().mean().sqrt())
        x = sd.sample(law.denoiser(sde, c), x=start, noise=noise, **how)
        model = turned(law, by).denoiser(sde, c)
        y = sd.sample(model, x=start @ by.mT, noise=Turned(by, noise), **how)
        # a mixture's weights turn on exponents of (x / sigma)^2, which rounding enters magnified
        size = float(x.abs().max()) + 1.0
        assert float((x @ by.mT - y).abs().max()) <= 1e-8 * size

    check()


class Rescaled(torch.nn.Module):
    """The network for data k times as large: x / k goes in, and eps comes out as it was."""

    def __init__(self, k):
        super().__init__()
        self.k, self.curve = k, Curve(torch.float64)

    def forward(self, x, t):
        return self.curve(x / self.k, t)


@kinds
@pytest.mark.parametrize("power", [-3, 5])
def test_a_power_of_two_scales_variance_exploding_samples_bit_for_bit(solver, power):
    k = 2.0**power
    x = 10.0 * torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
    ends = []
    for s in (1.0, k):
        model = Denoiser(Rescaled(s), VESDE(0.01 * s, 10.0 * s), data_std=s)
        # the clocks scale too, and with them the addresses of draws
        how = {"grid": UniformGrid(), "steps": 7, "noise": InjectedNoise(repeat(x))}
        ends.append(sd.sample(model, x=s * x, solver=solver, **how))
    # lam = log(1 / sigma) is rounded anew at every scale; in t, sigma and angles nothing is
    if isinstance(solver, DPMSolverPP) or solver.stochastic:
        assert torch.allclose(k * ends[0], ends[1], rtol=1e-12, atol=0.0)
    else:
        assert torch.equal(k * ends[0], ends[1])


@given(st.integers(-8, 8), strategies.gaussians(3), strategies.normals(4, 3))
def test_scaled_data_have_scaled_samples_and_shifted_densities(power, data, z):
    k = 2.0**power
    scaled = Gaussian(k * data.mean, k * k * data.covariance)
    models = [
        law.denoiser(sde)
        for law, sde in ((data, VESDE(0.01, 10.0)), (scaled, VESDE(0.01 * k, 10.0 * k)))
    ]
    how = {"grid": UniformGrid(), "steps": 8}
    x, y = (
        sd.sample(model, x=s * 10.0 * z, **how) for model, s in zip(models, (1.0, k), strict=True)
    )
    assert torch.allclose(k * x, y, rtol=1e-9, atol=1e-9 * k)
    first, second = (data.log_prob(x), scaled.log_prob(k * x))
    shift = torch.full_like(first, 3 * torch.tensor(k).double().log())
    assert torch.allclose(first - second, shift, atol=1e-8 * float(first.abs().max() + 1.0))


@kinds
@given(
    st.data(),
    st.permutations(range(7)),
    st.integers(1, 6),
    strategies.seeds(),
)
@settings(max_examples=10)
def test_batches_may_be_shuffled_and_split(solver, data, order, cut, seed):
    sde = data.draw(strategies.processes())
    model, index = Denoiser(Curve(), sde, "v"), torch.tensor(order)
    x = data.draw(strategies.normals(7, 2, dtype=torch.float32))
    how = {"solver": solver, "steps": 3}
    whole = sd.sample(model, x=x, seed=seed, **how)
    parts = [
        sd.sample(model, x=x[rows], noise=SeededNoise(seed, indices=rows), **how)
        for rows in (index[:cut], index[cut:])
    ]
    assert torch.equal(torch.cat(parts), whole[index])


@given(strategies.processes(), strategies.grids(), st.integers(1, 64))
def test_grids_go_down_from_end_to_end(sde, grid, steps):
    levels = grid.levels(sde, steps)
    assert len(levels) == steps + 1
    assert (levels[0].t, levels[-1].t) == (sde.T, sde.t_min)
    assert all(a.lam < b.lam for a, b in pairwise(levels))


@given(st.data(), strategies.mixtures())
def test_posteriors_under_measurements_agree_with_bayes(data, prior):
    d = prior.means.shape[1]
    operator, y, noise = data.draw(strategies.measurements(d))
    posterior = prior.posterior(operator, y, noise)
    likelihood = torch.distributions.MultivariateNormal(y, noise)
    x = prior.means[0] + data.draw(strategies.normals(2, d))
    # p(x | y) is p(x) p(y | x) up to a constant: the difference of logs at two points is the same
    joint = prior.log_prob(x) + likelihood.log_prob(x @ operator.mT)
    found = posterior.log_prob(x)
    size = float(joint.abs().max() + found.abs().max()) + 1.0
    assert abs(float((joint - found).diff())) <= 1e-8 * size


@given(st.data(), strategies.processes(VESDE, EDMSDE))
def test_the_flow_there_and_back_is_the_identity(data, sde):
    law = data.draw(strategies.gaussians())
    here, there = data.draw(strategies.levels(sde)), data.draw(strategies.levels(sde))
    x = data.draw(strategies.normals(3, len(law.mean)))
    back = law.flow(law.flow(x, here, there), there, here)
    ratio = float(max(here.sigma, 2.0) / min(there.sigma, 0.1))
    assert torch.allclose(back, x, rtol=0.0, atol=1e3 * EPS * ratio * float(x.abs().max() + 1.0))
