"""Flipped signs and the control variate: what they leave of the Jacobian, and of its trace."""

from __future__ import annotations

import pytest
import torch
from conftest import PROCESSES, spread
from solver_examples import model_on, normal
from trace_helpers import Mixing, jacobian_of, matrix_of, off_diagonal, trace_of

import scoresde as sd
from scoresde import (
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    AdaptiveSolver,
    ControlVariate,
    Denoiser,
    DormandPrince,
    ExactTrace,
    Flipped,
    Gaussian,
    GaussianMixture,
    Hadamard,
    Heun,
    Hutchinson,
    HutchPP,
    InjectedNoise,
    SeededNoise,
    XTrace,
)

F64 = torch.float64


def gaussian(*variances, seed=0):
    return Gaussian(normal(len(variances), dtype=F64), spread(*variances, seed=seed))


def mixing(d, batch=3):
    return Denoiser(Mixing(d), VPSDE(), "v"), normal(batch, d, dtype=F64)


# Flips


@pytest.mark.parametrize("solver", [AdamsPC(), Heun(), DormandPrince(1e-6, 1e-6)], ids=str)
def test_flips_keep_the_diagonal_and_with_it_the_trace(solver):
    model, x = mixing(6)
    jacobian = jacobian_of(model, x, steps=20, solver=solver)
    plain, flipped = matrix_of(jacobian), matrix_of(jacobian.flipped())
    diagonals = (m.diagonal(dim1=1, dim2=2) for m in (plain, flipped))
    slack = 1e-4 if isinstance(solver, AdaptiveSolver) else 1e-12
    assert torch.allclose(*diagonals, rtol=0, atol=slack)
    assert (off_diagonal(flipped) < off_diagonal(plain)).all()


def rotated_mixture(d=64):
    """A mixture of four components of thin and wide axes, each turned its own way."""
    variances = torch.logspace(-2.0, 0.3, d, dtype=F64)
    covariances = torch.stack([spread(*variances.tolist(), seed=k) for k in range(4)])
    means = normal(4, d, seed=9, dtype=F64)
    return GaussianMixture(torch.full((4,), 0.25, dtype=F64), means, covariances)


def test_the_default_has_at_most_half_of_the_standard_error_of_rademacher_probes():
    """On a mixture of 64 dimensions, by the Jacobian itself and its formula of the variance."""
    data = rotated_mixture()
    z, u = normal(4, 64, seed=5, dtype=F64), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=F64)
    x, model = data.sample(z, u)[:2], data.denoiser(VPSDE())
    jacobian = jacobian_of(model, x, steps=30)
    plain, flipped = (off_diagonal(matrix_of(j)) for j in (jacobian, jacobian.flipped()))
    assert (flipped.sqrt() < 0.5 * plain.sqrt()).all()


def test_flips_are_the_default_where_weights_are_even():
    model, x = Denoiser(Mixing(129), VPSDE(), "v"), normal(1, 129)
    for even in ({"steps": 2}, {}, {"solver": AdaptiveAdams(1e-4, 0.1)}):
        found = sd.log_likelihood(model, x, **even)
        assert found.method.startswith("Flipped(trace=Hutchinson(n=8")
    for solver in (DormandPrince(0.1, 0.1), AdaptiveAdams(1e-3, 1e-3)):
        assert sd.log_likelihood(model, x, solver=solver).method.startswith("Hutchinson(n=8")
    assert sd.log_likelihood(model, x, solver=Heun(), steps=2).method.startswith("Hutchinson(n=8")


def test_the_default_is_within_half_of_the_error_of_rademacher_probes():
    """On a mixture of 64 dimensions, by what is left of M beside the diagonal."""
    data = rotated_mixture()
    z, u = normal(4, 64, seed=5, dtype=F64), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=F64)
    x, model = data.sample(z, u)[:2], data.denoiser(VPSDE())
    plain = jacobian_of(model, x, solver=AdaptiveAdams())
    flipped = jacobian_of(model, x, solver=AdaptiveAdams())
    variances = [off_diagonal(matrix_of(j)) for j in (plain, flipped.flipped())]
    # of as many products: flips take fewer calls
    share = (variances[1] * flipped.nfe / (variances[0] * plain.nfe)).sqrt()
    assert float(share.max()) < 0.5


