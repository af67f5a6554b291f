"""One network call, and every prediction follows: conversions, preconditioning, dtypes, shapes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import PROCESSES, generator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scoresde import (
    EDMSDE,
    VPSDE,
    BaseDenoiser,
    Denoiser,
    Field,
    Prediction,
    RectifiedFlow,
    SubVPSDE,
    feed_999t,
    feed_log_sigma,
    feed_t,
)
from scoresde.testing import OperationCounter

KINDS = ["eps", "x0", "v", "score", "velocity", "edm"]
DATA_STD = 0.5
EPS = torch.finfo(torch.float64).eps

every_process = pytest.mark.parametrize("name", PROCESSES)


def level_of(sde, share, *, like=None):
    """Return a level from t_min to just below T: there eps determines x0."""
    low = max(sde.t_min, 1e-3 * sde.T)
    t = low * (0.95 * sde.T / low) ** share
    return sde.level(t if like is None else torch.full_like(like[:, :1], t, dtype=torch.float64))


def output(kind, sde, level, x0, eps):
    """Return what a network of this kind puts out for data x0 and noise eps, written apart."""
    a, s, t = level.alpha, level.sigma, level.t
    match kind:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return a * eps - s * x0
        case "score":
            return -eps / s
        case "velocity":
            # of the probability flow, f x - g^2 score / 2
            return sde.f(t) * (a * x0 + s * eps) + 0.5 * sde.g2(t) * eps / s
        case "edm":
            # D = c_skip x + c_out F with x / alpha = x0 + (sigma / alpha) eps
            ratio = s / a
            skip = DATA_STD**2 / (DATA_STD**2 + ratio**2)
            out = ratio * DATA_STD / math.sqrt(DATA_STD**2 + ratio**2)
            return (x0 - skip * (x0 + ratio * eps)) / out
    raise AssertionError(kind)


def pair(dtype=torch.float64, seed=0):
    return torch.randn(2, 4, 3, generator=generator(seed), dtype=dtype)


def without_end(sde):
    """Return the process, cut off before alpha is 0."""
    return RectifiedFlow(T=0.999) if sde == RectifiedFlow() else sde


class Oracle(nn.Module):
    """Puts out what it was given, and keeps what it was fed."""

    def __init__(self, out):
        super().__init__()
        self.out, self.fed = out, None

    def forward(self, x, t, **cond):
        self.fed = (x, t, cond)
        return self.out


# Conversions


@every_process
@pytest.mark.parametrize("first", KINDS)
def test_every_prediction_gives_every_other(name, first):
    sde = PROCESSES[name]
    x0, eps = pair()
    for share, second in itertools.product((0.0, 0.5, 1.0), KINDS):
        level = level_of(sde, share)
        a, s = level.alpha, level.sigma
        x = a * x0 + s * eps
        given_out = output(first, sde, level, x0, eps)
        p = Prediction.of(first, x, given_out, level, sde, DATA_STD)
        again = output(second, sde, level, p.x0, p.eps)
        expected = output(second, sde, level, x0, eps)
        # x0 from the noise has condition s / a, the noise from x0 has a / s
        condition = (a / s + s / a) ** 2
        assert (again - expected).abs().max() <= 16 * EPS * condition * expected.abs().max()
        back = Prediction.of(second, x, again, level, sde, DATA_STD)
        assert torch.allclose(back.x0, x0, rtol=1e-12, atol=64 * EPS * condition)


@every_process
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_denoiser_reproduces_the_exact_predictions(name, kind, dtype):
    sde = without_end(PROCESSES[name])
    x0, eps = pair()
    for share in (0.0, 0.3, 0.7, 1.0):
        level = level_of(sde, share)
        a, s = level.alpha, level.sigma
        net = Oracle(output(kind, sde, level, x0, eps).to(dtype))
        p = Denoiser(net, sde, kind, data_std=DATA_STD)((a * x0 + s * eps).to(dtype), level)
        # one rounding of x = a x0 + s eps is (1 + s / a) of x0 and (1 + a / s) of eps
        of_x0, of_eps = 1 + s / a, 1 + a / s
        errors = {
            "x0": of_x0,
            "eps": of_eps,
            "v": a * of_eps + s * of_x0,
            "score": of_eps / s,
            "velocity": abs(sde.dalpha(level.t)) * of_x0 + abs(sde.dsigma(level.t)) * of_eps,
        }
        for what, error in errors.items():
            found, exact = getattr(p, what), output(what, sde, level, x0, eps)
            assert found.dtype == dtype
            assert (found - exact).abs().max() <= 32 * torch.finfo(dtype).eps * error, what


@every_process
@given(st.floats(0.0, 1.0))
def test_velocity_is_the_probability_flow(name, share):
    sde = PROCESSES[name]
    level = level_of(sde, share)
    x, out = pair()
    p = Prediction.of("v", x, out, level, sde)
    flow = sde.f(level.t) * x - 0.5 * sde.g2(level.t) * p.score
    terms = abs(sde.f(level.t)) * x.abs() + 0.5 * sde.g2(level.t) * p.score.abs()
    assert ((p.velocity - flow).abs() <= 1e-12 * (terms + terms.max())).all()


def test_conversions_are_those_of_their_papers():
    """Section 2.6 in other words: score = -eps / s, x0 = (x + s^2 score) / a, and back from v."""
    sde, (x, out) = SubVPSDE(), pair()
    level = sde.level(0.4)
    a, s = level.alpha, level.sigma
    p = Prediction.of("score", x, out, level, sde)
    assert torch.allclose(p.x0, (x + s * s * out) / a, rtol=1e-12)
    p = Prediction.of("v", x, out, level, sde)
    # sub-VP does not preserve variance: the denominator counts
    assert torch.allclose(p.x0, (a * x - s * out) / (a * a + s * s), rtol=1e-12, atol=1e-14)
    assert torch.allclose(p.eps, (s * x + a * out) / (a * a + s * s), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["x0", "v", "velocity"])
def test_pure_noise_still_gives_data(kind):
    sde, (x0, eps) = RectifiedFlow(), pair()
    level = sde.level(1.0)
    out = {"x0": x0, "v": -x0, "velocity": eps - x0}[kind]
    p = Prediction.of(kind, eps, out, level, sde)
    for found, exact in [(p.x0, x0), (p.eps, eps), (p.v, -x0), (p.velocity, eps - x0)]:
        assert torch.allclose(found, exact, rtol=1e-14, atol=1e-14)


def test_combinations_take_two_operations_and_terms_one(sde):
    x, out = pair()
    level = level_of(sde, 0.5)
    for kind in KINDS:
        p = Prediction.of(kind, x, out, level, sde, DATA_STD)
        for weights in ({"x0": 1.0}, {"eps": 0.3}, {"x": 0.2, "x0": -1.0, "eps": 2.0}):
            with OperationCounter() as combining:
                whole = p.combine(**weights)
            with OperationCounter() as scaling:
                c, tensor = p.term(**weights)
            assert len(combining.operations) <= 2
            assert len(scaling.operations) <= 1
            expected = sum(
                w * {"x": x, "x0": p.x0, "eps": p.eps}[name] for name, w in weights.items()
            )
            size = expected.abs().max() + x.abs().max() / min(level.alpha, level.sigma)
            assert (whole - expected).abs().max() <= 1e-13 * size
            assert (c * tensor - expected).abs().max() <= 1e-13 * size


def test_terms_of_per_sample_levels_equal_shared_ones(sde):
    x, out = pair()
    shared, each = level_of(sde, 0.5), level_of(sde, 0.5, like=x)
    for kind in KINDS:
        one = Prediction.of(kind, x, out, shared, sde).term(x0=1.0, eps=0.5)
        own = Prediction.of(kind, x, out, each, sde).term(x0=1.0, eps=0.5)
        assert torch.allclose(one[0] * one[1], own[0] * own[1], rtol=1e-10, atol=1e-12)


# The preconditioning of EDM


def test_edm_preconditioning_is_that_of_the_paper():
    """Karras et al. 2022, arXiv:2206.00364, Table 1, last column."""
    x, out = pair()
    for sigma in (0.002, 0.3, 1.0, 80.0):
        net = Oracle(out)
        p = Denoiser(net, EDMSDE(), "edm", data_std=0.5)(x, EDMSDE().level(sigma))
        total = sigma**2 + 0.25
        c_skip, c_out = 0.25 / total, sigma * 0.5 / math.sqrt(total)
        c_in, c_noise = 1 / math.sqrt(total), math.log(sigma) / 4
        fed, t, _ = net.fed
        assert torch.allclose(fed, c_in * x, rtol=1e-14)
        assert t.tolist() == pytest.approx([c_noise] * 4, rel=1e-6)
        assert torch.allclose(p.x0, c_skip * x + c_out * out, rtol=1e-13)


def test_edm_preconditioning_feeds_unit_variance_and_asks_for_it(sde):
    x = pair()[0]
    for share in (0.0, 0.5, 1.0):
        level = level_of(sde, share)
        net = Oracle(x)
        Denoiser(net, sde, "edm", data_std=DATA_STD, time_input=feed_t)(x, level)
        variance = (level.alpha * DATA_STD) ** 2 + level.sigma**2
        assert torch.allclose(net.fed[0], x / math.sqrt(variance), rtol=1e-14)
        # the wanted output for data of deviation c and for noise of deviation 1
        of_data = output("edm", sde, level, DATA_STD, 0.0)
        of_noise = output("edm", sde, level, 0.0, 1.0)
        assert of_data**2 + of_noise**2 == pytest.approx(1.0, rel=1e-12)


# What the network is fed


def test_time_inputs():
    level = VPSDE().level(0.25)
    assert feed_t(level) == 0.25
    assert feed_999t(level) == pytest.approx(249.75)
    assert feed_log_sigma(level) == pytest.approx(0.25 * math.log(level.sigma / level.alpha))
    for time_input, value in [
        (None, 0.25),
        (feed_999t, 249.75),
        (lambda at: at.sigma, level.sigma),
    ]:
        net = Oracle(pair()[0])
        Denoiser(net, VPSDE(), time_input=time_input)(pair()[1], level)
        assert net.fed[1].tolist() == pytest.approx([value] * 4, rel=1e-6)


def test_the_condition_reaches_the_network():
    net = Oracle(pair()[0])
    labels = torch.arange(4)
    Field(Denoiser(net, VPSDE()), {"y": labels})(pair()[1], VPSDE().level(0.5))
    assert net.fed[2]["y"] is labels


def test_a_field_counts_calls_and_selects_rows_of_its_condition():
    net = Oracle(pair()[0])
    per_row, shared = torch.arange(4), torch.arange(3)
    field = Field(Denoiser(net, VPSDE()), {"y": per_row, "shared": shared, "scale": 2.0})
    level = VPSDE().level(0.5)
    for _ in range(3):
        field(pair()[1], level)
    assert field.nfe == 3
    some = field.rows(torch.tensor([3, 1]), batch=4)
    assert some.cond["y"].tolist() == [3, 1]
    assert some.cond["shared"] is shared
    assert some.cond["scale"] == 2.0


class Line(nn.Module):
    """A network with parameters, whose output tells x and t apart."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=dtype))
        self.seen = None

    def forward(self, x, t):
        self.seen = (x.dtype, t)
        return self.weight * x + t.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype)


