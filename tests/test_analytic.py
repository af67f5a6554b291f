"""Exact denoisers against what defines them: densities, gradients, the flow, the posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import PROCESSES, generator, spread
from scipy import integrate, stats
from sklearn.covariance import ledoit_wolf

from scoresde import (
    CLEAN,
    VPSDE,
    ExactDenoiser,
    Gaussian,
    GaussianMixture,
    Level,
    RectifiedFlow,
)

F64 = torch.float64


def levels(sde):
    """Return levels from t_min to T, and one of next to no noise."""
    times = [sde.t_min, *(sde.t_min + u * (sde.T - sde.t_min) for u in (0.01, 0.3, 0.8, 1.0))]
    return [*map(sde.level, times), Level(t=sde.t_min, alpha=1.0, sigma=1e-6)]


def points(data, level, n=16, seed=0):
    """Return states of a level, and some far from all of them."""
    z, eps = torch.randn(2, n, data.means.shape[1], generator=generator(seed), dtype=F64)
    u = torch.rand(n, generator=generator(seed + 1), dtype=F64)
    x = level.alpha * data.sample(z, u) + level.sigma * eps
    return torch.cat([x, x + 3.0 * (level.alpha + level.sigma)])


def scipy_law(data, level):
    """Return the density of a level by scipy, written from the definition."""
    identity = np.eye(data.means.shape[1])

    def density(x):
        return sum(
            float(w)
            * stats.multivariate_normal(
                level.alpha * m.numpy(), level.alpha**2 * c.numpy() + level.sigma**2 * identity
            ).pdf(x)
            for w, m, c in zip(data.weights, data.means, data.covariances, strict=True)
        )

    return density


# Density, score, denoiser


def test_log_prob_is_the_density_of_every_level(mixture, gaussian):
    for data in (mixture, gaussian):
        for level in (None, VPSDE().level(0.05), VPSDE().level(0.5), PROCESSES["edm"].level(3.0)):
            x = points(data, level or CLEAN)[:16]
            exact = np.log(scipy_law(data, level or CLEAN)(x.numpy()))
            assert data.log_prob(x, level).numpy() == pytest.approx(exact, rel=1e-10, abs=1e-10)


def test_the_score_is_the_gradient_of_log_prob_at_every_level(sde, mixture, gaussian):
    for data in (mixture, gaussian):
        model = data.denoiser(sde)
        for level in levels(sde):
            x = points(data, level).requires_grad_()
            (gradient,) = torch.autograd.grad(data.log_prob(x, level).sum(), x)
            p = model(x.detach(), level)
            scale = gradient.abs().max()
            assert (p.score - gradient).abs().max() <= 1e-10 * scale
            # Tweedie's formula, where the data are determined
            if level.alpha > 0:
                x0 = (x + level.sigma**2 * gradient) / level.alpha
                size = x0.abs().max() / level.alpha
                assert (p.x0 - x0).abs().max() <= 1e-10 * size
            assert torch.allclose(p.eps, -level.sigma * p.score, rtol=1e-12)


def test_pure_noise_has_the_mean_for_its_data(mixture):
    sde = RectifiedFlow()
    level = sde.level(1.0)
    x = points(mixture, level)
    p = mixture.denoiser(sde)(x, level)
    assert torch.allclose(p.x0, mixture.mean.expand_as(x), rtol=1e-13)
    assert torch.allclose(p.score, -x, rtol=1e-14)


def test_the_expected_data_of_one_dimension_by_quadrature():
    data = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0], [0.5]], dtype=F64),
        torch.tensor([[[0.04]], [[0.25]]], dtype=F64),
    )
    sde = VPSDE()
    for t in (0.05, 0.3, 0.8):
        level = sde.level(t)
        for x in (-1.2, 0.1, 2.0):

            def joint(x0, power, x=x, level=level):
                prior = float(data.log_prob(torch.tensor([[x0]], dtype=F64)).exp())
                return x0**power * prior * stats.norm.pdf(x, level.alpha * x0, level.sigma)

            moments = [
                integrate.quad(joint, -6, 6, (k,), points=[-1, 0.5], limit=200)[0] for k in (0, 1)
            ]
            p = data.denoiser(sde)(torch.tensor([[x]], dtype=F64), level)
            assert p.x0.item() == pytest.approx(moments[1] / moments[0], rel=1e-7)
            log_density = data.log_prob(torch.tensor([[x]], dtype=F64), level)
            assert log_density.exp().item() == pytest.approx(moments[0], rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_levels_of_each_sample_equal_shared_ones(sde, mixture, dtype):
    model = mixture.denoiser(sde)
    t = torch.tensor([sde.t_min, 0.4 * sde.T], dtype=F64)  # as many samples as coordinates
    x = points(mixture, sde.level(0.4 * sde.T), 2)[:2].to(dtype)
    for shape in ((2,), (2, 1)):
        p = model(x, sde.level(t.reshape(shape)))
        log_prob = mixture.log_prob(x, sde.level(t.reshape(shape)))
        for i, u in enumerate(t.tolist()):
            own = model(x[i : i + 1], sde.level(u))
            tolerance = 64 * torch.finfo(dtype).eps
            assert p.x0.dtype == p.score.dtype == dtype
            assert torch.allclose(
                p.score[i], own.score[0], rtol=tolerance, atol=tolerance / sde.level(u).sigma
            )
            assert torch.allclose(p.v[i], own.v[0], rtol=tolerance, atol=8 * tolerance)
            alone = mixture.log_prob(x[i : i + 1], sde.level(u))
            assert torch.allclose(log_prob[i], alone[0], rtol=1e4 * tolerance)


def test_images_are_flattened_and_given_back(gaussian):
    x = points(gaussian, CLEAN)
    model, level = gaussian.denoiser(VPSDE()), VPSDE().level(0.3)
    image = model(x.reshape(-1, 1, 2, 2), level)
    assert torch.equal(image.x0.flatten(1), model(x, level).x0)
    flat = gaussian.flow(x, level, VPSDE().level(0.9))
    assert torch.equal(
        gaussian.flow(x.reshape(-1, 2, 2), level, VPSDE().level(0.9)).flatten(1), flat
    )
    assert torch.equal(gaussian.log_prob(x.reshape(-1, 2, 2)), gaussian.log_prob(x))


def test_float32_predictions_are_accurate_at_small_noise():
    """Of x as given: float32 arithmetic adds no more than a few roundings to eps and score."""
    data = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[-1.0, 0.5], [1.2, -0.3]], dtype=F64),
        torch.stack([spread(0.3, 0.02, seed=1), spread(0.1, 0.05, seed=2)]),
    )
    model = data.denoiser(VPSDE())
    for sigma in (1e-4, 1e-3, 1e-2, 0.1, 1.0):
        level = Level(t=0.5, alpha=math.sqrt(1 - sigma**2), sigma=sigma)
        x = points(data, level)[:16].float()
        single, double = model(x, level), model(x.double(), level)
        # eps is sigma times the score of the data there, which is at most 1e2 here
        assert (single.eps - double.eps).abs().max() <= 2e-5 * max(double.eps.abs().max(), 1e-6)
        assert (single.score - double.score).abs().max() <= 2e-5 * double.score.abs().max()
        assert (single.x0 - double.x0).abs().max() <= 1e-5


def test_the_denoiser_knows_the_deviation_of_its_data(mixture):
    expected = math.sqrt(float(mixture.covariance.trace()) / 2)
    assert mixture.denoiser(VPSDE()).data_std == pytest.approx(expected)
    assert mixture.denoiser(VPSDE(), data_std=0.3).data_std == 0.3
    assert isinstance(mixture.denoiser(VPSDE()), ExactDenoiser)


# The flow of a Gaussian


@pytest.mark.parametrize("name", PROCESSES)
def test_the_flow_map_solves_the_probability_flow(name, gaussian):
    sde = PROCESSES[name]
    top = sde.t_min + 0.9 * (sde.T - sde.t_min)
    here, there = sde.level(top), sde.level(sde.t_min + 0.01 * (sde.T - sde.t_min))
    x = points(gaussian, here, 2)[:2]
    mean, covariance = gaussian.mean.numpy(), gaussian.covariance.numpy()

    def velocity(t, flat):
        a, s = sde.alpha(t), sde.sigma(t)
        total = a * a * covariance + s * s * np.eye(4)
        score = -np.linalg.solve(total, (flat.reshape(2, 4) - a * mean).T).T
        return (sde.f(t) * flat.reshape(2, 4) - 0.5 * sde.g2(t) * score).ravel()

    end = integrate.solve_ivp(
        velocity, (here.t, there.t), x.numpy().ravel(), "DOP853", rtol=1e-10, atol=1e-12
    ).y[:, -1]
    moved = gaussian.flow(x, here, there)
    assert moved.numpy().ravel() == pytest.approx(end, rel=1e-7, abs=1e-7)
    assert torch.allclose(gaussian.flow(moved, there, here), x, rtol=1e-12, atol=1e-12)


def test_the_flow_carries_each_law_into_the_next(sde, gaussian):
    """It is affine, so its action on the mean and on the axes is its whole action on the law."""
    here, there = sde.level(sde.T), sde.level(sde.t_min)
    basis = torch.cat([torch.zeros(1, 4, dtype=F64), torch.eye(4, dtype=F64)])
    at = gaussian.flow(here.alpha * gaussian.mean + basis, here, there)
    shift, matrix = at[0], (at[1:] - at[0]).T
    assert torch.allclose(shift, there.alpha * gaussian.mean, rtol=1e-12, atol=1e-12)
    before, after = (
        v.alpha**2 * gaussian.covariance + v.sigma**2 * torch.eye(4, dtype=F64)
        for v in (here, there)
    )
    assert torch.allclose(matrix @ before @ matrix.T, after, rtol=1e-11, atol=1e-12)
    same = gaussian.flow(basis, here, here)
    assert torch.allclose(same, basis, atol=1e-13)


def test_the_flow_reaches_the_data_and_pure_noise(gaussian):
    x = points(gaussian, CLEAN)
    latent = gaussian.flow(x, CLEAN, RectifiedFlow().level(1.0))
    white = torch.linalg.solve(gaussian.covariance, (x - gaussian.mean).T).T
    assert torch.allclose((latent**2).sum(1), ((x - gaussian.mean) * white).sum(1), rtol=1e-10)
    assert torch.allclose(gaussian.flow(latent, RectifiedFlow().level(1.0), CLEAN), x, rtol=1e-12)


# Moments and samples


def test_moments_are_those_of_the_components():
    data = GaussianMixture(
        torch.tensor([0.25, 0.75], dtype=F64),
        torch.tensor([[0.0, 4.0], [4.0, 0.0]], dtype=F64),
        torch.stack([torch.eye(2, dtype=F64), 2.0 * torch.eye(2, dtype=F64)]),
    )
    assert data.mean.tolist() == [3.0, 1.0]
    # within: 0.25 + 1.5; between: 0.25 * 9 + 0.75 * 1 along each axis, and the negative across
    assert torch.allclose(data.covariance, torch.tensor([[4.75, -3.0], [-3.0, 4.75]], dtype=F64))


def test_samples_have_the_moments_of_each_component(mixture):
    """Cubature points carry a component's moments exactly: no draw is left to chance."""
    d, edges = 2, [0.0, 0.5, 0.8, 1.0]
    axes = torch.eye(d, dtype=F64) * math.sqrt(d)
    z = torch.cat([axes, -axes])
    for k in range(3):
        for u in (edges[k] + 1e-9, 0.5 * (edges[k] + edges[k + 1]), edges[k + 1] - 1e-9):
            x = mixture.sample(z, torch.full((len(z),), u, dtype=F64))
            assert torch.allclose(x.mean(0), mixture.means[k], atol=1e-14)
            centred = x - x.mean(0)
            assert torch.allclose(centred.T @ centred / len(z), mixture.covariances[k], atol=1e-14)


