"""Figures of merit against known answers."""

import math

import pytest
import torch

from scoresde.metrics import ConfidentShare, mixture_bits


def clusters(n, generator):
    labels = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    return centres[labels] + torch.randn(n, 2, generator=generator), labels


def test_clusters_are_recognised_and_the_points_between_are_not():
    generator = torch.Generator().manual_seed(0)
    share = ConfidentShare(*clusters(600, generator))
    x, labels = clusters(300, generator)
    assert share(x) > 0.98
    assert share.accuracy(x, labels) > 0.99
    assert share.accuracy(x, (labels + 1) % 3) < 0.01
    assert share(torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(5, 1)) == 0.0


def test_one_component_has_the_entropy_of_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(4000, 3, generator=generator) * 2.0 for _ in range(2))
    (plain,) = mixture_bits(train, test, 0.0, components=(1,))
    exact = 0.5 * math.log2(2 * math.pi * math.e * 4.0)
    assert plain.bits_per_dim == pytest.approx(exact, abs=5 * plain.stderr)
    (shifted,) = mixture_bits(train, test, math.log(0.5), components=(1,))
    assert shifted.bits_per_dim - plain.bits_per_dim == pytest.approx(1.0, abs=1e-12)


def test_the_standard_error_of_a_mixture_is_that_of_a_mean_and_one_row_has_none():
    train = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    (one,), (two,) = (mixture_bits(train, row, 0.0, components=(1,)) for row in train[:2, None])
    (both,) = mixture_bits(train, train[:2], 0.0, components=(1,))
    assert math.isnan(one.stderr)
    assert both.stderr == pytest.approx(abs(one.bits_per_dim - two.bits_per_dim) / 2.0)
