"""KID, MMD and the energy distance: unbiased, by enumeration, and their null laws."""

import math
from itertools import combinations, product

import pytest
import torch
from conftest import generator
from scipy import stats

from scoresde.metrics import energy_distance, kid, mmd
from scoresde.metrics.gram import distances, p_value, statistics, two_sample

P_ATOMS = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
Q_ATOMS = torch.tensor([[0.5, 0.5], [-1.0, 0.0]], dtype=torch.float64)


def every_sample(atoms, n):
    """Yield every sample (n, d) of the uniform law on atoms; all are equally likely."""
    for rows in product(range(len(atoms)), repeat=n):
        yield atoms[list(rows)]


def population(kernel, p=P_ATOMS, q=Q_ATOMS):
    return float(kernel(p, p).mean() + kernel(q, q).mean() - 2.0 * kernel(p, q).mean())


def cubic(x, y):
    return (x @ y.mT / x.shape[1] + 1.0) ** 3


def gaussian(x, y):
    return (-torch.cdist(x, y).square() / 2.0).exp()


def energy(x, y):
    return -torch.cdist(x, y)


def drawn(n, d, seed, scale=1.0):
    return scale * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("metric", "kernel", "n"),
    [
        (lambda x, y: kid(x, y, blocks=2), cubic, 4),
        (lambda x, y: mmd(x, y, bandwidth=1.0, permutations=1), gaussian, 3),
        (lambda x, y: energy_distance(x, y, permutations=1), energy, 3),
    ],
    ids=["kid", "mmd", "energy"],
)
def test_the_mean_over_every_sample_is_the_discrepancy_of_the_laws(metric, kernel, n):
    for q in (Q_ATOMS, P_ATOMS):  # of equal laws it is 0
        samples = product(every_sample(P_ATOMS, n), every_sample(q, n))
        found = [metric(x, y).value for x, y in samples]
        assert math.fsum(found) / len(found) == pytest.approx(population(kernel, q=q), abs=1e-12)


@pytest.mark.parametrize("metric", [kid, mmd, energy_distance])
def test_laws_that_differ_are_told_apart(metric):
    found = metric(drawn(60, 3, 0), drawn(80, 3, 1) + 3.0)
    assert found.value > 4 * found.stderr > 0
    if metric is not kid:
        assert found.p_value == pytest.approx(1 / 1001)


def test_energy_of_two_atoms_is_twice_their_distance():
    x, y = torch.zeros(4, 2), torch.tensor([[3.0, 4.0]]).repeat(5, 1)
    found = energy_distance(x, y)
    assert (found.value, found.stderr) == (10.0, 0.0)
    assert found.metric == "energy distance"


def test_energy_on_a_line_is_twice_the_area_between_distributions():
    """2 ∫ (F - G)² of the empirical laws, which SciPy has, when pairs of one sample are let in."""
    x, y = drawn(7, 1, 0), drawn(9, 1, 1, 2.0)
    found = energy_distance(x, y).value
    for rows in (x, y):
        n = len(rows)
        found += float(torch.cdist(rows, rows).sum()) * (1 / (n * (n - 1)) - 1 / n**2)
    exact = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert found == pytest.approx(exact, rel=1e-12)


def test_the_discrepancy_of_far_atoms_is_two_and_its_kernel_has_the_median_for_a_scale():
    x, y = torch.zeros(4, 1), torch.full((4, 1), 100.0)
    assert mmd(x, y, bandwidth=1.0).value == pytest.approx(2.0)
    # of 28 pairs, 16 are apart: the median is their distance
    assert mmd(x, y).value == pytest.approx(2.0 - 2.0 * math.exp(-0.5))


def splits_of(total, n):
    rows = [[float(i in chosen) for i in range(total)] for chosen in combinations(range(total), n)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 3), (3, 4)])
