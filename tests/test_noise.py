"""Noise: keyed draws that do not know their batch, normal to the last bit that can be tested.

Every statistical test is at level 5e-7 (|z| < 5.03) with a fixed seed.
"""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scoresde import BrownianNoise, InjectedNoise, RecordedNoise, SeededNoise
from scoresde.testing import count_operations

ALPHA = 5e-7
Z = 5.03
LIKE = torch.zeros(16, 3, 5)


def many(seed=0, n=1_000_000, dtype=torch.float64, *address):
    """Return n normals of one sample."""
    return SeededNoise(seed).normal(torch.zeros(1, n, dtype=dtype), *address)[0]


def correlation(a, b):
    """Return the correlation of two standardised streams, in its standard deviations."""
    a, b = ((v - v.mean()) / v.std() for v in (a.double(), b.double()))
    return float((a * b).mean()) * math.sqrt(len(a))


# Keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("address", [(), (0.5,), (0.5, 0.25), (3,)])
def test_a_sample_is_the_same_in_every_batch(dtype, address):
    like = LIKE.to(dtype)
    noise = SeededNoise(7)
    whole = noise.normal(like, *address)
    assert whole.dtype == dtype
    for n in (1, 3, 7, 16):
        assert torch.equal(noise.normal(like[:n], *address), whole[:n])
    order = torch.randperm(16, generator=generator(0))
    assert torch.equal(noise.rows(order).normal(like, *address), whole[order])
    assert torch.equal(SeededNoise(7, indices=order).normal(like, *address), whole[order])
    some = noise.rows(order).rows(torch.tensor([3, 0]))
    assert torch.equal(some.normal(like[:2], *address), whole[order[[3, 0]]])
    halves = [SeededNoise(7, start=start).normal(like[:8], *address) for start in (0, 8)]
    assert torch.equal(torch.cat(halves), whole)
    tail = SeededNoise(7, start=8).rows(torch.tensor([1, 5]))
    assert torch.equal(tail.normal(like[:2], *address), whole[[9, 13]])


def test_indices_of_any_integer_dtype_name_the_same_samples():
    expected = SeededNoise(1).normal(LIKE[:4])
    for dtype in (torch.int32, torch.uint8, torch.int64):
        indices = torch.arange(4, dtype=dtype)
        assert torch.equal(SeededNoise(1, indices=indices).normal(LIKE[:4]), expected)
        assert torch.equal(SeededNoise(1).rows(indices).normal(LIKE[:4]), expected)


def test_addresses_of_each_sample_equal_shared_ones():
    noise = SeededNoise(3)
    each = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64).reshape(3, 1, 1)
    own = noise.normal(LIKE[:3], each, 1.0)
    for i, part in enumerate((0.25, 0.5, 0.75)):
        assert torch.equal(own[i], noise.normal(LIKE[:3], part, 1.0)[i])


def test_an_address_is_a_number_however_it_is_written():
    noise = SeededNoise(3)
    for same in ((1, 1.0), (0.0, -0.0), (0.0, torch.full((16, 1, 1), -0.0))):
        first, second = (noise.normal(LIKE, part) for part in same)
        assert torch.equal(first, second)


@given(st.integers(-(2**70), 2**70), st.integers(-(2**63), 2**63), st.floats(-1e6, 1e6))
def test_every_seed_fold_and_address_gives_its_own_draws(seed, key, part):
    noise, like = SeededNoise(seed), LIKE.double()
    draws = [
        noise.normal(like),
        SeededNoise(seed + 1).normal(like),
        noise.fold(key).normal(like),
        noise.fold(key + 1).normal(like),
        noise.fold(key).fold(key).normal(like),
        noise.normal(like, part),
        noise.normal(like, math.nextafter(part, math.inf)),
        noise.normal(like, part, part),
        noise.fold(key).normal(like, part),
    ]
    assert torch.equal(draws[0], SeededNoise(seed).normal(like))
    values = torch.stack(draws).flatten()
    assert len(values.unique()) == values.numel()