@pytest.mark.parametrize(
    ("net_dtype", "state_dtype", "t_dtype"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.float64, torch.float32),
        (torch.float32, torch.float64, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_keeps_its_dtype_and_the_network_its_own(kind, net_dtype, state_dtype, t_dtype):
    net, x = Line(net_dtype), pair(state_dtype)[0]
    model = Denoiser(net, VPSDE(), kind)
    for level in (level_of(VPSDE(), 0.5), level_of(VPSDE(), 0.5, like=x)):
        p = model(x, level)
        assert net.seen[0] == net_dtype
        assert net.seen[1].dtype == t_dtype
        assert net.seen[1].shape == (4,)
        for what in ("x0", "eps", "v", "score", "velocity"):
            assert getattr(p, what).dtype == state_dtype, what
    assert torch.equal(p.x, x)


def test_t_is_not_rounded_to_half_precision():
    net, x = Line(torch.bfloat16), pair(torch.float32)[0]
    model, fed = Denoiser(net, VPSDE(), time_input=feed_999t), []
    for t in (0.9, 0.901):
        model(x, VPSDE().level(t))
        fed.append(net.seen[1][0].item())
    assert fed[1] - fed[0] == pytest.approx(0.999, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_of_each_sample_equal_shared_ones(sde, kind, dtype):
    sde = without_end(sde)
    model = Denoiser(Line(dtype), sde, kind, data_std=DATA_STD)
    x = pair(dtype)[0]
    t = torch.tensor([level_of(sde, u).t for u in (0.0, 0.4, 0.7, 1.0)], dtype=torch.float64)
    for shape in ((4,), (4, 1)):  # as many samples as columns would be broadcast the wrong way
        p = model(x, sde.level(t.reshape(shape)))
        for i, u in enumerate(t.tolist()):
            own = model(x[i : i + 1], sde.level(u))
            for what in ("x0", "eps", "v", "score", "velocity"):
                found, expected = getattr(p, what)[i : i + 1], getattr(own, what)
                size = expected.abs().max() + x.abs().max()
                assert found.dtype == dtype
                assert (found - expected).abs().max() <= 32 * torch.finfo(dtype).eps * size, what


def test_one_level_as_a_tensor_serves_the_batch():
    model = Denoiser(Line(torch.float64), VPSDE())
    x = pair()[0]
    p = model(x, VPSDE().level(torch.tensor(0.5, dtype=torch.float64)))
    assert torch.allclose(p.x0, model(x, VPSDE().level(0.5)).x0, rtol=1e-14)


def test_gradients_reach_the_parameters_and_the_state():
    net = Line(torch.float64)
    x = pair()[0].requires_grad_()
    p = Denoiser(net, VPSDE(), "v")(x, VPSDE().level(0.3))
    gradients = torch.autograd.grad(p.x0.sum(), [x, net.weight])
    level = VPSDE().level(0.3)
    assert torch.allclose(gradients[0], torch.full_like(x, level.alpha - 2.0 * level.sigma))
    assert gradients[1].item() == pytest.approx(-level.sigma * x.sum().item())


# Refusals


def test_what_cannot_be_denoised_is_refused():
    net = Oracle(pair()[0])
    with pytest.raises(ValueError, match="predicts='noise' must be one of"):
        Denoiser(net, VPSDE(), "noise")
    with pytest.raises(TypeError, match=r"sde=.*VPSDE.* is no SDE; give an instance, VPSDE\(...\)"):
        Denoiser(net, VPSDE)
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match=f"predicts='{kind}': alpha is 0 at T=1.0"):
            Denoiser(net, RectifiedFlow(), kind)
    for data_std in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="data_std="):
            Denoiser(net, VPSDE(), data_std=data_std)
    with pytest.raises(ValueError, match=r"time_input: feeds the network inf at T=1.0"):
        Denoiser(net, RectifiedFlow(), "edm")
    assert Denoiser(net, RectifiedFlow(), "edm", time_input=feed_t).time_input is feed_t
    assert Denoiser(net, RectifiedFlow(T=0.999), "edm").time_input is feed_log_sigma


def test_an_output_of_another_shape_is_refused():
    x = pair()[0]
    model = Denoiser(Oracle(x[..., :2]), VPSDE())
    with pytest.raises(ValueError, match=r"net: output has shape \(4, 2\) .* \(4, 3\)"):
        model(x, VPSDE().level(0.5))


def test_a_base_denoiser_is_abstract():
    with pytest.raises(TypeError):
        BaseDenoiser(VPSDE())
