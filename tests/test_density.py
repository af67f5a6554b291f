"""What is built on densities and codes, against closed forms."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from conftest import generator, rotation, slow, spread
from solver_examples import model_on, normal
from torch import nn

import scoresde as sd
from scoresde import (
    VESDE,
    VPSDE,
    ControlVariate,
    DormandPrince,
    ExactTrace,
    Gaussian,
    GaussianMixture,
    Hutchinson,
    Prior,
)
from scoresde.density import (
    calibration,
    interpolate,
    local_spectrum,
    log_ratio,
    mutual_information,
    novelty,
    ranks,
)
from scoresde.density.codes import great_circle


def gaussian(*variances, mean=0.0):
    d = len(variances)
    return Gaussian(torch.full((d,), mean).double(), spread(*variances))


# codes


def test_the_way_between_two_points_turns():
    a, b = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    for share in (0.0, 0.2, 0.5, 1.0):
        angle = 0.5 * math.pi * share
        point = great_circle(a, b, share)
        assert point.tolist()[0] == pytest.approx([3 * math.cos(angle), 3 * math.sin(angle)])


@pytest.mark.parametrize("b", [[2.0, 4.0], [-1.0, -2.0], [1.0 + 1e-12, 2.0]])
def test_points_on_a_line_are_joined_by_it(b):
    a, b = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([b]).double()
    assert torch.allclose(great_circle(a, b, 0.25), 0.75 * a + 0.25 * b, rtol=1e-9)


def test_interpolation_starts_and_ends_at_the_samples():
    data = gaussian(1.0, 0.2, 0.05)
    model = data.denoiser(VPSDE())
    a, b = (normal(4, 3, seed=k, dtype=torch.float64) for k in (0, 1))
    solver = DormandPrince(1e-9, 1e-9)
    way = interpolate(model, a, b, (0.0, 0.5, 1.0), solver=solver)
    assert way.shape == (3, 4, 3)
    assert torch.allclose(way[0], a, atol=1e-6)
    assert torch.allclose(way[2], b, atol=1e-6)
    top, bottom = (model.sde.level(t) for t in (model.sde.T, model.sde.t_min))
    codes = [data.flow(x, bottom, top) for x in (a, b)]
    middle = data.flow(great_circle(*codes, 0.5), top, bottom)
    assert torch.allclose(way[1], middle, atol=1e-6)


def test_interpolation_needs_ends_of_one_shape_and_shares():
    with pytest.raises(ValueError, match=r"b: shape \(3, 3\)"):
        interpolate(model_on(), normal(2, 3), normal(3, 3))
    with pytest.raises(ValueError, match="shares: none"):
        interpolate(model_on(), normal(2, 3), normal(2, 3), shares=())


# ratios


@pytest.mark.parametrize(("tol", "bound"), [(1e-8, 1e-6), slow(1e-10, 1e-7)])
def test_the_ratio_of_two_gaussians_is_exact(tol, bound):
    one, other = gaussian(1.0, 0.2, 0.05), gaussian(0.5, 0.5, 0.1, mean=0.3)
    sde = VPSDE()
    x = normal(6, 3, dtype=torch.float64)
    low, high = sde.level(sde.t_min), sde.level(sde.T)
    priors = [Marginal(data, high) for data in (one, other)]
    found = log_ratio(
        one.denoiser(sde, 1.0),
        other.denoiser(sde, 1.0),
        x,
        prior=priors[0],
        other_prior=priors[1],
        solver=DormandPrince(tol, tol),
    )
    expected = one.log_prob(x, low) - other.log_prob(x, low)
    assert torch.allclose(found.nats, expected, atol=bound)
    assert not found.stderr.any()
    assert found.mean == pytest.approx(float(expected.mean()), abs=bound)


class Marginal(sd.Prior):
    """The law of the data at a level."""

    def __init__(self, data, level):
        super().__init__()
        object.__setattr__(self, "exact", lambda x: data.log_prob(x, level))

    def log_prob(self, x):
        return self.exact(x)


def test_probes_that_are_shared_leave_only_the_difference_in_the_error():
    near = gaussian(1.0, 0.2, 0.05), gaussian(1.0, 0.21, 0.05)
    sde, x = VPSDE(), normal(6, 3, dtype=torch.float64)
    one, other = (data.denoiser(sde, 1.0) for data in near)
    how = {"trace": Hutchinson(8), "seed": 0, "steps": 30}
    paired = log_ratio(one, other, x, **how)
    apart = sd.log_likelihood(one, x, **how)
    assert float(paired.stderr.max()) < 0.1 * float(apart.stderr.min())
    exact = log_ratio(one, other, x, trace=ExactTrace(), steps=30)
    assert float(((paired.nats - exact.nats) / paired.stderr).abs().max()) < 7.0
    assert torch.equal(log_ratio(one, one, x, **how).nats, torch.zeros(6).double())
    assert paired.nfe.unique().tolist() == [60]


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_gaussian_is_taken_off_both_models(shift):
    data, other = (gaussian(1.0, 0.2, 0.05, mean=mean) for mean in (0.0, shift))
    x, sde = normal(6, 3, dtype=torch.float64), VPSDE()
    trace = ControlVariate(Hutchinson(2), gaussian(0.7, 0.3, 0.1))
    models = data.denoiser(sde, 1.0), other.denoiser(sde, 1.0)
    found = log_ratio(*models, x, trace=trace, steps=30, seed=0)
    exact = log_ratio(*models, x, trace=ExactTrace(), steps=30)
    assert float(found.stderr.max()) < 1e-12
    assert torch.allclose(found.nats, exact.nats, atol=1e-10)


class Labelled(sd.BaseDenoiser):
    """The exact denoiser of each component of a mixture, and of the whole where the label is -1."""

    def __init__(self, data, sde):
        super().__init__(sde, 1.0)
        self.whole = data.denoiser(sde, 1.0)
        self.parts = [
            Gaussian(m, c).denoiser(sde, 1.0)
            for m, c in zip(data.means, data.covariances, strict=True)
        ]

    def forward(self, x, level, *, label):
        out = self.whole(x, level)
        chosen = [self.whole(x, level), *(part(x, level) for part in self.parts)]
        stacked = torch.stack([p.v for p in chosen])
        v = stacked[label + 1, torch.arange(len(x))]
        return sd.Prediction.of("v", x, v, out.level, self.sde)


def test_mutual_information_of_a_mixture_and_its_labels():
    data = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[-0.7, 0.0], [0.7, 0.0]]).double(),
        torch.stack([0.3 * torch.eye(2), 0.3 * torch.eye(2)]).double(),
    )
    sde = VPSDE()
    rng = generator(0)
    z, u = (torch.randn(60, 2, generator=rng), torch.rand(60, generator=rng))
    x, label = data.sample(z.double(), u.double()), (u > 0.5).long()
    found = mutual_information(
        Labelled(data, sde),
        x,
        {"label": label},
        {"label": torch.full_like(label, -1)},
        trace=ExactTrace(),
        steps=30,
    )
    low = sde.level(sde.t_min)
    parts = [Gaussian(m, c) for m, c in zip(data.means, data.covariances, strict=True)]
    given = torch.stack([p.log_prob(x, low) for p in parts])[label, torch.arange(60)]
    expected = given - data.log_prob(x, low)
    # the standard prior stands for both laws at T: up to 1e-2 nats of the difference are its
    assert torch.allclose(found.nats, expected, atol=2e-2)
    assert found.mean == pytest.approx(float(expected.mean()), abs=5e-3)
    assert found.mean_stderr == pytest.approx(float(expected.std()) / math.sqrt(60), rel=0.05)
    assert 0.0 < found.mean < math.log(2.0)


def test_mutual_information_names_all_that_it_takes():
    names, ratio = (inspect.signature(f).parameters for f in (mutual_information, log_ratio))
    own = {"cond", "without", "model", "x"}
    assert set(names) - own == set(ratio) - own - {"other", "other_cond"}


def test_a_ratio_takes_a_seed_or_a_noise():
    with pytest.raises(ValueError, match="seed=0 and noise="):
        log_ratio(model_on(), model_on(), normal(2, 3), seed=0, noise=sd.SeededNoise(0))


# dimensions


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
def test_the_spectrum_of_gaussian_data_is_known(sde):
    data, ratio = gaussian(1.0, 0.3, 1e-3, 1e-6), 0.05
    found = local_spectrum(data.denoiser(sde), normal(5, 4, dtype=torch.float64), ratio)
    variances = torch.tensor([1.0, 0.3, 1e-3, 1e-6]).double()
    assert torch.allclose(found.shares, variances / (variances + ratio**2), rtol=1e-6, atol=1e-9)
    assert found.dimension.tolist() == [2] * 5
    assert torch.allclose(found.effective, found.shares.sum(1))


def test_a_plane_in_many_dimensions_is_a_plane():
    turn = rotation(6, 3)
    flat = turn[:, :2] @ turn[:, :2].mT
    data = Gaussian(torch.zeros(6).double(), flat)
    found = local_spectrum(data.denoiser(VPSDE()), normal(3, 6, dtype=torch.float64) @ flat, 0.05)
    assert found.dimension.tolist() == [2, 2, 2]


def test_the_spectrum_of_images_and_of_a_ratio_that_is_not_reached():
    assert local_spectrum(model_on(), normal(2, 1, 2, 2), 0.1).shares.shape == (2, 4)
    with pytest.raises(ValueError, match=r"ratio=1e-05: .* goes from"):
        local_spectrum(model_on(), normal(2, 3), 1e-5)


# novelty


def likelihoods(nats, latent):
    zeros = torch.zeros(len(nats))
    return sd.LogLikelihood(
        nats=nats, parts={}, stderr=zeros, nfe=zeros.long(), dim=latent[0].numel(), latent=latent
    )


def test_novelty_counts_the_reference():
    reference = likelihoods(torch.arange(9.0), normal(9, 4))
    found = novelty(likelihoods(torch.tensor([-1.0, 4.0, 99.0]), normal(3, 4)), reference, Prior())
    assert found.unlikely.tolist() == pytest.approx([0.1, 0.6, 1.0])
    # of -1 and 0..8 the median is 3.5, from which 8 is as far
    assert found.atypical.tolist() == pytest.approx([0.2, 1.0, 0.1])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_novelty_is_exact_for_a_sample_that_is_exchangeable_with_the_reference(n, dtype):
    # each of n + 1 likelihoods is as likely to be the sample's: their p-values are all there are
    ties = torch.arange(n + 1) // 2
    for pool in (normal(n + 1, dtype=dtype), normal(n + 1, dtype=dtype).exp(), ties.to(dtype)):
        values = {"unlikely": [], "atypical": []}
        for k in range(n + 1):
            rest = torch.cat([pool[:k], pool[k + 1 :]])
            how = [likelihoods(nats, torch.zeros(len(nats), 2)) for nats in (pool[k : k + 1], rest)]
            found = novelty(*how, Prior())
            values = {key: [*v, float(getattr(found, key))] for key, v in values.items()}
            distance = (pool - pool.quantile(0.5)).abs()
            farther = int((distance >= distance[k] - 1e-6).sum())
            assert float(found.atypical) == pytest.approx(farther / (n + 1))
        for p in values.values():
            for level in range(1, n + 2):
                assert sum(v <= level / (n + 1) + 1e-9 for v in p) <= level


def test_codes_are_held_against_the_prior_that_they_have():
    reference = likelihoods(torch.arange(9.0), normal(9, 50))
    codes, mean = normal(6, 50), normal(50, seed=1)
    usual = novelty(likelihoods(torch.zeros(6), codes), reference, Prior())
    moved = likelihoods(torch.zeros(6), mean + 80.0 * codes)
    same = novelty(moved, reference, Prior(mean, 80.0))
    assert torch.allclose(usual.code, same.code, rtol=1e-3)
    assert float(novelty(moved, reference, Prior()).code.max()) < 1e-9


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_novelty_refuses_likelihoods_that_are_not_finite(wrong):
    some, bad = (likelihoods(torch.tensor([0.0, v]), normal(2, 3)) for v in (1.0, wrong))
    with pytest.raises(ValueError, match="found: has nats"):
        novelty(bad, some, Prior())
    with pytest.raises(ValueError, match="reference: has nats"):
        novelty(some, bad, Prior())


def test_novelty_refuses_a_prior_that_is_no_gaussian():
    some = likelihoods(torch.zeros(2), normal(2, 3))
    with pytest.raises(ValueError, match="no Gaussian"):
        novelty(some, some, Marginal(gaussian(1.0, 1.0, 1.0), VPSDE().level(1.0)))


def test_codes_of_the_prior_are_usual_and_short_or_long_ones_are_not():
    reference = likelihoods(torch.arange(9.0), normal(9, 100))
    codes = torch.cat([normal(500, 100), 0.5 * normal(3, 100), 2.0 * normal(3, 100)])
    found = novelty(likelihoods(torch.zeros(506), codes), reference, Prior())
    usual = found.code[:500].sort().values
    steps = torch.arange(1, 501) / 500
    assert float((usual - steps).abs().max()) < 2.6 / math.sqrt(500)  # Kolmogorov, 1e-6
    assert float(found.code[500:].max()) < 1e-6


def test_novelty_needs_a_reference_of_its_dimension():
    some = likelihoods(torch.zeros(2), normal(2, 3))
    with pytest.raises(ValueError, match="reference: 2 samples of 4 dimensions"):
        novelty(some, likelihoods(torch.zeros(2), normal(2, 4)), Prior())


# calibration


def posterior(widen, n=2000, draws=99):
    """A normal prior seen with noise of its own size; draws spread by a factor too many."""
    rng = generator(1)
    truth, noise = torch.randn(2, n, 1, generator=rng).double()
    mean = 0.5 * (truth + noise)
    z = torch.randn(draws, n, 1, generator=rng).double()
    return mean + widen * math.sqrt(0.5) * z, truth


def test_exact_posteriors_are_calibrated_and_others_are_found_out():
    exact, narrow, wide = (calibration(*posterior(widen)) for widen in (1.0, 0.8, 1.25))
    assert float(exact.p_value) > 1e-5
    assert float(narrow.p_value) < 1e-9
    assert float(wide.p_value) < 1e-9
    assert exact.counts.sum(0).tolist() == [2000]
    assert narrow.counts[0] > exact.counts[0] > wide.counts[0]


def test_ranks_count_the_draws_below():
    samples = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert ranks(samples, torch.tensor([2.5])).tolist() == [2]
    assert ranks(samples, torch.tensor([0.0])).tolist() == [0]
    assert ranks(torch.ones(4, 1), torch.ones(1)).tolist() == [2]
    with pytest.raises(ValueError, match="samples: shape"):
        ranks(samples, torch.zeros(2))


def test_what_has_no_rank_is_refused():
    samples, truth = normal(9, 20), normal(20)
    bad = torch.full((1,), math.nan)
    with pytest.raises(ValueError, match="samples: has NaN"):
        ranks(torch.cat([samples[:, 1:], bad.expand(9, 1)], 1), truth)
    with pytest.raises(ValueError, match="truth: has NaN"):
        calibration(samples, torch.cat([truth[1:], bad]))
    with pytest.raises(ValueError, match=r"truth: shape \(0,\) has no values"):
        calibration(samples[:, :0], truth[:0], bins=2)


def test_bins_divide_the_ranks():
    samples, truth = posterior(1.0, n=50)
    assert len(calibration(samples, truth).counts) == 5
    for bins in (1, 3, 101):
        with pytest.raises(ValueError, match=f"bins={bins} .*divisor of 100"):
            calibration(samples, truth, bins)
    with pytest.raises(ValueError, match="ten ranks"):
        calibration(samples[:, :3], truth[:3])


def test_a_network_that_only_goes_backward_has_a_spectrum_too():
    class Twice(torch.autograd.Function):
        """A function with a derivative that goes backward only."""

        @staticmethod
        def forward(ctx, x):
            return 2.0 * x

        @staticmethod
        def backward(ctx, grad):
            return 2.0 * grad

    class Net(nn.Module):
        """A network made of it."""

        def forward(self, x, t):
            return Twice.apply(x)

    model = sd.Denoiser(Net(), VPSDE(), "x0")
    found = local_spectrum(model, normal(2, 3), 0.1)
    assert torch.allclose(
        found.shares, torch.full((2, 3), 2.0) * model.sde.level_at(-math.log(0.1)).alpha
    )
