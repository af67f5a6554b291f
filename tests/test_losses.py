"""Denoising score matching against closed forms, by exact quadrature instead of Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import generator
from torch import Tensor, nn
from training_helpers import legendre

from scoresde import EDMSDE, SDE, VPSDE, Denoiser, Gaussian, RectifiedFlow, elbo, feed_t
from scoresde.denoiser import Predicts
from scoresde.tensors import per_sample
from scoresde.training import (
    DSM,
    ImportanceTimes,
    InformationTimes,
    MinSNR,
    Times,
    UniformTimes,
    dsm_loss,
    edm,
    likelihood,
    sigma2,
    velocity,
)

C = 0.7  # deviation of the data


class ExactNet(nn.Module):
    """What a network of each kind puts out for data N(0, c^2), in formulas of its own."""

    def __init__(self, predicts: Predicts, sde: SDE, data_std: float):
        super().__init__()
        self.predicts, self.sde, self.data_std = predicts, sde, data_std

    def forward(self, x: Tensor, t: Tensor, **cond) -> Tensor:
        t = per_sample(t, x)
        a, s = self.sde.alpha(t), self.sde.sigma(t)
        r = (a**2 * self.data_std**2 + s**2).sqrt()
        x = x * r if self.predicts == "edm" else x
        v = a**2 * C**2 + s**2
        x0, eps = a * C**2 / v * x, s / v * x
        match self.predicts:
            case "eps":
                return eps
            case "x0":
                return x0
            case "v":
                return a * eps - s * x0
            case "score":
                return -x / v
            case "velocity":
                return self.sde.dalpha(t) * x0 + self.sde.dsigma(t) * eps
            case "edm":  # D = c_skip x + c_out F
                skip = a * self.data_std**2 / r**2
                return (x0 - skip * x) * r / (s * self.data_std)


def exact(sde: SDE, predicts: Predicts = "v", data_std: float = 0.5) -> Denoiser:
    net = ExactNet(predicts, sde, data_std)
    return Denoiser(net, sde, predicts, data_std=data_std, time_input=feed_t)


class Off(nn.Module):
    """A network that is wrong everywhere, smoothly, in x and t."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x) + per_sample(t, x).to(x.dtype).cos() * x


