"""Data sets, toys with their densities, and batches: laws and closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from scoresde import data
from scoresde.data import Dataset

quick = settings(max_examples=50, deadline=None)


# Dataset


def test_split_keeps_every_sample_once_and_the_proportions_of_the_classes():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    x = torch.arange(100)[:, None]
    everything = Dataset(x, x[:0], labels, labels[:0], levels=100)
    half = everything.split(0.3, seed=1)
    assert sorted([*half.train[:, 0].tolist(), *half.test[:, 0].tolist()]) == list(range(100))
    assert half.test_labels is not None
    assert half.test_labels.bincount().tolist() == [15, 9, 6]
    assert torch.equal(half.test_labels, labels[half.test[:, 0]])
    assert half.train_labels is not None
    assert torch.equal(half.train_labels, labels[half.train[:, 0]])
    assert torch.equal(everything.split(0.3, seed=1).test, half.test)
    assert not torch.equal(everything.split(0.3, seed=2).test, half.test)


@pytest.mark.parametrize("share", [0.1, 0.29, 0.5, 0.83])
def test_split_keeps_the_share_of_all_and_of_each_class_to_one_sample(share):
    counts = torch.tensor([300, *[4] * 25, 1])
    labels = torch.arange(27).repeat_interleave(counts)
    x = torch.zeros(len(labels), 1)
    parts = Dataset(x, x[:0], labels, labels[:0]).split(share)
    assert len(parts.test) == round(share * len(x))
    assert parts.test_labels is not None
    assert ((parts.test_labels.bincount(minlength=27) - share * counts).abs() < 1).all()


def test_dataset_describes_itself():
    x = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1], dtype=torch.uint8)
    dataset = Dataset(x, x[:1], labels, labels[:1], levels=np.int64(17), name="tiny")
    assert (
        repr(dataset) == "Dataset('tiny': 3 train, 1 test, shape (1, 8, 8), 17 levels, 3 classes)"
    )
    assert (dataset.shape, dataset.num_classes, dataset.classes) == ((1, 8, 8), 3, ("0", "1", "2"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.levels = 3  # pyright: ignore[reportAttributeAccessIssue]


X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])
K = torch.zeros(4, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dataset(torch.zeros(4), X), r"train has shape \(4,\)"),
        (lambda: Dataset(X[:0], X), r"train has shape \(0, 2\)"),
        (lambda: Dataset(X, torch.zeros(4, 3)), r"test is .*\(4, 3\).*\(4, 2\)"),
        (lambda: Dataset(X, X.double()), "test is torch.float64"),
        (lambda: Dataset(K, K), "train holds torch.uint8 .*levels=None"),
        (lambda: Dataset(X, X, levels=256), "train holds torch.float32 .*levels=256"),
        (lambda: Dataset(K, K + 20, levels=17), r"test is outside .* 20\.\.20, but levels=17"),
        (lambda: Dataset(K, K, levels=0), "levels=0"),
        (lambda: Dataset(X, X / 0), r"test holds 8 of 8 .*nan at index \(0, 0\)"),
        (lambda: Dataset(X, X, Y), "train_labels is given, but .* not both"),
        (lambda: Dataset(X, X, classes=("a",)), "classes is given"),
        (lambda: Dataset(X, X, Y, Y[:3]), "test_labels has 3 labels for 4"),
        (lambda: Dataset(X, X, Y.float(), Y), "train_labels is torch.float32"),
        (lambda: Dataset(X, X, Y, Y - 1), "test_labels has a negative label, -1"),
        (
            lambda: Dataset(X, X, Y, Y, classes=("a",)),
            "train_labels: row 2 has the label 1, .* 0..0",
        ),
        (
            lambda: Dataset(X, X, Y, Y, classes=("crane", "kite", "crane")),
            "classes holds 'crane' more than once: tell them apart",
        ),
        (lambda: Dataset(X, X).split(0.5), "has a test set already"),
        (lambda: Dataset(X, X[:0]).split(0.01), "test_share=0.01 leaves 0 of 4"),
        (lambda: Dataset(X, X[:0]).split(-0.5), r"test_share=-0\.5 must lie"),
    ],
)
def test_datasets_refuse_at_the_door(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Toys and digits


def cell_masses(log_prob, low, high, cells, inner):
    """The mass of each of cells x cells squares, by the midpoint rule on inner^2 points in each."""
    n = cells * inner
    axis = low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    density = log_prob(torch.cartesian_prod(axis, axis)).exp().view(cells, inner, cells, inner)
    return density.sum((1, 3)) * ((high - low) / n) ** 2


@pytest.mark.parametrize(
    ("toy", "log_prob", "reach"),
    [
        (data.checkerboard, data.checkerboard_log_prob, 2.0),
        (data.gaussians8, data.gaussians8_log_prob, 3.6),
        (data.rings, data.rings_log_prob, 2.0),
    ],
)
def test_toy_samples_follow_their_density(toy, log_prob, reach):
    mass = cell_masses(log_prob, -reach, reach, cells=16, inner=32)
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    x = toy(20_000, seed=3).train.double()
    counts = torch.histogramdd(x, bins=[16, 16], range=[-reach, reach] * 2).hist
    assert counts.sum() == len(x)
    # Cells too rare for the chi-squared approximation are pooled into one.
    rare = mass * len(x) < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([mass[~rare], mass[rare].sum()[None]]) * len(x)
    kept = expected > 0
    assert observed[~kept].sum() == 0
    expected = expected[kept] * (observed.sum() / expected.sum())
    assert stats.chisquare(observed[kept].numpy(), expected.numpy()).pvalue > 1e-6


def test_checkerboard_samples_lie_on_dark_squares_even_after_rounding(monkeypatch):
    x = data.checkerboard(100_000).train
    assert (data.checkerboard_log_prob(x) == -math.log(8)).all()
    # Every pair of draws at an edge of a square, or one float32 step below it.
    edges = torch.arange(0, 1, 0.25)
    edges = torch.cat([edges, edges + 0.25 - 2**-24])
    pairs = torch.cartesian_prod(edges, edges).T
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: pairs)
    x = data.checkerboard(pairs.shape[1] // 2)
    together = torch.cat([x.train, x.test])
    assert (data.checkerboard_log_prob(together) == -math.log(8)).all()


def test_moons_and_spirals_lie_within_noise_of_their_curves():
    moons = data.moons(5000)
    assert moons.train_labels is not None
    lower = moons.train_labels[:, None] == 1
    arc = torch.where(lower, torch.tensor([1.0, 0.5]) - moons.train, moons.train)
    assert ((arc.norm(dim=1) - 1).abs() < 0.05 * 6).all()
    assert (arc[:, 1] > -0.05 * 6).all()

    spirals = data.spirals(5000)
    assert spirals.train_labels is not None
    unturned = torch.where(spirals.train_labels[:, None] == 1, -spirals.train, spirals.train)
    turn = torch.linspace(0, 1, 2000)
    arm = (
        2
        * turn[:, None]
        * torch.stack([(3 * math.pi * turn).cos(), (3 * math.pi * turn).sin()], dim=1)
    )
    assert (torch.cdist(unturned, arm).amin(1) < 0.05 * 6).all()


@pytest.mark.parametrize(
    "toy", [data.moons, data.spirals, data.rings, data.gaussians8, data.checkerboard]
)
def test_toys_are_reproducible_with_independent_test_sets(toy):
    first, again, other = toy(100, seed=4), toy(100, seed=4), toy(100, seed=5)
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.train, other.train)
    assert not torch.equal(first.train, first.test)
    assert first.train.shape == first.test.shape == (100, 2)
    with pytest.raises(ValueError, match="n=0"):
        toy(0)


def test_toy_densities_refuse_other_dimensions():
    for log_prob in (
        data.checkerboard_log_prob,
        data.gaussians8_log_prob,
        data.rings_log_prob,
    ):
        with pytest.raises(ValueError, match=r"x has shape \(4, 3\)"):
            log_prob(torch.zeros(4, 3))


def test_digits_are_those_of_scikit_learn(monkeypatch):
    from sklearn.datasets import load_digits

    digits = data.digits()
    assert (digits.shape, digits.levels, digits.num_classes) == ((1, 8, 8), 17, 10)
    assert digits.train.dtype == torch.uint8
    assert len(digits.train) + len(digits.test) == 1797
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    together = torch.cat([digits.train, digits.test]).flatten(1).double().sum(0)
    torch.testing.assert_close(together, pixels.sum(0))
    assert digits.test_labels is not None
    share = digits.test_labels.bincount() / labels.bincount()
    assert ((share - 0.2).abs() < 1 / 170).all()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[data\]'"):
        data.digits()


# Batches


@quick
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**40),
    resume=st.integers(0, 30),
)
def test_batches_visit_every_sample_once_an_epoch_and_resume_anywhere(n, batch_size, seed, resume):
    x = torch.arange(n)[:, None]
    steps = max(3 * n // batch_size, resume) + 4
    stream = data.batches(x, batch_size, seed=seed, labels=torch.arange(n) + 100)
    seen = list(itertools.islice(stream, steps))
    for batch, label in seen:
        assert batch.shape == (batch_size, 1)
        assert label is not None
        assert torch.equal(batch[:, 0] + 100, label)
    order = torch.cat([batch[:, 0] for batch, _ in seen])
    for epoch in order.split(n):
        assert len(epoch.unique()) == len(epoch)
    resumed = data.batches(x, batch_size, seed=seed, start_step=resume)
    for (batch, _), (again, label) in zip(seen[resume:], resumed, strict=False):
        assert torch.equal(batch, again)
        assert label is None


@quick
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_epochs_and_seeds_shuffle_differently(seed, other):
    assume(seed != other)
    x = torch.arange(50)[:, None]
    first, second = itertools.islice(data.batches(x, 50, seed=seed), 2)
    elsewhere, _ = next(data.batches(x, 50, seed=other))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], elsewhere)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"start_step": -1}, "start_step=-1"),
        ({"labels": torch.zeros(3)}, "labels has 3 labels for 4"),
        ({"data": X[:0]}, r"data has shape \(0, 2\)"),
    ],
)
def test_batches_refuse_before_the_first_batch(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.batches(**{"data": X, "batch_size": 2, "seed": 0, **arguments})


def test_random_flip_mirrors_half_of_the_images():
    x = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3).repeat(1000, 1, 1, 1)
    flipped = (data.random_flip(x, torch.Generator().manual_seed(2)) == x.flip(-1)).all((1, 2, 3))
    kept = (data.random_flip(x, torch.Generator().manual_seed(2)) == x).all((1, 2, 3))
    assert torch.equal(flipped, ~kept)
    assert stats.binomtest(int(flipped.sum()), 1000).pvalue > 1e-6


# Crops


@quick
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32))
def test_random_crops_are_cuts_of_the_mirrored_data(dims, padding, seed):
    sides = (5, 6, 4)[:dims]
    size = tuple(side - 1 for side in sides)
    x = torch.arange(3 * 2 * math.prod(sides)).view(3, 2, *sides)
    crops = data.random_crop(x, size, torch.Generator().manual_seed(seed), padding=padding)
    assert crops.shape == (3, 2, *size)
    padded = x.numpy()
    if padding:
        padded = np.pad(padded, [(0, 0), (0, 0)] + [(padding, padding)] * dims, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, tuple(range(2, 2 + dims)))
    for crop, window in zip(crops.numpy(), windows, strict=True):
        places = np.moveaxis(window, 0, dims).reshape(-1, 2, *size)
        assert (places == crop).all(axis=tuple(range(1, 2 + dims))).any()


def test_random_crops_are_uniform_and_of_each_sample_alone():
    x = torch.arange(4).repeat(3000, 1, 1)  # (B, 1, 4)
    first = data.random_crop(x, (2,), torch.Generator().manual_seed(0), padding=1)[:, 0, 0]
    # cuts begin at -1, 0, 1, 2 and 3, where the mirror shows 1, 0, 1, 2 and 3
    counts = first.bincount(minlength=4)
    assert stats.chisquare(counts.numpy(), 600 * np.array([1, 2, 1, 1])).pvalue > 1e-6
    again = data.random_crop(x, (2,), torch.Generator().manual_seed(0), padding=1)[:, 0, 0]
    assert torch.equal(first, again)


def test_a_crop_of_the_whole_is_the_whole():
    x = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    assert torch.equal(data.random_crop(x, (3, 4), torch.Generator()), x)


@pytest.mark.parametrize(
    ("shape", "size", "padding", "message"),
    [
        ((2, 3), (), 0, r"size=\(\): give one for each of the axes \(\)"),
        ((2, 1, 4, 4), (4,), 0, r"size=\(4,\): give one for each of the axes \(4, 4\)"),
        ((2, 1, 4, 4), (4, 5), 0, r"size=\(4, 5\) must lie in 1\.\.4"),
        ((2, 1, 4, 4), (0, 4), 0, r"size=\(0, 4\) must lie in 1\.\.4"),
        ((2, 1, 4, 6), (4, 4), 4, "padding=4 must be at least 0 and less than 4"),
        ((2, 1, 4, 6), (4, 4), -1, "padding=-1"),
    ],
)
def test_crops_that_do_not_fit_are_refused(shape, size, padding, message):
    with pytest.raises(ValueError, match=message):
        data.random_crop(torch.zeros(shape), size, torch.Generator(), padding=padding)