def test_flips_are_the_same_for_all_samples_and_seeds_and_follow_the_level():
    model, _ = mixing(8)
    x = normal(1, 8, dtype=F64).expand(2, 8)
    solver = DormandPrince(1e-4, 1e-4)
    for how in ({"steps": 10}, {"solver": solver}):
        matrix = matrix_of(jacobian_of(model, x, **how).flipped())
        assert torch.equal(matrix[0], matrix[1])


def test_adaptive_steps_are_those_of_the_sample_alone():
    model, x = mixing(6)
    how = {"solver": DormandPrince(1e-5, 1e-5)}
    a, b = (
        sd.log_likelihood(model, x, trace=Flipped(Hutchinson(4)), seed=seed, **how)
        for seed in (0, 1)
    )
    assert torch.equal(a.nfe, b.nfe)
    assert torch.equal(a.latent, b.latent)
    assert not torch.equal(a.nats, b.nats)
    # their errors are of the sample alone
    assert a.error is None
    assert sd.log_likelihood(model, x, trace=Hutchinson(4), seed=0, **how).error is not None


def test_estimates_of_flipped_traces_are_within_their_standard_errors():
    model, x = mixing(6, batch=64)
    expected = sd.log_likelihood(model, x, steps=15, trace=ExactTrace())
    found = sd.log_likelihood(model, x, steps=15, trace=Flipped(Hutchinson(16)), seed=0)
    z = (found.nats - expected.nats) / found.stderr
    assert float(z.abs().max()) < 6.0  # Student's t with 15 degrees of freedom, 64 rows
    assert 0.7 < float(z.std()) < 1.5


# The control variate


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("wrap", [lambda t: t, Flipped], ids=["plain", "flipped"])
def test_a_control_variate_is_exact_on_its_gaussian(name, wrap):
    sde, data = PROCESSES[name], gaussian(2.0, 0.5, 0.05, 0.3)
    x = normal(3, 4, dtype=F64)
    trace = ControlVariate(wrap(Hutchinson(2)), data)
    model = data.denoiser(sde, 0.8)
    # whatever the steps: nothing is left to integrate
    found = sd.log_likelihood(model, x.reshape(3, 2, 2), trace=trace, steps=3)
    start, stop = (sde.level(t) for t in (sde.t_min, sde.T))
    before, after = (a.alpha**2 * data.variances[0] + a.sigma**2 for a in (start, stop))
    expected = 0.5 * float((after / before).log().sum())
    assert float(found.stderr.max()) < 1e-12
    assert found.parts["log_det"].tolist() == pytest.approx([expected] * 3, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_control_variate_takes_off_what_it_gives_back(dtype):
    model, x = mixing(4)
    model, x = model.to(dtype), x.to(dtype)
    jacobian = jacobian_of(model, x, steps=64)
    rest, known = jacobian.less(gaussian(2.0, 0.5, 0.05, 0.3))
    plain, left = matrix_of(jacobian), matrix_of(rest)
    taken = gaussian(2.0, 0.5, 0.05, 0.3)
    turned = taken.axes[0].mT.to(dtype) @ (plain - left) @ taken.axes[0].to(dtype)
    slack = 1e-4 if dtype == torch.float32 else 1e-6
    assert torch.allclose(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)), atol=slack)
    assert torch.allclose(trace_of(plain) - trace_of(left), torch.tensor(known).to(x), atol=1e-3)


def test_a_gaussian_of_another_dimension_is_refused():
    model, x = mixing(3)
    with pytest.raises(ValueError, match=r"gaussian: over R\^2, for samples of 3"):
        sd.log_likelihood(model, x, trace=ControlVariate(ExactTrace(), gaussian(1.0, 2.0)), steps=2)