def hermite(n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return data, noise (n^2, 1) and weights (n^2,), exact for polynomials of degree 2n - 1."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    x0, eps = torch.meshgrid(C * nodes, nodes, indexing="ij")
    return x0.reshape(-1, 1), eps.reshape(-1, 1), torch.outer(weights, weights).reshape(-1)


def interior(sde: SDE, n: int = 5) -> Tensor:
    return sde.t_min + (sde.T - sde.t_min) * torch.linspace(0.02, 0.98, n, dtype=torch.float64)


@pytest.mark.parametrize("predicts", get_args(Predicts))
def test_loss_of_the_exact_score(sde: SDE, predicts: Predicts):
    if isinstance(sde, RectifiedFlow):
        sde = replace(sde, T=0.99)  # eps and score say nothing at alpha = 0
    model = exact(sde, predicts)
    x0, eps, weights = hermite()
    for t in interior(sde):
        loss = weights @ dsm_loss(model, x0, t.repeat(len(x0)), eps)
        signal, noise = sde.alpha(t) ** 2 * C**2, sde.sigma(t) ** 2
        torch.testing.assert_close(loss, signal / (signal + noise), rtol=1e-8, atol=1e-13)


def test_likelihood_weighting_measures_information(sde: SDE):
    # (T - t_min) J / 2 at the exact score is I(x_0; x_{t_min}) - I(x_0; x_T): d/dt of
    # log(V / sigma^2) / 2 is -g^2 / (2 sigma^2) times the error of eps
    if isinstance(sde, RectifiedFlow):
        sde = replace(sde, T=0.99)
    x0, eps, w_eps = hermite(3)
    u, w_u = legendre()
    t, ratio = ImportanceTimes().quantile(sde, u)
    loss = dsm_loss(
        exact(sde), x0.repeat(len(u), 1), t.repeat_interleave(len(x0)), eps.repeat(len(u), 1),
        likelihood,
    )  # fmt: skip
    j = (w_u * ratio) @ (loss.reshape(len(u), -1) @ w_eps)
    snr = torch.tensor([math.exp(2 * float(sde.lam(s))) for s in (sde.t_min, sde.T)])
    start, stop = 0.5 * torch.log1p(C**2 * snr.double())
    torch.testing.assert_close(0.5 * (sde.T - sde.t_min) * j, start - stop, rtol=1e-6, atol=0)


def test_likelihood_training_estimates_the_diffusion_term_of_the_elbo(sde: SDE):
    # for white Gaussian data the exact score's integrand is the same at every s, alpha(T) = 0 too
    model = exact(sde)
    x0, eps, w_eps = hermite(3)
    u, w_u = legendre(16)
    t, ratio = InformationTimes(C).quantile(sde, u)
    loss = dsm_loss(
        model, x0.repeat(len(u), 1), t.repeat_interleave(len(x0)), eps.repeat(len(u), 1),
        likelihood,
    )  # fmt: skip
    each = 0.5 * (sde.T - sde.t_min) * ratio * (loss.reshape(len(u), -1) @ w_eps)
    torch.testing.assert_close(each, each.mean().expand_as(each), rtol=1e-6, atol=0)
    x = torch.full((1, 1), C, dtype=torch.float64)  # where every draw of the bound is exact
    white = Gaussian(x.new_zeros(1), C * C * torch.eye(1, dtype=torch.float64))
    bound = elbo(white.denoiser(sde), x, n=4, seed=0)
    assert float(w_u @ each) == pytest.approx(-float(bound.parts["diffusion"]), rel=1e-6)


def test_linear_fit_recovers_the_score():
    sde = VPSDE()
    times = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.9], dtype=torch.float64)
    x0, eps, weights = hermite(3)
    rows = len(x0)

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(5, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -self.w[torch.searchsorted(times, t - 1e-9)][:, None] * x

    model = Denoiser(Linear(), sde, "score")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        losses = dsm_loss(model, x0.repeat(5, 1), times.repeat_interleave(rows), eps.repeat(5, 1))
        (losses.reshape(5, rows) @ weights).sum().backward()
        optimizer.step()
    v = sde.alpha(times) ** 2 * C**2 + sde.sigma(times) ** 2
    torch.testing.assert_close(model.net.w.detach(), 1 / v, rtol=0.01, atol=0)


def test_loss_is_the_mean_over_axes_of_each_sample_alone():
    sde, model = VPSDE(), exact(VPSDE())
    x0 = torch.randn(4, 2, 3, generator=generator(0), dtype=torch.float64)
    eps = torch.randn(4, 2, 3, generator=generator(1), dtype=torch.float64)
    t = interior(sde, 4)
    loss = dsm_loss(model, x0, t, eps, likelihood)
    for i in range(4):
        every = dsm_loss(
            model, x0[i].reshape(6, 1), t[i].expand(6), eps[i].reshape(6, 1), likelihood
        )
        torch.testing.assert_close(loss[i], every.mean(), rtol=1e-13, atol=0)


class TestWeightings:
    def test_edm_is_the_plain_loss_of_an_edm_network(self, sde: SDE):
        model = exact(sde, "edm")
        x0, eps, _ = hermite()
        for t in interior(sde):
            level = sde.level(t)
            r = level.radius(model.data_std)
            # the output's target is (sigma x0 / c - alpha c eps) / r
            target = (level.sigma * x0 / model.data_std - level.alpha * model.data_std * eps) / r
            out = model(sde.perturb(x0, t, eps), level).out
            loss = dsm_loss(model, x0, t.repeat(len(x0)), eps, edm)
            torch.testing.assert_close(
                loss, (out - target).square().reshape(-1), rtol=1e-6, atol=1e-12
            )

    def test_likelihood_is_the_slope_of_log_snr(self, sde: SDE):
        t = interior(sde).requires_grad_()
        (slope,) = torch.autograd.grad(sde.lam(t).sum(), t)
        weight = likelihood(sde.level(t.detach()), exact(sde))
        torch.testing.assert_close(weight, -2 * slope, rtol=1e-9, atol=0)

    def test_min_snr_caps_the_weight_of_x0(self, sde: SDE):
        level = sde.level(interior(sde))
        snr = (level.alpha / level.sigma) ** 2
        weight = MinSNR(gamma=3.0)(level, exact(sde)) * snr
        torch.testing.assert_close(weight, snr.clamp(max=3.0), rtol=1e-12, atol=0)

    def test_velocity_is_the_squared_error_of_dx_dt(self, sde: SDE):
        model = Denoiser(Off(), sde, "v", time_input=feed_t)
        x0, eps, _ = hermite()
        for t in interior(sde):
            truth = sde.dalpha(t) * x0 + sde.dsigma(t) * eps
            error = model(sde.perturb(x0, t, eps), sde.level(t)).velocity - truth
            loss = dsm_loss(model, x0, t.repeat(len(x0)), eps, velocity)
            torch.testing.assert_close(loss, error.square().reshape(-1), rtol=1e-8, atol=1e-12)

    def test_velocity_is_flow_matching_on_straight_paths(self):
        # (Liu et al. 2022, eq. 1), up to the last time before alpha = 0
        net, t = Off(), torch.tensor([1e-3, 0.4, 0.9, 1.0 - 2.0**-53], dtype=torch.float64)
        model = Denoiser(net, RectifiedFlow(), "velocity", time_input=feed_t)
        x0, eps = (torch.randn(4, 3, generator=generator(seed)) for seed in (0, 1))
        s = t[:, None].float()
        out = net((1 - s) * x0 + s * eps, t.float())
        plain = (out - (eps - x0)).square().mean(1)
        loss = dsm_loss(model, x0, t, eps, velocity)
        torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)

    def test_edm_is_table_1(self):
        # Karras et al. 2022, arXiv:2206.00364, Table 1 and eq. 2, with sigma = t
        net, c, sigma = Off(), 0.5, torch.tensor([0.002, 0.3, 2.0, 80.0]).double()
        model = Denoiser(net, EDMSDE(), "edm", data_std=c)
        x0, eps = (torch.randn(4, 3, generator=generator(s)).double() for s in (0, 1))
        s = sigma[:, None]
        x = x0 + s * eps
        skip, out = c**2 / (s**2 + c**2), s * c / (s**2 + c**2).sqrt()
        fed, noise = x / (s**2 + c**2).sqrt(), sigma.log() / 4
        denoised = skip * x + out * net(fed, noise.float())
        torch.testing.assert_close(model(x, EDMSDE().level(s)).x0, denoised, rtol=1e-6, atol=1e-9)
        weight = (sigma**2 + c**2) / (sigma * c) ** 2
        expected = weight * (denoised - x0).square().mean(1)
        loss = dsm_loss(model, x0, sigma, eps, edm)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)

    def test_song_s_likelihood_weight_on_the_score(self, sde: SDE):
        # g^2 |score error|^2 (Song et al. 2021, arXiv:2101.09258, eq. 7 with lambda = g^2)
        model = Denoiser(Off(), sde, "v", time_input=feed_t)
        x0, eps, _ = hermite()
        for t in interior(sde):
            error = model(sde.perturb(x0, t, eps), sde.level(t)).score + eps / sde.sigma(t)
            loss = dsm_loss(model, x0, t.repeat(len(x0)), eps, likelihood)
            torch.testing.assert_close(
                loss, sde.g2(t) * error.square().reshape(-1), rtol=1e-8, atol=1e-12
            )

    @pytest.mark.parametrize("weighting", [sigma2, likelihood, edm, velocity, MinSNR()])
    def test_floats_and_tensors_agree(self, sde: SDE, weighting):
        t = interior(sde)
        tensors = torch.as_tensor(weighting(sde.level(t), exact(sde)), dtype=t.dtype).expand(5)
        floats = t.new_tensor([weighting(sde.level(float(s)), exact(sde)) for s in t])
        torch.testing.assert_close(tensors, floats, rtol=1e-12, atol=0)


