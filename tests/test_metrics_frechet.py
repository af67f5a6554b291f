"""The Frechet distance: closed forms, the bias that is known, and its standard error."""

import math

import pytest
import torch
from conftest import generator, rotation, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from scoresde.metrics import Embedding, frechet_distance


def with_moments(mean, covariance, n, seed=0):
    """Return samples (n, d) whose empirical moments are exactly these."""
    x = torch.randn(n, len(mean), generator=generator(seed), dtype=torch.float64)
    q = torch.linalg.qr(x - x.mean(0)).Q  # centred still, and orthonormal
    return mean + math.sqrt(n - 1) * q @ torch.linalg.cholesky(covariance).mT


def drawn(n, d, seed, scale=1.0):
    return scale * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def test_gaussians_with_common_axes_have_the_distance_of_their_deviations():
    a, b = torch.tensor([[2.0, 1.0, 0.5, 0.1], [0.5, 1.0, 3.0, 0.4]], dtype=torch.float64)
    axes = rotation(4)
    first, second = (axes @ torch.diag(v.square()) @ axes.mT for v in (a, b))
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    x, y = with_moments(shift, first, 30), with_moments(torch.zeros(4), second, 50, seed=1)
    exact = shift.square().sum() + (a - b).square().sum()
    assert frechet_distance(x, y).value == pytest.approx(float(exact), rel=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(7, 30), st.integers(7, 30), st.integers(0, 99))
def test_the_distance_is_that_of_the_matrix_root_and_is_symmetric(d, n, m, seed):
    x, y = drawn(n, d, seed, 2.0) + 1.0, drawn(m, d, seed + 1)
    s, t = x.mT.cov().reshape(d, d), y.mT.cov().reshape(d, d)
    root = torch.from_numpy(sqrtm((s @ t).numpy()).real)
    exact = (x.mean(0) - y.mean(0)).square().sum() + (s + t - 2.0 * root).trace()
    there, back = frechet_distance(x, y), frechet_distance(y, x)
    assert there.value == pytest.approx(float(exact), rel=1e-8)
    assert back.value == pytest.approx(there.value, rel=1e-10)
    assert back.stderr == pytest.approx(there.stderr, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (5, 40)])
def test_equal_sets_have_the_distance_zero_even_with_fewer_samples_than_features(n, d):
    x = drawn(n, d, 0, 100.0)
    found = frechet_distance(x, x)
    assert 0 <= found.value < 1e-18
    assert found.stderr < 1e-9


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 5), (6, 30, 12), (6, 9, 12)])
def test_turned_and_shifted_sets_have_the_same_distance_and_features_of_zero_add_nothing(n, m, d):
    x, y = drawn(n, d, 0, 2.0), drawn(m, d, 1)
    found = frechet_distance(x, y)
    for move in (lambda s: s @ rotation(d) + 3.0, lambda s: torch.cat([s, 0.0 * s], 1)):
        moved = frechet_distance(move(x), move(y))
        assert moved.value == pytest.approx(found.value, rel=1e-8)
        assert moved.stderr == pytest.approx(found.stderr, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 5), (12, 30, 6)])
def test_the_standard_error_is_that_of_the_first_order(n, m, d):
    """Weights on samples, moved a little, move the distance by the influence of each."""
    x, y = drawn(n, d, 0, 2.0) + 0.5, drawn(m, d, 1).pow(3)
    weights = [torch.full((k,), 1.0 / k, dtype=torch.float64) for k in (n, m)]

    def distance(p, q):
        moments = []
        for w, rows, k in ((p, x, n), (q, y, m)):
            w = w / w.sum()
            centred = rows - w @ rows
            moments += [w @ rows, (centred.mT * w) @ centred * k / (k - 1)]
        a, s, b, t = moments
        values, vectors = torch.linalg.eigh(s)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
        middle = torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()
        return (a - b).square().sum() + s.trace() + t.trace() - 2.0 * middle

    h, variance = 1e-6, 0.0
    for which, k in ((0, n), (1, m)):
        influence = []
        for i in range(k):
            moved = [weights[0].clone(), weights[1].clone()]
            ends = []
            for sign in (h, -h):
                moved[which] = weights[which].clone()
                moved[which][i] += sign
                ends.append(distance(*moved))
            influence.append((ends[0] - ends[1]) / (2 * h))
        variance += float(torch.stack(influence).var()) / k
    # the influences are of covariances over n - 1, those of the expansion over n
    expected = math.sqrt(variance)
    assert frechet_distance(x, y).stderr == pytest.approx(expected, rel=2.0 / min(n, m))


def test_the_known_bias_between_equal_laws_is_removed_by_extrapolation():
    """Of a Gaussian in d dimensions: d / N of the mean and d (d + 1) / (4 N) of each covariance."""
    d, n = 20, 2000
    x, y = drawn(n, d, 0), drawn(n, d, 1)
    biased = frechet_distance(x, y).value
    expected = 2 * (d + d * (d + 1) / 4) / n
    assert biased == pytest.approx(expected, rel=0.1)
    assert abs(frechet_distance(x, y, extrapolate=True).value) < 0.2 * biased


def test_extrapolation_keeps_the_standard_error_and_needs_samples_enough():
    x, y = drawn(30, 5, 0), drawn(40, 5, 1, 2.0)
    found = frechet_distance(x, y, extrapolate=True)
    assert found.metric == "Frechet distance at infinity"
    assert found.stderr == frechet_distance(x, y).stderr
    with pytest.raises(ValueError, match="extrapolate=True: 5 samples in a half, with 5 features"):
        frechet_distance(x[:11], y, extrapolate=True)


def test_singular_covariances_are_those_of_the_limit():
    flat = torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64))
    x = with_moments(torch.zeros(3), spread(1.0, 1.0, 1.0), 20)
    y = with_moments(torch.zeros(2), flat[:2, :2], 20)
    y = torch.cat([y, torch.zeros(20, 1)], 1)
    assert frechet_distance(x, y).value == pytest.approx(0.0 + 1.0 + 1.0, rel=1e-12)


def test_the_number_names_the_network_of_its_features():
    x, y = Embedding(drawn(9, 2, 0), "net A"), Embedding(drawn(8, 2, 1), "net A")
    found = frechet_distance(x, y)
    assert (found.samples, found.reference, found.network) == (9, 8, "net A")
    assert str(found).endswith("(9 samples, 8 of reference, features: net A)")
    with pytest.raises(ValueError, match="'net A', the reference of 'net B'"):
        frechet_distance(x, Embedding(y.features, "net B"))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(5), torch.zeros(5, 1), r"shape \(5,\): give \(N, \*\)"),
        (torch.zeros(1, 2), torch.zeros(5, 2), "samples: 1 of them; at least 2"),
        (torch.zeros(5, 2), torch.zeros(0, 2), "reference: 0 of them"),
        (torch.zeros(5, 2), torch.full((5, 2), torch.nan), "reference: has values that are not"),
        (torch.zeros(5, 2), torch.zeros(5, 3), "2 values each, the reference 3"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