def test_a_gaussian_is_a_mixture_of_one(gaussian):
    assert torch.allclose(gaussian.covariance, spread(2.0, 0.7, 0.25, 0.05))
    one = GaussianMixture(torch.ones(1, dtype=F64), gaussian.mean[None], gaussian.covariance[None])
    x = points(gaussian, CLEAN)
    assert torch.equal(one.log_prob(x), gaussian.log_prob(x))


# The posterior of a linear measurement


OPERATORS = {
    "row": lambda g: torch.randn(1, 2, generator=g, dtype=F64),
    "square": lambda g: torch.randn(2, 2, generator=g, dtype=F64),
    "tall": lambda g: torch.randn(4, 2, generator=g, dtype=F64),
    "deficient": lambda g: (
        torch.randn(3, 1, generator=g, dtype=F64) @ torch.randn(1, 2, generator=g, dtype=F64)
    ),
    "nothing": lambda g: torch.zeros(2, 2, dtype=F64),
}


def measurement(kind, seed=0):
    g = generator(seed)
    operator = OPERATORS[kind](g)
    m = len(operator)
    root = torch.randn(m, m, generator=g, dtype=F64)
    covariance = 0.3 * root @ root.T + 0.05 * torch.eye(m, dtype=F64)
    return operator, torch.randn(m, generator=g, dtype=F64), covariance


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_posterior_is_prior_times_likelihood(kind, mixture):
    operator, y, noise = measurement(kind)
    posterior = mixture.posterior(operator, y, noise)
    x = points(mixture, CLEAN)
    likelihood = torch.distributions.MultivariateNormal(y, noise).log_prob(x @ operator.T)
    evidence = mixture.log_prob(x) + likelihood - posterior.log_prob(x)
    assert torch.allclose(evidence, evidence[:1].expand(len(x)), rtol=1e-9, atol=1e-9)
    # and the constant is the law of y
    k = operator @ mixture.covariances @ operator.T + noise
    law = GaussianMixture(mixture.weights, mixture.means @ operator.T, k)
    assert evidence[0].item() == pytest.approx(law.log_prob(y[None]).item(), abs=1e-9)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unconditional_and_likelihood_scores_add_up_to_the_posteriors(kind, seed, sde, mixture):
    """The likelihood of y given x_t is written from the components' joint law of x_t and y."""
    operator, y, noise = measurement(kind, seed)
    posterior = mixture.posterior(operator, y, noise)
    for level in (sde.level(sde.t_min + u * (sde.T - sde.t_min)) for u in (0.01, 0.4, 0.9)):
        a, s = level.alpha, level.sigma
        x = points(mixture, level).requires_grad_()
        logs = []
        for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
            total = a * a * c + s * s * torch.eye(2, dtype=F64)
            gain = a * torch.linalg.solve(total, c)  # E[x0 | x_t] = m + (x_t - a m) gain
            left = c - a * c @ gain
            own = torch.distributions.MultivariateNormal(a * m, total).log_prob(x)
            seen = operator @ left @ operator.T + noise
            expected = (m + (x - a * m) @ gain) @ operator.T
            of_y = torch.distributions.MultivariateNormal(expected, 0.5 * (seen + seen.T)).log_prob(
                y
            )
            logs.append(w.log() + torch.stack([own, own + of_y]))
        prior, joint = torch.stack(logs).logsumexp(0)
        (likelihood,) = torch.autograd.grad((joint - prior).sum(), x)
        x = x.detach()
        score = mixture.denoiser(sde)(x, level).score
        conditional = posterior.denoiser(sde)(x, level).score
        error = (score + likelihood - conditional).abs().max()
        assert error <= 1e-10 * max(score.abs().max(), conditional.abs().max(), 1.0)


