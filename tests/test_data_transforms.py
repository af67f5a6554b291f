"""The affine data transform: bits/dim, log-determinants and exact round trips."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scoresde.data import Affine, Logit

quick = settings(max_examples=50, deadline=None)
level_counts = st.integers(2, 2**16)
intervals = st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5), (0.0, 255.0), (-3.0, 7.0)])
maps = st.sampled_from([Affine.bins, Affine.endpoints])
alphas = st.sampled_from([1e-4, 0.05, 0.3])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@quick
@given(maps, level_counts, intervals)
def test_uniform_density_costs_log2_levels_bits_per_dim(make, levels, interval):
    transform = make(levels, *interval)
    edges = torch.tensor([-0.5, levels - 0.5], dtype=torch.float64)
    low, high = (edges - transform.loc) / transform.scale
    log_prob_per_dim = -math.log(high - low)
    bits = -(log_prob_per_dim + transform.log_det) / math.log(2)
    assert bits == pytest.approx(math.log2(levels), abs=1e-12)


@pytest.mark.parametrize(
    ("transform", "bits"),
    [
        (Affine.bins(256, 0.0, 1.0), 8.0),
        (Affine.bins(256, -1.0, 1.0), 7.0),
        (Affine.endpoints(256), math.log2(127.5)),
    ],
)
def test_log_det_gives_the_offsets_of_the_literature(transform, bits):
    assert -transform.log_det / math.log(2) == pytest.approx(bits, abs=1e-14)


@quick
@given(maps, level_counts, intervals, st.integers(0, 2**32))
def test_dequantised_integers_come_back_exactly(make, levels, interval, seed):
    transform = make(levels, *interval)
    x = torch.randint(levels, (500,), generator=generator(seed))
    x[:2] = torch.tensor([0, levels - 1])
    assert torch.equal(transform.to_pixels(transform.forward(x)).long(), x)
    y = transform.forward(x, generator(seed))
    assert torch.equal(transform.to_pixels(y).long(), x)
    assert not torch.equal(y, transform.forward(x))


@pytest.mark.parametrize(
    "transform",
    [
        *(Affine.bins(levels, low, low + 1) for levels in (256, 2**16) for low in (-6.0, 5.0)),
        *(Logit(2**16, alpha) for alpha in (1e-4, 0.05, 0.4)),
        *(Affine.endpoints(256, low, low + 1) for low in (-100.0, 1000.0)),
        Affine((-5.0, 300.0), (0.1, 7.0), 256),
    ],
)
def test_pixels_come_back_from_ranges_off_zero_in_float32(transform):
    x = torch.arange(transform.levels).repeat(200_000 // transform.levels // 2, 2, 1).mT
    x = x.flatten(0, 1)  # (B, 2)
    assert torch.equal(transform.to_pixels(transform.forward(x)).long(), x)
    assert torch.equal(transform.to_pixels(transform.forward(x, generator())).long(), x)


def test_noise_that_float32_has_no_room_for_is_refused():
    for transform in (Affine.bins(256, 1e4, 1e4 + 1), Logit(2**16, 0.499)):
        with pytest.raises(ValueError, match="generator: float32 has no room for noise"):
            transform.forward(torch.tensor([3]), generator())


@quick
@given(level_counts, alphas, st.integers(0, 2**32))
def test_dequantised_integers_come_back_exactly_from_the_logit(levels, alpha, seed):
    transform = Logit(levels, alpha)
    x = torch.randint(levels, (500,), generator=generator(seed))
    x[:2] = torch.tensor([0, levels - 1])
    assert torch.equal(transform.to_pixels(transform.forward(x)).long(), x)
    u = torch.rand(500, generator=generator(seed), dtype=torch.float64)
    y = transform.embed(x + 0.999 * (u - 0.5))
    assert torch.equal(transform.to_pixels(y).long(), x)
    torch.testing.assert_close(transform.inverse(y), x + 0.999 * (u - 0.5))


@pytest.mark.parametrize("transform", [Logit(256), Logit(4, 1e-3), Affine.bins(9)])
def test_log_det_at_a_point_is_that_of_the_jacobian(transform):
    x = 4.0 * torch.rand(3, 2, 2, generator=generator(), dtype=torch.float64) - 0.5
    found = torch.as_tensor(transform.log_det_at(transform.embed(x))).expand(3)
    for sample, log_det in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: transform.embed(v.view(1, 2, 2)).flatten(), sample.flatten()
        )
        assert float(log_det) == pytest.approx(torch.linalg.slogdet(jacobian)[1].item() / 4)


def test_the_logit_fills_the_range_that_alpha_leaves():
    edges = Logit(256, 0.05).embed(torch.tensor([-0.5, 127.5, 255.5], dtype=torch.float64))
    expected = [math.log(0.05 / 0.95), 0.0, math.log(0.95 / 0.05)]
    assert edges.tolist() == pytest.approx(expected, abs=1e-12)


def test_bins_fill_the_interval_and_endpoints_reach_it():
    x = torch.arange(256, dtype=torch.uint8)
    centres = (torch.arange(256) + 0.5) / 256
    torch.testing.assert_close(Affine.bins(256, 0.0, 1.0).forward(x), centres, rtol=0, atol=0)
    edm = Affine.endpoints(256)
    torch.testing.assert_close(edm.forward(x), x / 127.5 - 1, rtol=0, atol=2**-23)
    assert edm.forward(x)[[0, -1]].tolist() == [-1.0, 1.0]


def test_dequantisation_noise_is_uniform_over_the_bin():
    x = torch.full((100_000,), 3, dtype=torch.uint8)
    u = Affine.bins(256, 0.0, 256.0).forward(x, generator()) - 3
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-6


def test_dequantised_density_averages_to_the_mass_of_the_bin():
    # E_u[p(y(k + u))] |dy/dx| is the probability of level k: it pins offset, width and log-det.
    model = torch.distributions.Normal(0.3, 0.5)
    transform = Affine.bins(4)
    k = torch.arange(4)
    noisy = transform.forward(k.repeat(40_000, 1), generator())
    density = (model.log_prob(noisy) + transform.log_det).exp()
    edges = torch.linspace(-1, 1, 5)
    mass = model.cdf(edges[1:]) - model.cdf(edges[:-1])
    assert ((density.mean(0) - mass).abs() < 5 * density.std(0) / 200).all()


def test_noise_of_a_sample_depends_on_the_seed_and_not_on_the_batch_after_it():
    x = torch.randint(256, (7, 3, 4, 4), generator=generator(1))
    transform = Affine.bins(256)
    y = transform.forward(x, generator(5))
    assert torch.equal(transform.forward(x[:3], generator(5)), y[:3])
    assert not torch.equal(transform.forward(x, generator(6)), y)


def test_standardise_whitens_each_feature_and_knows_its_log_det():
    x = torch.randn(50, 3, 2, 2, generator=generator(), dtype=torch.float64)
    x = x * torch.tensor([0.1, 2.0, 30.0])[:, None, None] + 5
    transform = Affine.standardise(x)
    y = transform.forward(x)
    variance, mean = torch.var_mean(y, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(variance, torch.ones(3).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(transform.inverse(y), x, rtol=1e-14, atol=1e-14)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: transform.forward(v.view(1, 3, 2, 2)).flatten(), x[0].flatten()
    )
    assert transform.log_det == pytest.approx(torch.linalg.slogdet(jacobian)[1].item() / 12)


def test_a_transform_survives_json():
    for transform in (Affine.bins(17), Affine((1.0, 2.0), (3.0, 0.1)), Affine(), Logit(4, 0.1)):
        stored = json.loads(json.dumps(dataclasses.asdict(transform)))
        assert type(transform)(**stored) == transform
    assert repr(Affine.endpoints(256)) == "Affine(loc=127.5, scale=127.5, levels=256)"


def test_to_pixels_clips_and_chooses_the_smallest_dtype():
    assert Affine.bins(256).to_pixels(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    assert Affine.bins(256).to_pixels(torch.zeros(1)).dtype == torch.uint8
    assert Affine.bins(257).to_pixels(torch.zeros(1)).dtype == torch.int32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(scale=0.0), r"scale=0\.0 must be positive"),
        (lambda: Affine(scale=(1.0, -2.0)), "scale=.* must be positive"),
        (lambda: Affine(loc=math.nan), "loc=nan must be one finite number"),
        (lambda: Affine(levels=1), "levels=1 .* 2..65536"),
        (lambda: Logit(1), "levels=1 .* 2..65536"),
        (lambda: Logit(256, 0.5), r"alpha=0\.5 must be between"),
        (lambda: Logit(17).forward(torch.rand(2, 3)), r"x holds torch.float32 .*levels=17"),
        (lambda: Affine.bins(256, 1.0, -1.0), r"low=1\.0 must be below high=-1\.0"),
        (lambda: Affine.standardise(torch.ones(4, 2)), r"constant in features \[0, 1\]"),
        (lambda: Affine.standardise(torch.ones(4)), r"x has shape \(4,\)"),
        (lambda: Affine.standardise(torch.ones(4, 2).byte()), "x holds torch.uint8"),
        (lambda: Affine.bins(256).forward(torch.rand(2, 3)), r"x holds torch.float32 .*levels=256"),
        (lambda: Affine.bins(17).forward(torch.tensor([3, 17])), r"x is outside .* 3\.\.17"),
        (lambda: Affine.bins(17).forward(torch.tensor([-1, 3])), r"x is outside .* -1\.\.3"),
        (lambda: Affine().forward(torch.tensor([1, 2])), r"x holds torch.int64 .*levels=None"),
        (lambda: Affine().forward(torch.tensor([[1.0, math.inf]])), r"1 of 2 .*inf at .*\(0, 1\)"),
        (lambda: Affine((1.0, 2.0)).forward(torch.zeros(4, 3)), r"loc has 2 features.*\(4, 3\)"),
        (lambda: Affine().to_pixels(torch.zeros(1)), "levels=None.*inverse"),
        (lambda: Affine.bins(4).to_pixels(torch.tensor([math.nan])), "y holds 1 of 1 .*nan"),
    ],
)
def test_transforms_refuse_at_the_door(make, message):
    with pytest.raises(ValueError, match=message):
        make()