def test_an_unnamed_seed_is_kept_and_differs():
    first, second = SeededNoise(), SeededNoise()
    assert first.seed != second.seed
    assert torch.equal(first.normal(LIKE), SeededNoise(first.seed).normal(LIKE))


def test_seeds_and_indices_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="integer"):
        SeededNoise(1.5).normal(LIKE)
    with pytest.raises(ValueError, match="indices: 3 given for a batch of 16"):
        SeededNoise(0, indices=torch.arange(3)).normal(LIKE)


def test_no_source_touches_the_global_generator():
    state = torch.random.get_rng_state()
    for noise in (SeededNoise(0), SeededNoise(), BrownianNoise(0, 0.0, 1.0)):
        noise.normal(LIKE, 0.5)
        noise.fold(1).rows(torch.arange(2)).increment(LIKE[:2], 0.25, 0.5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_precision_does_not_change_a_draw():
    single, double = many(5, dtype=torch.float32), many(5)
    error = (single - double).abs()
    assert error.max() < 1e-3
    assert error.mean() < 2e-7
    assert torch.equal(many(5, dtype=torch.bfloat16), single.bfloat16())


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 7), (2, 3, 5), (2, 0), (0, 4)])
def test_any_shape_is_served(shape):
    like = torch.zeros(shape)
    draw = SeededNoise(0).normal(like)
    assert draw.shape == like.shape
    assert len(draw.unique()) == draw.numel()


def splitmix(key, gamma, n):
    """Return n numbers of SplitMix64, in Python's integers."""
    mask, found = (1 << 64) - 1, []
    for k in range(1, n + 1):
        z = (key + k * gamma) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def test_every_sample_has_a_generator_of_its_own():
    golden = 0x9E3779B97F4A7C15
    seed = int.from_bytes(hashlib.blake2b(b"7", digest_size=8).digest(), "little")
    part = int.from_bytes(struct.pack("<d", 0.25), "little")
    (address,) = splitmix(seed + part, 0, 1)
    found = SeededNoise(7, start=4).normal(torch.zeros(2, 10, dtype=torch.float64), 0.25)
    for row, index in zip(found, (4, 5), strict=True):
        (key,) = splitmix(address + index * golden, 0, 1)
        for k, z in enumerate(splitmix(0, key | 1, 5)):
            u, angle = ((z >> 32) + 0.5) / 2**32, 2.0 * math.pi * (z & (2**32 - 1)) / 2**32
            radius = math.sqrt(-2.0 * math.log(u))
            assert row[k].item() == pytest.approx(radius * math.cos(angle), abs=1e-12)
            assert row[5 + k].item() == pytest.approx(radius * math.sin(angle), abs=1e-12)


def test_a_draw_takes_as_many_operations_whatever_its_address():
    for address in ((), (0.5,), (0.5, 0.25)):
        counter = count_operations(lambda: SeededNoise(0).normal(LIKE, *address))  # noqa: B023
        assert len(counter.operations) <= 42  # an odd size takes a copy to cut the last normal off
        assert counter.reads == []


# Law


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_moments_are_normal(seed, dtype):
    x = many(seed, dtype=dtype).double()
    n = len(x)
    deviations = {
        "mean": x.mean() * math.sqrt(n),
        "variance": ((x * x).mean() - 1) * math.sqrt(n / 2),
        "skewness": (x**3).mean() * math.sqrt(n / 15),
        "kurtosis": ((x**4).mean() - 3) * math.sqrt(n / 96),
    }
    for name, z in deviations.items():
        assert abs(float(z)) < Z, name
    assert 4.4 < x.abs().max() < 6.8