# All of them


ALL = [
    Hutchinson(3, Hadamard()),
    Flipped(Hutchinson(2)),
    ControlVariate(Flipped(Hutchinson(2)), gaussian(2.0, 0.5, 0.05)),
    HutchPP(6),
    XTrace(4),
]


@pytest.mark.parametrize("trace", ALL, ids=str)
@pytest.mark.parametrize("solver", [AdamsPC(4), DormandPrince(1e-3, 1e-3)], ids=str)
def test_rows_do_not_depend_on_each_other(solver, trace):
    model, x = model_on(), normal(6, 3) * torch.tensor([[0.1], [1.0], [3.0], [0.3], [2.0], [5.0]])
    how = {"solver": solver, "trace": trace}
    whole = sd.log_likelihood(model, x, seed=0, **how)
    for i in range(6):
        alone = sd.log_likelihood(model, x[i : i + 1], noise=SeededNoise(0, start=i), **how)
        assert torch.equal(alone.nats[0], whole.nats[i])
        assert torch.equal(alone.nfe[0], whole.nfe[i])


@pytest.mark.parametrize("trace", ALL[1:], ids=str)
def test_probes_may_be_replayed(trace):
    model, x = model_on(), normal(2, 3)
    draws = [normal(2, 3, seed=k) for k in range(4)]
    how = {"trace": trace, "steps": 3}
    found = sd.log_likelihood(model, x, noise=InjectedNoise(draws), **how)
    again = sd.log_likelihood(model, x, noise=InjectedNoise(draws), **how)
    assert torch.equal(found.nats, again.nats)


@pytest.mark.parametrize(
    "trace",
    [
        Flipped(ExactTrace()),
        ControlVariate(ExactTrace(), gaussian(2.0, 0.5, 0.05)),
        Hutchinson(4, Hadamard()),
        HutchPP(9),
        XTrace(6),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", [None, "reverse"])
def test_gradients_of_what_is_exact_are_those_of_the_exact_trace(trace, mode):
    found = []
    for each in (trace, ExactTrace()):
        model, x = mixing(3)
        x = x.requires_grad_()
        each.estimate(jacobian_of(model, x, mode=mode), SeededNoise(0)).trace.sum().backward()
        found.append((x.grad, model.net.matrix.grad))
    for ours, exact in zip(*found, strict=True):
        assert torch.allclose(ours, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("trace", ALL, ids=str)
def test_an_empty_batch_has_an_empty_result(trace):
    found = sd.log_likelihood(model_on(), torch.zeros(0, 3), trace=trace)
    assert found.nats.shape == found.stderr.shape == (0,)


def test_two_probes_that_agree_by_chance_are_no_exact_trace():
    """In two dimensions the forms of two signs agree in half of all draws."""
    model = mixing(2)[0]
    x = normal(256, 2, seed=4, dtype=F64)
    how = {"steps": 4, "seed": 0, "stderr": 10.0}
    for wrap in (lambda t: t, Flipped):
        found = sd.log_likelihood(model, x, trace=wrap(Hutchinson(2)), **how)
        assert (found.products == 16 * 4).all()
        assert float((found.stderr == 0.0).double().mean()) < 0.02
    for exact in (Hutchinson(2, Hadamard()), ControlVariate(ExactTrace(), Gaussian.fit(x))):
        assert (sd.log_likelihood(model, x, trace=exact, **how).products == 2 * 4).all()


def test_a_standard_error_is_reached_with_flips():
    model, x = mixing(6)
    how = {"trace": Flipped(Hutchinson(4)), "steps": 12, "seed": 0}
    once = sd.log_likelihood(model, x, **how)
    target = float(once.bits_per_dim_stderr.min())
    found = sd.log_likelihood(model, x, stderr=target, **how)
    assert (found.bits_per_dim_stderr <= target).all()