def test_the_posterior_of_a_gaussian_has_its_textbook_form(gaussian):
    operator = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, -1.0, 0.0, 0.5]], dtype=F64)
    y, noise = torch.tensor([0.3, -0.2], dtype=F64), torch.diag(torch.tensor([0.1, 0.2], dtype=F64))
    posterior = gaussian.posterior(operator, y, noise)
    precision = gaussian.covariance.inverse() + operator.T @ noise.inverse() @ operator
    assert torch.allclose(posterior.covariance, precision.inverse(), rtol=1e-10)
    mean = precision.inverse() @ (
        gaussian.covariance.inverse() @ gaussian.mean + operator.T @ noise.inverse() @ y
    )
    assert torch.allclose(posterior.mean, mean, rtol=1e-10)


def test_a_measurement_may_rule_components_out():
    far = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[-100.0], [100.0]], dtype=F64),
        torch.full((2, 1, 1), 0.01, dtype=F64),
    )
    one = torch.ones(1, 1, dtype=F64)
    posterior = far.posterior(one, torch.tensor([100.0], dtype=F64), 0.01 * one)
    assert posterior.weights.tolist() == [0.0, 1.0]
    assert posterior.mean.item() == pytest.approx(100.0)
    p = posterior.denoiser(VPSDE())(torch.tensor([[0.3]], dtype=F64), VPSDE().level(0.9))
    assert p.x0.item() == pytest.approx(100.0, abs=0.1)
    assert posterior.log_prob(torch.tensor([[100.0]], dtype=F64)).isfinite().all()