@pytest.mark.parametrize(
    "stream",
    [
        lambda: many(11),
        lambda: many(12, 1_000_000, torch.float64, 0.3, 7.0),
        lambda: SeededNoise(13).normal(torch.zeros(1_000_000, 1, dtype=torch.float64))[:, 0],
        lambda: SeededNoise(14).normal(torch.zeros(333_333, 3, dtype=torch.float64)).flatten(),
        lambda: torch.cat(
            [SeededNoise(s).normal(torch.zeros(1, 2, dtype=torch.float64))[0] for s in range(1500)]
        ),
        lambda: torch.cat(
            [SeededNoise(0).fold(k).normal(torch.zeros(1, 1))[0] for k in range(1500)]
        ),
        lambda: torch.cat(
            [SeededNoise(0).normal(torch.zeros(1, 1), k / 1500)[0] for k in range(1500)]
        ),
    ],
    ids=["counters", "address", "samples", "both", "seeds", "folds", "addresses"],
)
def test_draws_are_normal_along_every_axis(stream):
    x = stream().double().numpy()
    assert stats.kstest(x, stats.norm.cdf).pvalue > ALPHA
    bins = 256
    counts = torch.from_numpy(stats.norm.cdf(x)).mul(bins).long().bincount(minlength=bins)
    assert stats.chisquare(counts.numpy()).pvalue > ALPHA
    assert stats.chisquare(counts.numpy()).pvalue < 1 - ALPHA  # nor too even


def uniforms(seed, n=1_000_000):
    """Return the two 32-bit integers that the pairs of normals come from."""
    cos, sin = many(seed, n).split(n // 2)
    radius = torch.exp(-0.5 * (cos**2 + sin**2)) * 2.0**32 - 0.5
    angle = torch.atan2(sin, cos) / (2 * math.pi) * 2.0**32
    assert (radius - radius.round()).abs().max() < 1e-3  # so nothing is lost on the way back
    return radius.round().long(), angle.round().long() % 2**32


def test_every_bit_is_fair_and_independent_of_its_neighbours():
    bits = torch.stack([(u >> k) & 1 for u in uniforms(21) for k in range(32)]).double()
    n = bits.shape[1]
    balance = (bits.mean(1) - 0.5) * 2 * math.sqrt(n)
    assert balance.abs().max() < Z
    signs = 2 * bits - 1
    pairs = signs @ signs.T / math.sqrt(n)  # of every two bits of one draw
    pairs.fill_diagonal_(0.0)
    assert pairs.abs().max() < 5.5
    for lag in (1, 2, 64):
        serial = (signs[:, lag:] * signs[:, :-lag]).sum(1) / math.sqrt(n - lag)
        assert serial.abs().max() < Z


def test_pairs_of_integers_fill_the_square():
    radius, angle = uniforms(22)
    cells = (radius >> 26) * 64 + (angle >> 26)
    assert stats.chisquare(cells.bincount(minlength=4096).numpy()).pvalue > ALPHA
    successive = (radius[1:] >> 26) * 64 + (radius[:-1] >> 26)
    assert stats.chisquare(successive.bincount(minlength=4096).numpy()).pvalue > ALPHA


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: many(1)[:500_000], lambda: many(1)[500_000:]),  # cosine and sine of one pair
        (lambda: many(1)[1:], lambda: many(1)[:-1]),
        (lambda: many(1), lambda: many(2)),
        (lambda: many(1), lambda: many(-1)),
        (lambda: many(1), lambda: many(1, 1_000_000, torch.float64, 0.0)),
        (
            lambda: many(1, 1_000_000, torch.float64, 0.5),
            lambda: many(1, 1_000_000, torch.float64, math.nextafter(0.5, 1.0)),
        ),
        (
            lambda: many(1, 1_000_000, torch.float64, 0.25, 0.5),
            lambda: many(1, 1_000_000, torch.float64, 0.5, 0.25),
        ),
        (
            lambda: SeededNoise(1).normal(torch.zeros(500_000, 2))[1:].flatten(),
            lambda: SeededNoise(1).normal(torch.zeros(500_000, 2))[:-1].flatten(),
        ),
        (
            lambda: SeededNoise(1).fold(0).normal(torch.zeros(1000, 1000)).flatten(),
            lambda: SeededNoise(1).fold(1).normal(torch.zeros(1000, 1000)).flatten(),
        ),
    ],
    ids=["halves", "counters", "seeds", "signs", "none", "ulp", "order", "samples", "folds"],
)
def test_neighbouring_draws_are_uncorrelated(first, second):
    a, b = first(), second()
    assert abs(correlation(a, b)) < Z
    assert abs(correlation(a * a, b * b)) < Z
    assert abs(correlation(a.abs(), b)) < Z


