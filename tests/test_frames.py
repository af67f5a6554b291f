"""Frames: each writes the same flow."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import generator

from scoresde import EpsFrame, Field, LogFrame, PolarFrame, TimeFrame, X0Frame

FRAMES = (
    *(TimeFrame(), EpsFrame(), X0Frame(), PolarFrame()),
    *(LogFrame(EpsFrame()), LogFrame(X0Frame())),
)
LAMS = (-2.0, -0.5, 1.0, 3.0)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("lam", LAMS)
def test_slope_is_the_derivative_of_the_exact_flow(frame, lam, sde, gaussian):
    c, h = 0.7, 1e-4
    field = Field(gaussian.denoiser(sde, c))
    here, *near = (sde.level_at(lam + d) for d in (0.0, -h, h))
    x = torch.randn(3, 4, generator=generator(0), dtype=torch.float64)
    before, after = (gaussian.flow(x, here, at) / frame.scale(at, c) for at in near)
    span = frame.variable(near[1], c) - frame.variable(near[0], c)
    coefficient, slope = frame.term(field, x, here)
    assert torch.allclose((after - before) / span, coefficient * slope, rtol=1e-5, atol=1e-6)
    assert torch.allclose(frame.slope(field, x, here), coefficient * slope, rtol=1e-12)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("lam", LAMS)
def test_level_inverts_variable(frame, lam, sde):
    at = sde.level_at(lam)
    assert math.isclose(frame.level(frame.variable(at, 0.7), sde, 0.7).lam, lam, abs_tol=1e-7)
    many = sde.level_at(torch.tensor([lam, lam + 0.1], dtype=torch.float64))
    back = frame.level(frame.variable(many, 0.7), sde, 0.7)
    assert torch.allclose(back.lam, many.lam, atol=1e-7)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("lam", LAMS)
def test_rate_is_the_derivative_of_the_variable_in_lam(frame, lam, sde):
    h = 1e-4
    before, after = (frame.variable(sde.level_at(lam + d), 0.7) for d in (-h, h))
    slope = (after - before) / (2.0 * h)
    assert math.isclose(frame.rate(lam, sde, 0.7), slope, rel_tol=1e-6)
    many = frame.rate(torch.tensor([lam, 0.3], dtype=torch.float64), sde, 0.7)
    assert math.isclose(float(many[0]), frame.rate(lam, sde, 0.7), rel_tol=1e-12)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_level_stays_within_the_time_span(frame, sde):
    ends = [sde.level(sde.t_min), sde.level(sde.T if float(sde.alpha(sde.T)) > 0 else 0.99 * sde.T)]
    for end in ends:
        found = frame.level(frame.variable(end, 0.7), sde, 0.7).t
        assert 0.0 <= found <= sde.T
        assert math.isclose(found, end.t, rel_tol=1e-6)