# Gaussians of data


@pytest.mark.parametrize("shape", [(40, 6), (5, 12), (2, 3), (300, 1), (30, 2, 3)])
def test_a_fitted_gaussian_is_ledoit_and_wolfs(shape):
    x = torch.randn(*shape, generator=generator(0), dtype=F64) ** 3 + 2.0
    fitted = Gaussian.fit(x)
    flat = x.flatten(1).numpy()
    assert fitted.mean.numpy() == pytest.approx(flat.mean(0), rel=1e-12)
    expected = ledoit_wolf(flat)[0]
    assert fitted.covariance.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # of two samples it is all on the line between them
    assert len(x) == 2 or float(fitted.variances.min()) > 0.0


def test_a_gaussian_fitted_to_float32_is_as_if_to_float64():
    x = torch.randn(50, 4, generator=generator(0))
    single, double = Gaussian.fit(x), Gaussian.fit(x.double())
    assert torch.equal(single.covariance, double.covariance)


def test_data_without_a_spread_have_no_gaussian():
    for x in (torch.zeros(0, 3), torch.ones(1, 3), torch.ones(5, 3)):
        with pytest.raises(ValueError, match=f"x: {len(x)} samples"):
            Gaussian.fit(x)


# Refusals


def test_a_singular_law_has_scores_but_no_density_as_data():
    data = Gaussian(torch.zeros(2, dtype=F64), spread(1.0, 0.0))
    level = VPSDE().level(0.3)
    x = points(data, level).requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_prob(x, level).sum(), x)
    assert torch.allclose(data.denoiser(VPSDE())(x, level).score, gradient, rtol=1e-10)
    with pytest.raises(ValueError, match="level: a singular covariance has a density at sigma > 0"):
        data.log_prob(x)