# Brownian motion


def increment(noise, like, a, b):
    """Return W(b) - W(a)."""
    return noise.increment(like, a, b) * math.sqrt(abs(b - a))


class OneHot(SeededNoise):
    """A unit vector for every address: what a Brownian motion makes of each of its draws."""

    def __init__(self):
        super().__init__(0)
        self.seen = {}

    def normal(self, like, *address):
        index = self.seen.setdefault(address, len(self.seen))
        return torch.zeros_like(like).index_fill(1, torch.tensor([index]), 1.0)


@pytest.mark.parametrize(
    "span", [(0.0, 1.0), (4e-6, 6400.0), (1e-4, 2.3e4), (-7.0, 7.0)], ids=["t", "edm", "vp", "log"]
)
def test_the_law_of_the_increments_is_exact(span):
    """Cov(W(b) - W(a), W(d) - W(c)) is the length that [a, b] and [c, d] share."""
    noise = BrownianNoise(0, *span)
    noise._keys = OneHot()
    like = torch.zeros(1, 4000, dtype=torch.float64)
    low, high = span
    if low > 0:
        cuts = [low * (high / low) ** u for u in (0.0, 1e-4, 0.1, 0.3, 0.31, 0.75, 1.0)]
        cuts[-1] = high
    else:
        cuts = [low + u * (high - low) for u in (0.0, 1e-4, 0.1, 0.5, 0.500001, 0.77, 1.0)]
    ends = [(a, b) for i, a in enumerate(cuts) for b in cuts[i + 1 :]]
    steps = [noise.increment(like, a, b)[0] for a, b in ends]
    for (a, b), one in zip(ends, steps, strict=True):
        for (c, d), other in zip(ends, steps, strict=True):
            shared = max(min(b, d) - max(a, c), 0.0)
            expected = shared / math.sqrt((b - a) * (d - c))
            unresolved = noise.resolution * (high - low) / min(b - a, d - c)
            assert float(one @ other) == pytest.approx(expected, abs=1e-9 + unresolved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finer_steps_refine_the_same_path(dtype):
    noise, like = BrownianNoise(3, 4e-6, 6400.0), LIKE.to(dtype)
    for a, b in [(4e-6, 5e-6), (1e-3, 2e-3), (1.0, 1.001), (0.1, 6400.0), (4e-6, 6400.0)]:
        cuts = [a, a + 0.3 * (b - a), a + 0.31 * (b - a), a + 0.9 * (b - a), b]
        parts = sum(increment(noise, like, *cut) for cut in pairwise(cuts))
        whole = increment(noise, like, a, b)
        assert whole.dtype == dtype
        tolerance = 64 * torch.finfo(dtype).eps + 1e-9
        assert (parts - whole).abs().max() <= tolerance * math.sqrt(b - a)


def test_a_path_does_not_depend_on_what_was_asked_before():
    spans = [(0.0, 0.5), (0.25, 0.7), (0.1, 0.2), (0.5, 1.0)]
    forward, backward = BrownianNoise(0, 0.0, 1.0), BrownianNoise(0, 0.0, 1.0)
    first = [forward.increment(LIKE, *span) for span in spans]
    second = [backward.increment(LIKE, *span) for span in spans[::-1]][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(forward.increment(LIKE, 0.5, 0.0), -first[0])


def test_a_path_belongs_to_its_sample():
    noise = BrownianNoise(5, 0.0, 1.0)
    whole = noise.increment(LIKE, 0.1, 0.4)
    order = torch.randperm(16, generator=generator(1))
    assert torch.equal(noise.rows(order).increment(LIKE, 0.1, 0.4), whole[order])
    assert torch.equal(noise.increment(LIKE[:5], 0.1, 0.4), whole[:5])
    assert torch.equal(noise.rows(order).normal(LIKE, 0.1), noise.normal(LIKE, 0.1)[order])
    each = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    own = noise.increment(LIKE[:2], each, each + 0.3)
    for i, (a, b) in enumerate(zip(each.flatten(), each.flatten() + 0.3, strict=True)):
        assert torch.equal(own[i], noise.increment(LIKE[:2], a.item(), b.item())[i])


def test_paths_of_other_samples_seeds_and_folds_are_others():
    like = torch.zeros(2, 20_000)
    noise = BrownianNoise(5, 0.0, 1.0)
    streams = [
        *noise.increment(like, 0.1, 0.4),
        *BrownianNoise(6, 0.0, 1.0).increment(like, 0.1, 0.4),
        *noise.fold(1).increment(like, 0.1, 0.4),
        *noise.increment(like, 0.4, 0.7),
        *noise.normal(like, 0.1),
    ]
    for i, stream in enumerate(streams):
        assert stats.kstest(stream.numpy(), stats.norm.cdf).pvalue > ALPHA
        for other in streams[:i]:
            assert abs(correlation(stream, other)) < Z


def test_a_step_of_no_length_has_no_noise():
    noise = BrownianNoise(0, 0.0, 1.0)
    assert not noise.increment(LIKE, 0.5, 0.5).any()
    each = torch.full((16, 1, 1), 0.3, dtype=torch.float64)
    assert not noise.increment(LIKE, each, each).any()


def test_increments_outside_the_span_are_refused():
    noise = BrownianNoise(0, 0.5, 2.0)
    outside = torch.tensor([[1.0], [2.1]], dtype=torch.float64)
    for a, b in [(0.4, 1.0), (1.0, 2.1), (math.nan, 1.0), (1.0, outside), (outside, 1.0)]:
        with pytest.raises(ValueError, match=r"outside the clock's span \[0.5, 2.0\]"):
            noise.increment(LIKE[:2], a, b)
    # a level's own clock may round past the end
    noise.increment(LIKE, math.nextafter(0.5, 0.0), math.nextafter(2.0, 3.0))


@pytest.mark.parametrize(
    ("start", "stop"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)]
)
def test_a_clock_has_a_finite_span(start, stop):
    with pytest.raises(ValueError, match=r"start=.*, stop=.*finite start < stop"):
        BrownianNoise(0, start, stop)


def test_a_resolution_is_a_share():
    with pytest.raises(ValueError, match=r"resolution=0.0"):
        BrownianNoise(0, 0.0, 1.0, resolution=0.0)


# Records


def test_a_record_replays():
    recorded = RecordedNoise(SeededNoise(0))
    first = [
        recorded.normal(LIKE, 0.5),
        recorded.increment(LIKE, 0.2, 0.3),
        recorded.fold(2).normal(LIKE, 0.5),
        recorded.rows(torch.tensor([1, 2])).normal(LIKE[:2], 0.5),
    ]
    assert torch.equal(first[1], SeededNoise(0).increment(LIKE, 0.2, 0.3))
    assert torch.equal(first[2], SeededNoise(0).fold(2).normal(LIKE, 0.5))
    assert torch.equal(first[3], first[0][[1, 2]])
    replay = InjectedNoise(recorded.draws)
    again = [
        replay.normal(LIKE, 9.0),
        replay.increment(LIKE, 0.0, 1.0),
        replay.fold(7).normal(LIKE.double()),
        replay.normal(LIKE[:2]),
    ]
    assert again[2].dtype == torch.float64
    assert all(torch.equal(a, b.to(a)) for a, b in zip(again, first, strict=True))


def test_injected_noise_refuses_what_it_does_not_have():
    noise = InjectedNoise([LIKE, LIKE])
    with pytest.raises(ValueError, match=r"draws: one of shape \(16, 3, 5\) where \(2, 3, 5\)"):
        noise.normal(LIKE[:2])
    noise.normal(LIKE)
    with pytest.raises(ValueError, match="more draws than were given"):
        noise.normal(LIKE)
    with pytest.raises(ValueError, match="whole batches"):
        noise.rows(torch.arange(2))
