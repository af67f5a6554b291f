"""Adams with steps of every sample's own: exactness, startup, tolerances, and likelihoods."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import PROCESSES, slow
from solver_examples import model_on, normal
from test_likelihood import TrueMarginal, exact, pair, points, triple

import scoresde as sd
from scoresde import (
    EDMSDE,
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    DormandPrince,
    Field,
    RectifiedFlow,
)
from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.likelihood.jacobian import FlowJacobian, Nats, Route
from scoresde.sde import Level
from scoresde.solvers.interpolation import gauss
from scoresde.tensors import asinh

BEND = 0.2
ANGLES = (0.02, 0.05, 0.13, 0.2, 0.4, 0.55, 0.6, 0.9, 1.1)


class Slope(BaseDenoiser):
    """A denoiser whose slope in the polar frame is (asinh(phi / 0.2) - 1)^degree for any state."""

    def __init__(self, degree, shift=1.0):
        super().__init__(EDMSDE())
        self.degree, self.shift = degree, shift

    def slope(self, phi):
        return (asinh(phi / BEND) - self.shift) ** self.degree

    def forward(self, x, level, **cond):
        out = torch.zeros_like(x) - self.slope(level.angle())
        return Prediction.of("edm", x, out, level, self.sde)


def levels(*angles, tensors=False):
    """Return levels of EDM at angles, shared or of two samples' own."""
    sigmas = [math.tan(a) for a in angles]
    if tensors:
        sigmas = [torch.full((2, 1), s, dtype=torch.float64) for s in sigmas]
    return [Level(s, s**0, s) for s in sigmas]


def walk(solver, model, path):
    """Step through levels, and yield each step's rise of y, what it should be, and its error."""
    field, x = Field(model), normal(2, 1, dtype=torch.float64)
    state = solver.init(field, x, path[0])
    for here, there in pairwise(path):
        new, state, error = solver.step(field, x, here, there, state, None)
        rise = new / there.radius() - x / here.radius()
        points = gauss(here.angle(), there.angle(), 64)
        yield rise, sum(w * model.slope(phi) for phi, w in points), error
        x = new


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("turn", [1, -1])
def test_polynomials_in_u_are_integrated_exactly_up_to_the_order(order, tensors, turn):
    # a full corrector has `order` nodes; the predictor has one less, and sees no error below that
    path = levels(*ANGLES[::turn], tensors=tensors)
    for degree in range(order + 1):
        *_, (rise, true, error) = walk(AdaptiveAdams(order=order), Slope(degree), path)
        exactly = (rise - true).abs().max() < 1e-8
        assert exactly == (degree < order)
        assert (error.abs().max() < 1e-8) == (degree < order - 1)


def test_levels_of_tensors_do_what_floats_do():
    solver, model = AdaptiveAdams(), triple().denoiser(EDMSDE())
    ends = []
    for tensors in (False, True):
        field, x = Field(model), normal(2, 2, dtype=torch.float64)
        path = levels(*ANGLES, tensors=tensors)
        state = solver.init(field, x, path[0])
        for here, there in pairwise(path):
            x, state, _ = solver.step(field, x, here, there, state, None)
        ends.append(x)
    assert torch.allclose(*ends, rtol=1e-11)


def test_a_start_at_low_noise_has_a_node_on_the_other_side_of_it():
    # odd in phi, a slope is met by the first step already
    for start, exactly in ((0.02, True), (0.9, False)):
        path = levels(start, start + 0.1)
        ((rise, true, error),) = walk(AdaptiveAdams(), Slope(1, shift=0.0), path)
        assert (rise - true).abs().max() < 1e-12
        assert (error.abs().max() < 1e-12) == exactly


def test_orders_that_it_has_not_are_refused():
    for order in (0, 1, 7):
        with pytest.raises(ValueError, match=f"order={order} must be an integer, 2 to 6"):
            AdaptiveAdams(order=order)


@pytest.mark.parametrize("turn", ["encode", "decode"])
def test_error_follows_the_tolerance_over_six_decades(sde, gaussian, turn):
    model, x = gaussian.denoiser(sde), normal(8, 4, dtype=torch.float64)
    top, bottom = sde.level(sde.T), sde.level(sde.t_min)
    here, there = (bottom, top) if turn == "encode" else (top, bottom)
    x = here.radius() * x
    true = gaussian.flow(x, here, there)
    errors = []
    for tol in (1e-3, 1e-5, 1e-7, 1e-9):
        found = getattr(sd, turn)(model, x, solver=AdaptiveAdams(tol, tol))
        errors.append(float((found - true).abs().max()) / tol)
    assert max(errors) < 300.0 * (1.0 + float(true.abs().max()))
    assert all(after < 0.2 * 100.0 * before for before, after in pairwise(errors))


def test_a_likelihood_costs_half_of_dopri5():
    # torchdiffeq's dopri5 takes 44, 56 and 116 calls in t for these errors of this mixture
    data, sde = pair(), VPSDE()
    x = points(data, 64)
    for tol, calls in ((1e-3, 17), (1e-4, 23), (1e-5, 32)):
        found = sd.log_likelihood(
            data.denoiser(sde), x, solver=AdaptiveAdams(1e-12, tol), prior=TrueMarginal(data, sde)
        )
        assert float((found.nats - exact(data, sde, x)).abs().mean()) < 1.3 * tol
        assert float(found.nfe.double().mean()) <= calls


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (AdaptiveAdams, pair),
        (AdaptiveAdams, triple),
        *(slow(DormandPrince, m) for m in (pair, triple)),
    ],
)
def test_a_likelihood_knows_how_far_it_is_off(kind, make, sde):
    data = make()
    x = points(data, 32)
    for tol in (1e-4, 1e-6):
        found = sd.log_likelihood(
            data.denoiser(sde), x, solver=kind(1e-12, tol), prior=TrueMarginal(data, sde)
        )
        off = (found.nats - exact(data, sde, x)).abs()
        assert float(off.mean()) < 3.0 * tol
        covered = (off <= (1.0 if kind is AdaptiveAdams else 5.0) * found.error).double().mean()
        assert float(covered) > 0.95
    assert sd.log_likelihood(data.denoiser(sde), x, solver=AdamsPC(), steps=5).error is None