def test_points_denoise_to_themselves():
    data = GaussianMixture(
        torch.ones(1, dtype=F64),
        torch.tensor([[1.0, -2.0]], dtype=F64),
        torch.zeros(1, 2, 2, dtype=F64),
    )
    for t in (0.001, 0.5, 1.0):
        p = data.denoiser(VPSDE(), data_std=1.0)(
            torch.randn(4, 2, generator=generator(0), dtype=F64), VPSDE().level(t)
        )
        assert torch.allclose(p.x0, data.means.expand(4, 2), rtol=1e-10)
    with pytest.raises(ValueError, match=r"data_std=0.0"):
        data.denoiser(VPSDE())


def test_what_is_no_mixture_is_refused():
    w, m, c = torch.tensor([0.5, 0.5]), torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2).clone()
    for bad, named in [
        ((w[:1], m, c), r"weights \(1,\)"),
        ((w, m, c[:1]), r"covariances \(1, 2, 2\)"),
        ((w, m, c[..., :1]), r"covariances \(2, 2, 1\)"),
        ((w * 2, m, c), r"weights=\[1.0, 1.0\] must not be negative, and sum to 1"),
        ((torch.tensor([1.5, -0.5]), m, c), r"weights=\[1.5, -0.5\]"),
        ((w, m, -c), "positive semi-definite"),
        ((w, m, c * float("nan")), "covariances: NaN"),
        ((w, m * float("inf"), c), "means: NaN or infinite"),
        ((w, m, c + torch.tensor([[0.0, 0.5], [0.0, 0.0]])), "symmetric"),
    ]:
        with pytest.raises(ValueError, match=named):
            GaussianMixture(*bad)


def test_states_of_another_dimension_are_refused(mixture):
    for x in (torch.zeros(3, 5), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match=r"x: samples of \d numbers, of a law over R\^2"):
            mixture.log_prob(x)
        with pytest.raises(ValueError, match=r"x: samples of \d numbers"):
            mixture.denoiser(VPSDE())(x, VPSDE().level(0.5))
