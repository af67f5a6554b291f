"""The learnt weighting: its loss, its optimum, its checkpoints, and that samples do not see it."""

from __future__ import annotations

import pytest
import torch
from conftest import generator
from test_losses import Off, exact
from training_helpers import QUIET, Gain, assert_same

from scoresde import VPSDE, Denoiser, SeededNoise, sample
from scoresde.training import (
    DSM,
    ImportanceTimes,
    LearnedUncertainty,
    LogNormalTimes,
    WithUncertainty,
    edm,
    load_model,
    train,
)

OBJECTIVE = LearnedUncertainty(DSM(weighting=edm, times=LogNormalTimes()))


def model() -> WithUncertainty:
    return WithUncertainty(Denoiser(Gain(0.5), VPSDE(), "v"), channels=16)


def batch(step: int):
    return torch.randn(16, 2, generator=generator(step)), None


def test_it_starts_as_the_plain_loss():
    x0 = batch(0)[0]
    for objective in (OBJECTIVE.objective, DSM(times=ImportanceTimes())):
        plain = objective(model(), x0, generator(1))
        assert LearnedUncertainty(objective)(model(), x0, generator(1)) == plain


def test_the_loss_is_that_of_the_formula():
    wrapped, x0 = model(), batch(0)[0]
    torch.nn.init.normal_(wrapped.weight, generator=generator(2))
    torch.nn.init.constant_(wrapped.bias, -0.3)
    losses, ratio, t = OBJECTIVE.objective.each(wrapped, x0, generator(1))
    u = wrapped.uncertainty(VPSDE().lam(t))
    assert u.std() > 0.1
    expected = (ratio * (losses / u.exp() + u)).mean()
    torch.testing.assert_close(OBJECTIVE(wrapped, x0, generator(1)), expected.float())


def test_at_the_optimum_it_is_the_log_of_the_mean_loss():
    # d/du (l e^-u + u) = 1 - l e^-u, whose mean is 0 there
    wrapped, x0 = model(), batch(0)[0]
    losses = OBJECTIVE.objective.each(wrapped, x0, generator(1))[0].detach()
    torch.nn.init.constant_(wrapped.bias, float(losses.mean().log()))
    OBJECTIVE(wrapped, x0, generator(1)).backward()
    assert float(wrapped.bias.grad) == pytest.approx(0.0, abs=1e-6)


def test_samples_and_predictions_are_the_denoiser_s_own():
    wrapped = model()
    torch.nn.init.normal_(wrapped.weight)
    noise = SeededNoise(0)
    a, b = (sample(m, (3, 2), steps=4, noise=noise) for m in (wrapped, wrapped.denoiser))
    assert torch.equal(a, b)


def run(folder, steps: int):
    return train(
        model(), OBJECTIVE, batch, steps=steps, workdir=folder, checkpoint_every=5, **QUIET
    )


def test_it_trains_is_averaged_and_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", 20)
    run(tmp_path / "parts", 10)
    parts = run(tmp_path / "parts", 20)
    assert_same(whole, parts)
    assert float(whole.model.bias.detach()) != 0.0
    assert float(whole.model.weight.detach().norm()) > 0.0
    loaded = model()
    load_model(tmp_path / "whole", loaded)
    assert torch.equal(loaded.weight, whole.ema.module.weight)
    assert torch.equal(loaded.denoiser.net.gain, whole.ema.module.denoiser.net.gain)


def test_what_the_denoiser_inside_predicts_is_checked(tmp_path):
    run(tmp_path, 1)
    other = WithUncertainty(Denoiser(Gain(), VPSDE(), "eps"), channels=16)
    with pytest.raises(ValueError, match="predicts: expected 'eps', found 'v'"):
        load_model(tmp_path, other)


def test_a_model_without_one_is_refused():
    with pytest.raises(TypeError, match=r"train WithUncertainty\(model\)"):
        OBJECTIVE(exact(VPSDE()), torch.zeros(2, 1), generator(0))


def test_it_is_smooth_and_not_rounded_under_autocast():
    wrapped = WithUncertainty(Denoiser(Off(), VPSDE(), "v"))
    torch.nn.init.normal_(wrapped.weight)
    lam = torch.linspace(-5.0, 5.0, 50)
    with torch.autocast("cpu", torch.bfloat16):
        u = wrapped.uncertainty(lam)
    assert u.dtype == torch.float32
    assert torch.equal(u, wrapped.uncertainty(lam))
