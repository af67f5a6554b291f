"""Sliced Wasserstein, precision and recall, density and coverage, and the classifier's test."""

import math
import sys
from itertools import combinations

import pytest
import torch
from conftest import generator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from scoresde.metrics import c2st, density_coverage, precision_recall, sliced_wasserstein
from scoresde.metrics.sliced import transport


def drawn(n, d, seed, scale=1.0):
    return scale * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_transport_on_a_line_is_scipys_whatever_the_sizes(n, m, seed):
    x, y = drawn(n, 2, seed), drawn(m, 2, seed + 1, 2.0)
    found = transport(x, y, 1.0)
    for column in (0, 1):
        exact = stats.wasserstein_distance(x[:, column].numpy(), y[:, column].numpy())
        assert float(found[column]) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_sets_on_a_line_have_the_distance_of_their_shift_and_of_their_scale(p):
    x = drawn(11, 1, 0)
    found = sliced_wasserstein(x + 3.0, x, p=p)
    assert found.value == pytest.approx(3.0, rel=1e-12)
    assert found.stderr < 1e-12
    assert found.metric == f"sliced W{p:g}"
    scaled = sliced_wasserstein(3.0 * x, x, p=p).value
    assert scaled == pytest.approx(2.0 * float(x.abs().pow(p).mean()) ** (1 / p), rel=1e-12)
    # each sample many times is the same law
    repeated = sliced_wasserstein(x.repeat(3, 1) + 3.0, x.repeat(2, 1), p=p)
    assert repeated.value == pytest.approx(3.0, rel=1e-12)


def test_a_shift_in_the_plane_has_the_mean_of_its_share_along_directions():
    """E |u's|² is |s|² / d, of which the directions' mean is off by its standard error."""
    x, shift = drawn(9, 2, 0), torch.tensor([3.0, 4.0])
    found = sliced_wasserstein(x + shift, x, projections=4000)
    assert found.value == pytest.approx(5.0 / math.sqrt(2.0), abs=4 * found.stderr)
    # the variance of |s|² cos² is |s|⁴ / 8, and the root's slope 1 / (2 value)
    spread = 25.0 / math.sqrt(8.0) / math.sqrt(4000) / (2 * 5.0 / math.sqrt(2.0))
    assert found.stderr == pytest.approx(spread, rel=0.05)


def test_equal_sets_in_any_order_have_the_sliced_distance_zero():
    x = drawn(9, 3, 0)
    found = sliced_wasserstein(x, x.flip(0))
    assert (found.value, found.stderr) == (0.0, 0.0)
    again = [sliced_wasserstein(x, 2 * x, seed=seed).value for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def line(*points):
    return torch.tensor(points, dtype=torch.float64)[:, None]


def test_sets_far_apart_have_neither_precision_nor_recall_and_equal_ones_have_all():
    x = drawn(12, 2, 0)
    for metric in (precision_recall, density_coverage):
        assert [e.value for e in metric(x, x + 100.0)] == [0.0, 0.0]
        assert [e.stderr for e in metric(x, x + 100.0)] == [0.0, 0.0]
    assert [e.value for e in precision_recall(x, x)] == [1.0, 1.0]
    assert density_coverage(x, x)[1].value == 1.0


def test_samples_of_one_mode_are_precise_and_recall_that_mode_alone():
    reference = line(0.0, 1.0, 2.0, 3.0, 100.0, 101.0, 102.0, 103.0)
    samples = line(0.5, 1.5, 2.5, 1.0)
    precision, recall = precision_recall(samples, reference, k=2)
    assert (precision.value, precision.stderr) == (1.0, 0.0)
    # balls of the samples reach from -0.5 to 3.5
    assert (recall.value, recall.stderr) == (0.5, math.sqrt(0.25 / 8))
    density, coverage = density_coverage(samples, reference, k=2)
    assert coverage.value == 0.5
    # around 0, 1, 2 and 3, of radii 2, 1, 1 and 2, are 3, 3, 3 and 3 samples
    assert density.value == pytest.approx((3 + 3 + 3 + 3) / (2 * 4))
    assert (precision.metric, recall.metric) == ("precision", "recall")


def test_an_outlier_of_the_reference_adds_to_precision_more_than_to_density():
    reference = torch.cat([line(*(0.01 * i for i in range(20))), line(100.0)])
    samples = line(*(50.0 + i for i in range(5)))
    assert precision_recall(samples, reference, k=1)[0].value == 1.0
    assert density_coverage(samples, reference, k=1)[0].value == 1.0
    assert density_coverage(samples, reference, k=5)[0].value == 0.2


@pytest.mark.parametrize(("n", "m", "k"), [(3, 3, 1), (3, 4, 2), (4, 3, 1)])
def test_density_and_coverage_of_equal_laws_have_known_means(n, m, k):
    """By every split of distinct points, which are equally likely under equal laws."""
    points = drawn(n + m, 2, 0)
    found = []
    for chosen in combinations(range(n + m), n):
        first = torch.tensor([i in chosen for i in range(n + m)])
        found.append([e.value for e in density_coverage(points[first], points[~first], k=k)])
    density, coverage = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    assert density == pytest.approx(1.0)
    missed = math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    assert coverage == pytest.approx(1.0 - missed)


def test_parts_of_many_samples_are_all_counted():
    x, y = drawn(1003, 1, 0), drawn(1100, 1, 1)
    precision, recall = precision_recall(x, y)
    assert precision.value > 0.95
    assert recall.value > 0.95
    assert (precision.samples, precision.reference) == (1003, 1100)


def test_a_classifier_tells_far_sets_apart_and_not_one_set_from_itself():
    x, linear = drawn(60, 2, 0), LogisticRegression()
    far = c2st(x + 10.0, x, classifier=linear)
    assert (far.value, far.stderr) == (1.0, 0.0)
    # under chance the accuracy of 120 has the deviation 1 / sqrt(480)
    assert far.p_value == pytest.approx(stats.norm.sf(0.5 * math.sqrt(480)), rel=1e-6)
    near = c2st(x, drawn(60, 2, 1), classifier=linear)
    assert abs(near.value - 0.5) < 4 * near.stderr
    assert near.stderr == pytest.approx(math.sqrt(near.value * (1 - near.value) / 120))


def test_the_default_classifier_sees_what_a_linear_one_cannot():
    x = drawn(200, 2, 0)
    y = drawn(200, 2, 1, 4.0)
    assert c2st(x, y, classifier=LogisticRegression()).value < 0.6
    found = c2st(x, y, folds=2)
    assert found.value > 0.7
    assert found == c2st(x, y, folds=2)
    assert found.p_value < 1e-9


def test_c2st_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[data\]'"):
        c2st(drawn(6, 2, 0), drawn(6, 2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sliced_wasserstein(x, x, p=0.5), "p=0.5: at least 1"),
        (lambda x: sliced_wasserstein(x, x, p=math.inf), "p=inf: at least 1, and finite"),
        (lambda x: sliced_wasserstein(x, x, projections=1), "projections=1"),
        (lambda x: precision_recall(x, x, k=0), "k=0: need 1 to 5"),
        (lambda x: density_coverage(x, x, k=6), "k=6: need 1 to 5"),
        (lambda x: c2st(x, x[1:]), "6 samples, but 5 of reference"),
        (lambda x: c2st(x, x, folds=1), "folds=1: need 2 to 6"),
        (lambda x: c2st(x, x, folds=6), "6 samples: 10 to learn from are too few"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(drawn(6, 2, 0))