@dataclass(frozen=True)
class Kept(Times):
    """Uniform times that keep the quantiles they were asked for."""

    asked: list

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(u)
        return UniformTimes().quantile(sde, u)


class TestDSM:
    def test_stratified_quantiles_fill_every_stratum_in_random_order(self):
        times = Kept([])
        DSM(times=times)(exact(VPSDE()), torch.zeros(64, 1), generator(0))
        strata = (times.asked[0] * 64).floor()
        assert strata.sort().values.tolist() == list(range(64))
        assert strata.tolist() != list(range(64))
        # a smooth integrand: the error falls as n^-1.5, not as n^-0.5
        DSM(times=times)(exact(VPSDE()), torch.zeros(4096, 1), generator(1))
        error = times.asked[1].square().mean() - 1 / 3
        assert abs(float(error)) < 1e-4

    def test_plain_quantiles_are_independent(self):
        times = Kept([])
        DSM(times=times, stratified=False)(exact(VPSDE()), torch.zeros(64, 1), generator(0))
        assert len(set((times.asked[0] * 64).floor().tolist())) < 64

    def test_random_by_the_generator_alone(self):
        x0 = C * torch.randn(32, 2, generator=generator(5))
        before = torch.random.get_rng_state()
        losses = [DSM()(exact(VPSDE()), x0, generator(seed)) for seed in (0, 0, 1)]
        assert losses[0] == losses[1] != losses[2]
        assert torch.equal(before, torch.random.get_rng_state())

    def test_estimates_the_objective(self):
        # the exact score's J is the integral of signal / (signal + noise)
        sde = VPSDE()
        u, weights = legendre()
        t = sde.t_min + (sde.T - sde.t_min) * u
        signal = sde.alpha(t) ** 2 * C**2
        expected = float(weights @ (signal / (signal + sde.sigma(t) ** 2)))
        x0 = C * torch.randn(20000, 4, generator=generator(2), dtype=torch.float64)
        for times in (UniformTimes(), ImportanceTimes()):
            loss = float(DSM(times=times)(exact(sde), x0, generator(3)))
            assert loss == pytest.approx(expected, rel=0.03)

    def test_label_dropout(self):
        seen = []

        class Net(ExactNet):
            def forward(self, x: Tensor, t: Tensor, **cond) -> Tensor:
                seen.append(cond)
                return super().forward(x, t)

        model = Denoiser(Net("v", VPSDE(), 1.0), VPSDE(), "v")
        cond = {"label": torch.arange(2000) % 10, "scale": 2.0}
        for share in (0.0, 0.25, 1.0):
            DSM(label_dropout=share)(model, torch.zeros(2000, 1), generator(0), cond)
            label = seen[-1]["label"]
            dropped = label == -1
            assert float(dropped.double().mean()) == pytest.approx(share, abs=0.05)
            assert torch.equal(label[~dropped], cond["label"][~dropped])
            assert seen[-1]["scale"] == 2.0
        assert (cond["label"] >= 0).all()

    def test_refusals(self):
        model, x0 = exact(VPSDE()), torch.zeros(4, 1)
        with pytest.raises(ValueError, match=r"label_dropout=1\.5"):
            DSM(label_dropout=1.5)
        with pytest.raises(ValueError, match="no 'label' to drop"):
            DSM(label_dropout=0.1)(model, x0, generator(0))
        with pytest.raises(ValueError, match=r"x0: dtype torch.int64"):
            dsm_loss(model, x0.long(), torch.ones(4), x0)
        with pytest.raises(ValueError, match=r"t \(3,\), eps \(4, 1\)"):
            dsm_loss(model, x0, torch.ones(3), x0)
        with pytest.raises(ValueError, match="outside"):
            dsm_loss(model, x0, torch.full((4,), 2.0), x0)
