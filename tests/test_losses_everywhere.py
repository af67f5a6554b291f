"""Every law of t with every weighting on every process: a finite loss, or a refusal by name."""

from __future__ import annotations

import pytest
import torch
from conftest import PROCESSES, generator
from test_denoiser import DATA_STD, KINDS, level_of, output, pair
from test_losses import Off
from torch import Tensor

from scoresde import VESDE, Denoiser, Prediction, RectifiedFlow
from scoresde.chains import (
    CosineBetas,
    GeometricSigmas,
    Ladder,
    LevelTimes,
    LinearBetas,
    variational,
)
from scoresde.training import (
    DiscreteTimes,
    ImportanceTimes,
    InformationTimes,
    LogNormalTimes,
    MinSNR,
    UniformTimes,
    dsm_loss,
    edm,
    likelihood,
    sigma2,
    ssm_loss,
    velocity,
)
from scoresde.training.losses import target

EVERY = {
    **PROCESSES, "linear": LinearBetas(n=10), "betas": CosineBetas(n=10), "ncsn": GeometricSigmas()
}  # fmt: skip
TIMES = {
    "uniform": UniformTimes(), "importance": ImportanceTimes(),
    "information": InformationTimes(0.5), "lognormal": LogNormalTimes(),
    "far": LogNormalTimes(30.0, 4.0), "discrete": DiscreteTimes(6), "levels": LevelTimes(),
}  # fmt: skip
# quantiles with the first and the last that are drawn
U = torch.tensor([0.0, 1e-9, 0.3, 0.7, 1.0 - 1e-9, 1.0 - 2.0**-53], dtype=torch.float64)


def draws(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x0, eps = (torch.randn(6, 3, generator=generator(k)).to(dtype) for k in (0, 1))
    return x0, eps


@pytest.mark.parametrize("weighting", [sigma2, likelihood, edm, velocity, MinSNR(), variational])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", EVERY)
def test_a_loss_is_finite_and_exact_in_float32_or_refused_by_name(name, times, weighting):
    sde, law = EVERY[name], TIMES[times]
    model = Denoiser(Off(), sde, "v", time_input=lambda level: level.t / sde.T)

    def loss(dtype: torch.dtype) -> Tensor:
        t, ratio = law.quantile(sde, U)
        x0, eps = draws(dtype)
        return ratio * dsm_loss(model, x0, t, eps, weighting)

    chain, flow = isinstance(sde, Ladder), isinstance(sde, RectifiedFlow)
    refused = {
        "LevelTimes": times == "levels" and not chain,
        "variational": weighting is variational and not chain,
        "ImportanceTimes.*alpha is 0 at T": times == "importance" and flow,
        "LogNormalTimes.*all but misses": times == "far" and not flow,
    }
    if reasons := [word for word, so in refused.items() if so]:
        with pytest.raises(ValueError, match="|".join(reasons)):
            loss(torch.float32)
        return
    exact = loss(torch.float64)
    assert bool(exact.isfinite().all())
    torch.testing.assert_close(loss(torch.float32).double(), exact, rtol=1e-3, atol=1e-12)


def test_the_last_of_discrete_times_on_a_flow_is_flow_matching_from_noise():
    """At alpha = 0 the state is the noise, and the velocity tells the data: eps - x0."""
    net, sde = Off(), RectifiedFlow()
    model = Denoiser(net, sde, "velocity")
    x0, eps = draws(torch.float32)
    t, _ = DiscreteTimes(5).quantile(sde, torch.full((6,), 0.9, dtype=torch.float64))
    plain = (net(eps, torch.ones(6)) - (eps - x0)).square().mean(1)
    torch.testing.assert_close(dsm_loss(model, x0, t, eps, velocity), plain, rtol=1e-5, atol=0)
    simple = dsm_loss(model, x0, t, eps)
    torch.testing.assert_close(simple, torch.zeros(6), rtol=0, atol=1e-30)


@pytest.mark.parametrize("kind", ["velocity", "score"])
def test_data_in_half_precision_have_a_loss_in_single(kind):
    """The squares of what a network puts out overflow there, and those of its noise do not."""
    sde = VESDE()
    model = Denoiser(Off(), sde, kind)
    x0, eps = draws(torch.float16)
    t = torch.full((6,), sde.T if kind == "velocity" else sde.t_min + 0.1, dtype=torch.float64)
    found = dsm_loss(model, x0, t, eps)
    assert found.dtype == torch.float32
    exact = dsm_loss(model, x0.double(), t, eps.double())
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=1e-3)
    t = torch.full((6,), sde.t_min + 0.1, dtype=torch.float64)
    found = ssm_loss(model, x0, t, eps, torch.sign(eps))
    assert found.dtype == torch.float32
    exact = ssm_loss(model, x0.double(), t, eps.double(), torch.sign(eps.double()))
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_the_output_that_was_meant(name, kind):
    """Whatever was put out, to the rounding of the terms alone, at low and at high noise."""
    sde, (x0, eps), one, none = PROCESSES[name], pair(), torch.ones(1), torch.zeros(1)
    for share in (0.0, 0.5, 1.0):
        level = level_of(sde, share)
        x, other = (level.alpha * x0 + level.sigma * eps).float(), pair(seed=1)[0].float()
        p = Prediction.of(kind, x, other, level, sde, DATA_STD)
        found = target(p, x0.float(), eps.float())
        exact = output(kind, sde, level, x0, eps)
        of_x0, of_eps = (output(kind, sde, level, *unit) for unit in ((one, none), (none, one)))
        size = abs(float(of_x0)) * x0.abs() + abs(float(of_eps)) * eps.abs()
        assert found.dtype == torch.float32
        assert ((found - exact).abs() <= 4 * torch.finfo(torch.float32).eps * size).all()
