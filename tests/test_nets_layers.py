"""The parts of networks against their formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets_helpers import rouse
from scipy import signal
from torch.nn.functional import silu

from scoresde.nets.blocks import ResidualBlock, Resize
from scoresde.nets.conditioning import Sinusoids, fourier_frequencies, positional_frequencies
from scoresde.nets.layers import Attention, GroupNorm, Resample


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("sides", [(5,), (2, 3), (2, 1, 3)])
def test_attention_is_its_formula(heads, sides):
    layer = rouse(Attention(len(sides), 8, heads, rescale=True))
    x = torch.randn(2, 8, *sides, dtype=torch.float64)
    y = layer(x)
    q, k, v = layer.qkv(layer.norm(x)).reshape(2, 3, heads, 8 // heads, -1).unbind(1)
    result = torch.zeros(2, heads, 8 // heads, math.prod(sides), dtype=torch.float64)
    for i in range(math.prod(sides)):
        score = torch.einsum("bhd,bhdj->bhj", q[..., i], k).div(math.sqrt(8 / heads)).exp()
        result[..., i] = torch.einsum("bhj,bhdj->bhd", score / score.sum(-1, keepdim=True), v)
    expected = (x + layer.out(result.reshape(x.shape))) / math.sqrt(2)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 5, 10, 10, 5, 1)])
def test_resampling_is_upfirdn(taps):
    x = torch.randn(1, 2, 8, 12, dtype=torch.float64)
    h, k = np.array(taps) / sum(taps), len(taps)

    def along(axis, image, taps, up, down, start, size):
        full = signal.upfirdn(taps, image, up, down=1, axis=axis)
        return np.take(full, range(start, start + down * size, down), axis)

    y, z, b = x.numpy(), x.numpy(), x.numpy()
    for axis in (2, 3):
        n = x.shape[axis]
        y = along(axis, y, h, 1, 2, k // 2, n // 2)
        z = along(axis, z, 2 * h, 2, 1, k // 2 - 1, 2 * n)
        b = along(axis, b, h, 1, 1, k // 2 - 1, n + 1)
    for options, expected in (({}, y), ({"up": True}, z), ({"stride": 1}, b)):
        got = Resample(2, taps, **options).double()(x)
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("up", [False, True])
def test_resampling_keeps_a_constant(dims, up):
    y = Resample(dims, (1, 3, 3, 1), up=up)(torch.full((1, 1, *(8,) * dims), 3.0))
    inside = y[(..., *(slice(1, -1),) * dims)]
    torch.testing.assert_close(inside, torch.full_like(inside, 3.0))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_upsampling_is_the_transpose_of_downsampling(dims):
    taps = (1, 2, 5, 3)
    x, y = torch.randn(2, 3, *(8,) * dims), torch.randn(2, 3, *(4,) * dims)
    down, up = Resample(dims, taps), Resample(dims, taps, up=True)
    torch.testing.assert_close(2**dims * (down(x) * y).sum(), (x * up(y)).sum(), rtol=1e-4, atol=0)


def test_two_taps_are_the_mean_and_the_nearest_neighbour():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    mean = x.reshape(1, 1, 2, 2, 2, 2).mean((3, 5))
    torch.testing.assert_close(Resample(2, (1, 1))(x), mean)
    nearest = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(Resample(2, (1, 1), up=True)(x), nearest)


def test_embeddings_of_time():
    t = torch.tensor([0.0, 0.3, -1.7], dtype=torch.float64)
    features = Sinusoids(positional_frequencies(3, scale=10.0, max_period=100.0))(t)
    phase = t[:, None] * torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    expected = torch.cat([phase.sin(), phase.cos()], 1)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    # E[cos(w t)] is the characteristic function of N(0, (2 pi scale)^2)
    mean = Sinusoids(fourier_frequencies(200_000, scale=0.4))(t)[:, 200_000:].mean(1)
    gauss = torch.exp(-0.5 * (2 * math.pi * 0.4 * t) ** 2)
    torch.testing.assert_close(mean, gauss, rtol=0, atol=0.01)


@given(st.integers(1, 1000))
def test_groups_of_channels(channels):
    groups = GroupNorm(channels).num_groups
    assert channels % groups == 0
    assert groups == 1 or (groups <= 32 and channels // groups >= 4)
    assert channels % 128 or groups == 32


@pytest.mark.parametrize("sides", [(5,), (4, 2), (2, 4, 2)])
def test_modulated_norm_is_its_formula_in_any_memory_format(sides):
    norm = rouse(GroupNorm(12))
    x = torch.randn(3, *sides, 12, dtype=torch.float64).movedim(-1, 1)
    scale, shift = torch.randn(2, 3, 12, dtype=torch.float64)
    groups = x.unflatten(1, (3, 4))
    variance, mean = torch.var_mean(groups.flatten(2), 2, correction=0)
    mean, variance = (m.reshape(3, 3, *(1,) * (x.ndim - 1)) for m in (mean, variance))
    z = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
    weight, bias, scale_, shift_ = (
        v.reshape(-1, 12, *(1,) * len(sides)) for v in (norm.weight, norm.bias, scale, shift)
    )
    z = z * weight + bias
    for image in (x, x.contiguous()):
        torch.testing.assert_close(norm(image), z)
        modulated = norm(image, scale, shift)
        torch.testing.assert_close(modulated, z * (1 + scale_) + shift_)
        assert modulated.stride() == image.stride()


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("up", [False, True])
def test_half_precision_filters_round_once(taps, up):
    x = torch.randn(1, 2, 8, 8).bfloat16()
    layer = Resample(2, taps, up=up)
    expected = layer(x.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_residual_block_is_its_formula(scale_shift):
    block = rouse(ResidualBlock(1, 4, 6, dropout=0.0, scale_shift=scale_shift, rescale=False))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    m = torch.randn(2, block.modulation, dtype=torch.float64)[..., None]
    h = block.conv_in(silu(block.norm_in(x)))
    h = block.norm_out(h) * (1 + m[:, :6]) + m[:, 6:] if scale_shift else block.norm_out(h + m)
    expected = block.skip(x) + block.conv_out(silu(h))
    torch.testing.assert_close(block(x, m[..., 0]), expected)


def test_ddpm_halves_by_a_convolution_that_looks_ahead():
    """Output i of a stride of 2 sees points 2 i, 2 i + 1 and 2 i + 2, and 0 beyond the last."""
    layer = rouse(Resize(1, 2, 3, (1, 1)))
    x = torch.randn(1, 2, 6, dtype=torch.float64)
    beyond = torch.cat([x, torch.zeros(1, 2, 1)], dim=2)
    windows = torch.stack([beyond[..., i : i + 3] for i in (0, 2, 4)], dim=2)  # (1, 2, 3, taps)
    expected = torch.einsum("bcik,ock->boi", windows, layer.conv.weight) + layer.conv.bias[:, None]
    torch.testing.assert_close(layer(x), expected)


def test_ddpm_doubles_by_the_nearest_neighbour_and_a_convolution():
    layer = rouse(Resize(1, 2, 3, (1, 1), up=True))
    x = torch.randn(1, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.conv(x.repeat_interleave(2, dim=2)))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("taps", [(3, 3), (1, 3, 3, 1), (1, 5, 10, 10, 5, 1)])
def test_nothing_is_cut_between_a_filter_and_its_convolution(up, taps):
    """They are one filter, of the signal with zeros beyond its border, as in StyleGAN2's code."""
    layer, x = rouse(Resize(1, 2, 3, taps, up=up)), torch.randn(2, 6, dtype=torch.float64)
    gain, h = 2 if up else 1, np.array(taps) / sum(taps)
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    y = np.array(
        [
            sum(
                signal.upfirdn(np.convolve(gain * h, w[::-1]), line, up=gain)
                for w, line in zip(row, x.numpy(), strict=True)
            )
            for row in weight
        ]
    )
    start = len(taps) // 2
    inside = y[:, start : start + 12] if up else y[:, start + 1 : start + 7 : 2]
    expected = torch.from_numpy(inside + bias[:, None])
    torch.testing.assert_close(layer(x[None])[0], expected, rtol=1e-6, atol=1e-6)