def test_errors_of_a_likelihood_are_measured_in_nats():
    level, solver = VPSDE().level(0.3), AdaptiveAdams(1e-4, 1e-3)
    error = normal(4, 2 + 1 + 3, dtype=torch.float64)
    found = Nats(2, 0.7)(error, error, error, level, solver)
    r = math.hypot(0.7 * level.alpha, level.sigma)
    of_x, of_p = error[:, :2] / level.sigma, error[:, 2] / r
    expected = (of_x.square().sum(1) + of_p.square()).sqrt()
    assert torch.allclose(found, expected / (1e-3 + 2 * 1e-4), rtol=1e-12)


def test_products_of_any_probes_are_solved_to_the_tolerance(gaussian):
    sde, x = VPSDE(), normal(3, 4, dtype=torch.float64)
    field, probes = sd.Field(gaussian.denoiser(sde, 1.0)), normal(3, 2, 4, dtype=torch.float64)
    found, fine = (
        FlowJacobian(field, x, Route(AdaptiveAdams(1e-12, tol))).product(probes)
        for tol in (1e-4, 1e-9)
    )
    assert 1e-9 < float((found - fine).abs().max()) < 1e-3
    asked = FlowJacobian(field, x, Route(AdaptiveAdams(1e-12, 1e-9))).quadratic(probes)
    assert torch.allclose(asked, (fine * probes).sum(2), atol=1e-7)


def test_the_error_of_a_solve_is_the_sum_of_its_steps(gaussian):
    model, x = gaussian.denoiser(VPSDE()), normal(3, 4, dtype=torch.float64)
    solution = sd.solve(model, x=x, solver=AdaptiveAdams(), denoise=False)
    assert solution.error.shape == (3,)
    # each is below 1, and none is far below it
    assert (solution.error < solution.nfe).all()
    assert (solution.error > 0.05 * solution.nfe).all()
    assert sd.solve(model, x=x, steps=4).error is None


def test_gradients_of_likelihoods_are_the_score():
    # samples that are done idle on while others go, and must not spoil the gradient
    data, sde = triple(), VPSDE()
    x = points(data, 6).requires_grad_()
    found = sd.log_likelihood(
        data.denoiser(sde), x, solver=AdaptiveAdams(1e-12, 1e-8), gradient="direct",
        prior=TrueMarginal(data, sde),
    )  # fmt: skip
    assert len(found.nfe.unique()) > 1
    (slope,) = torch.autograd.grad(found.nats.sum(), x)
    score = data.denoiser(sde)(x.detach(), sde.level(sde.t_min)).score
    assert torch.allclose(slope, score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_single_precision_is_good_to_its_own_rounding(name):
    data, sde = triple(), PROCESSES[name]
    x, model = points(data, 8), data.denoiser(sde)
    double = sd.log_likelihood(model, x, solver=AdaptiveAdams(1e-12, 1e-4))
    single = sd.log_likelihood(model, x.float(), solver=AdaptiveAdams(1e-12, 1e-4))
    assert single.nats.dtype == torch.float32
    assert torch.allclose(single.nats.double(), double.nats, rtol=0, atol=2e-3)


def test_it_starts_where_there_is_no_data_at_all():
    sde = RectifiedFlow()
    assert sde.level(sde.T).alpha == 0.0
    x = sd.sample(model_on(sde, torch.float64), (4, 2), seed=0, solver=AdaptiveAdams(1e-8, 1e-8))
    fine = sd.sample(model_on(sde, torch.float64), (4, 2), seed=0, solver=DormandPrince(1e-9, 1e-9))
    assert torch.allclose(x, fine, atol=1e-6)


def test_a_batch_mate_changes_no_bit_of_a_likelihood():
    data, sde = pair(), VPSDE()
    x = points(data, 5)
    found = sd.log_likelihood(data.denoiser(sde), x, solver=AdaptiveAdams())
    for k in range(5):
        alone = sd.log_likelihood(data.denoiser(sde), x[k : k + 1], solver=AdaptiveAdams())
        assert torch.equal(alone.nats, found.nats[k : k + 1])
        assert torch.equal(alone.error, found.error[k : k + 1])


@pytest.mark.parametrize("denoise", [True, False])
def test_the_adjoint_goes_back_over_its_steps(denoise, gaussian):
    model, start = gaussian.denoiser(VPSDE()), normal(3, 4, dtype=torch.float64)

    def slopes(gradient):
        x = start.clone().requires_grad_()
        solver = AdaptiveAdams(1e-8, 1e-8)
        end = sd.sample(model, x=x, solver=solver, denoise=denoise, gradient=gradient)
        return torch.autograd.grad(end.sin().sum(), x)[0]

    assert torch.allclose(slopes("adjoint"), slopes("direct"), rtol=1e-5, atol=1e-7)
