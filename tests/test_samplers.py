"""Whole loops, such as other libraries', are held to the same answers as our solvers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import generator, spread

import scoresde as sd
from scoresde import DDIM, VPSDE, Ancestral, Gaussian, InjectedNoise, SeededNoise, UniformGrid
from scoresde.tensors import lincomb
from scoresde.testing import (
    PANEL,
    InjectedDraws,
    NotAffine,
    Problem,
    Sampler,
    check_solver,
    convergence,
    law,
)

DATA = Gaussian(torch.tensor([0.5, -1.0], dtype=torch.float64), spread(1.0, 0.05))


def ddim(field, x, levels, noise):
    for here, there in pairwise(levels):
        x = field(x, here).combine(x0=there.alpha, eps=there.sigma)
    return x


def their_ancestral(field, x, levels):
    """Ancestral sampling as other libraries write it: with draws of torch's own."""
    for here, there in pairwise(levels):
        share = 1.0 - math.exp(2.0 * (here.lam - there.lam))
        mean = field(x, here).combine(x0=there.alpha, eps=there.sigma * math.sqrt(1.0 - share))
        x = lincomb((1.0, mean), (there.sigma * math.sqrt(share), torch.randn_like(x)))
    return x


def ancestral(field, x, levels, noise):
    with InjectedDraws(noise):
        return their_ancestral(field, x, levels)


def test_the_law_of_a_loop_is_that_of_the_solver_it_writes_out():
    for denoise in (False, True):
        how = {"grid": UniformGrid(), "steps": 9, "denoise": denoise}
        for loop, solver in (
            (Sampler(ddim), DDIM()),
            (Sampler(ancestral, stochastic=True), Ancestral()),
        ):
            theirs, ours = (law(s, VPSDE(), DATA, **how) for s in (loop, solver))
            assert torch.allclose(theirs.mean, ours.mean, atol=1e-12)
            assert torch.allclose(theirs.covariance, ours.covariance, atol=1e-12)


def test_the_law_is_that_of_the_model_and_the_start_it_is_given():
    # pure noise in, and the denoiser of other data: both are affine
    other = Gaussian(-DATA.mean, DATA.covariance)
    blank = Gaussian(torch.zeros_like(DATA.mean), torch.eye(2, dtype=torch.float64))
    model = other.denoiser(VPSDE())
    found = law(DDIM(), VPSDE(), DATA, steps=300, denoise=False, model=model, start=blank)
    assert torch.allclose(found.mean, other.mean, atol=0.05)


def test_errors_and_orders_of_a_loop_are_those_of_the_solver():
    loop = Sampler(ddim, order=1)
    for problem in PANEL[1::3]:
        theirs, ours = (convergence(s, problem, (16, 32)) for s in (loop, DDIM()))
        assert theirs.errors == pytest.approx(ours.errors, rel=1e-9)


def test_orders_of_a_loop_on_a_mixture(mixture):
    curve = convergence(Sampler(ddim), Problem(mixture, VPSDE(t_min=0.02)), (64, 128))
    assert abs(curve.order - 1.0) < 0.2


def test_a_loop_hides_its_states():
    with pytest.raises(ValueError, match="exact_start: ddim is a whole loop"):
        convergence(Sampler(ddim), PANEL[1], (8, 16), exact_start=True)


def test_loops_keep_their_contract():
    report = check_solver(Sampler(ddim, order=1, evals=1))
    assert not report.failed, str(report)
    assert str(report).startswith("ddim\n  ok    order        declared 1, measured 0.9")
    report = check_solver(Sampler(ancestral, order=1, stochastic=True, evals=1))
    assert not report.failed, str(report)


def test_what_a_loop_does_not_say_is_measured_all_the_same():
    report = check_solver(Sampler(ddim))
    assert not report.failed, str(report)
    details = {found.check: found.detail for found in report.findings}
    assert details["order"].startswith("declared none, measured 0.9")
    assert details["evals"] == "5 in 5 steps"


def test_a_loop_that_ends_elsewhere_fails_without_a_declared_order():
    def short(field, x, levels, noise):
        return ddim(field, x, levels[: 1 + len(levels) // 2], noise)

    assert "order" in [found.check for found in check_solver(Sampler(short)).failed]


# Draws of foreign code


DRAWS = {
    "randn": lambda x: torch.randn(4, 3, dtype=x.dtype),
    "randn of a shape": lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator(7)),
    "randn_like": torch.randn_like,
    "normal_": lambda x: torch.empty_like(x).normal_(1.0, 2.0).sub(1.0).div(2.0),
    "normal_ of one half": lambda x: torch.empty_like(x).normal_(),
    "normal of tensors": lambda x: (
        torch.normal(torch.ones_like(x), 2.0 * torch.ones_like(x)) / 2 - 0.5
    ),
    "normal of a mean": lambda x: torch.normal(torch.ones_like(x), 2.0) / 2 - 0.5,
    "normal of a size": lambda x: torch.normal(1.0, 2.0, x.shape, dtype=x.dtype) / 2 - 0.5,
    "a distribution": lambda x: torch.distributions.Normal(torch.zeros_like(x), 1.0).sample(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_normals_are_taken_from_the_source(name):
    x, z = torch.zeros(4, 3, dtype=torch.float64), SeededNoise(5)
    before = torch.get_rng_state()
    with InjectedDraws(z):
        found = [DRAWS[name](x) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    for k, draw in enumerate(found):
        assert torch.allclose(draw, z.normal(x, k), atol=1e-12)


@pytest.mark.parametrize("draw", [torch.rand, torch.randperm])
def test_other_laws_are_refused(draw):
    with pytest.raises(NotImplementedError, match="only normals"), InjectedDraws(SeededNoise(0)):
        draw(3)


def test_a_draw_shared_by_the_batch_is_refused():
    def shared(field, x, levels, noise):
        with InjectedDraws(noise):
            return ddim(field, x, levels, noise) + torch.randn(1, x.shape[1], dtype=x.dtype)

    with pytest.raises(ValueError, match="draws: one of shape"):
        law(Sampler(shared, stochastic=True), VPSDE(), DATA, steps=3)


def test_draws_are_only_taken_inside_the_block():
    x = torch.zeros(2, 2)
    with InjectedDraws(InjectedNoise([torch.ones(2, 2)])):
        assert torch.equal(torch.randn_like(x), torch.ones(2, 2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(torch.randn_like(x), torch.ones(2, 2))


def test_global_draws_make_no_affine_map():
    loop = Sampler(lambda field, x, levels, noise: their_ancestral(field, x, levels))
    with torch.random.fork_rng(), pytest.raises(NotAffine):
        law(loop, VPSDE(), DATA, steps=3)


def test_a_solver_may_be_written_as_a_loop_over_the_library(mixture):
    def loop(field, x, levels, noise):
        grid = sd.FixedGrid(tuple(level.t for level in levels if level.sigma > 0.0))
        denoise = levels[-1].sigma == 0.0
        how = {"grid": grid, "steps": len(levels) - 1, "denoise": denoise}
        return sd.sample(field.model, x=x, solver=DDIM(), **how)

    problem = Problem(mixture, VPSDE(t_min=0.02))
    assert problem.error(Sampler(loop), 12) == problem.error(DDIM(), 12)