def test_every_split_has_the_statistic_of_its_two_parts(n, m):
    x = drawn(n + m, 2, 0)
    gram = gaussian(x, x)
    splits = splits_of(n + m, n)
    found = statistics(gram - gram.diagonal().diag(), splits)
    for split, value in zip(splits.bool(), found, strict=True):
        a, b, between = gram[split][:, split], gram[~split][:, ~split], gram[split][:, ~split]
        parts = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (a, b)]
        assert float(value) == pytest.approx(float(sum(parts) - 2.0 * between.mean()), abs=1e-12)


def test_p_values_of_every_split_are_uniform():
    """Under equal laws all splits of the pooled samples are equally likely at hand."""
    x = drawn(7, 2, 0)
    apart = -distances(x[:3], x[3:])
    found = statistics(apart, splits_of(7, 3))
    count = len(found)
    values = sorted(p_value(found.roll(-i)) for i in range(count))
    assert values == pytest.approx([(k + 1) / count for k in range(count)])


def test_ties_of_splits_make_p_values_no_smaller():
    """Of two sets of one size, a split and its mirror image have one statistic."""
    x = drawn(6, 2, 0)
    found = statistics(-distances(x[:3], x[3:]), splits_of(6, 3))
    values = sorted(p_value(found.roll(-i)) for i in range(20))
    assert values == pytest.approx([0.1 * (k // 2 + 1) for k in range(20)])


def test_random_splits_follow_from_the_seed_and_leave_the_global_generator():
    x, y = drawn(20, 2, 0), drawn(25, 2, 1)
    before = torch.get_rng_state()
    first, again, other = (mmd(x, y, permutations=200, seed=s).p_value for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    assert first * 201 == pytest.approx(round(first * 201))


@pytest.mark.parametrize("n", [3, 6])
def test_the_standard_error_is_the_jackknifes(n):
    m = 5
    x = drawn(n + m, 2, 0)
    gram = gaussian(x, x)
    variance = 0.0
    for first in (True, False):
        left = []
        for i in range(n) if first else range(n, n + m):
            keep = torch.arange(n + m) != i
            left.append(two_sample(gram[keep][:, keep], n - first, 1, 0).value)
        left = torch.tensor(left, dtype=torch.float64)
        variance += (len(left) - 1) * float(left.var(correction=0))
    assert two_sample(gram, n, 1, 0).stderr == pytest.approx(math.sqrt(variance), rel=1e-10)


def test_blocks_of_kid_share_no_samples_and_give_its_standard_error():
    """With features of 0 but for one sample in each set, one block alone differs from 0."""
    x, y = torch.zeros(40, 1), torch.zeros(40, 1)
    x[7] = 1.0
    found = kid(x, y, blocks=10)
    # the block of 4 with it: pairs with zeros have k = 1, as all others
    assert (found.value, found.stderr) == (0.0, 0.0)
    y[:] = 1.0
    values = torch.full((10,), 1.0 + 8.0 - 2.0, dtype=torch.float64)
    values[0] = (6 + 6) / 12 + 8.0 - 2.0 * (3 + 8) / 4
    found = kid(x, y, blocks=10)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.stderr == pytest.approx(float(values.std()) / math.sqrt(10))


def test_kid_does_not_depend_on_how_files_are_sorted():
    x = drawn(60, 2, 0) + 5.0 * (torch.arange(60) >= 30)[:, None]
    found = kid(x, x.flip(0))
    assert abs(found.value) < 4 * found.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kid(x, x, blocks=1), "blocks=1: need at least two"),
        (lambda x: kid(x, x), "blocks=10: need at least two, .* there are 6: give more samples"),
        (lambda x: energy_distance(x[:2], x), "samples: 2 of them; at least 3"),
        (lambda x: energy_distance(x, x, permutations=0), "permutations=0"),
        (lambda x: mmd(x, x, bandwidth=-1.0), "bandwidth=-1.0: must be positive"),
        (lambda x: mmd(0 * x, 0 * x), "bandwidth=0.0: must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(drawn(6, 2, 0))
