"""ADM: published sizes, and what sets it apart from the other U-Net."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from scoresde.calls import build
from scoresde.nets import ADM
from scoresde.nets.blocks import ResidualBlock, Resize
from scoresde.nets.conditioning import Sinusoids
from scoresde.nets.layers import Attention, Resample

TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "head_channels": 8, "attention": (1,)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (
            {"width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (1, 2, 3)},
            295_136_454,
        ),
        (
            {"width": 256, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (3, 4, 5)},
            552_814_086,
        ),
        (
            {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 3, "conv_resample": True},
            52_546_438,
        ),
    ],
    ids=["ImageNet 64x64", "ImageNet 256x256", "Improved DDPM on CIFAR-10"],
)
def test_published_sizes(options, parameters):
    """As counted in github.com/openai/guided-diffusion and github.com/openai/improved-diffusion."""
    with torch.device("meta"):
        net = ADM(3, outputs=6, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_classes_take_a_row_each_and_one_for_none():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in ADM(3, num_classes=k, **TINY).parameters()) for k in (None, 1000)
        ]
    assert sizes[1] - sizes[0] == 1001 * 4 * TINY["width"]


def test_outputs_are_channels_of_their_own():
    net = ADM(3, outputs=6, **TINY)
    assert net(torch.randn(2, 3, 4, 8), torch.rand(2)).shape == (2, 6, 4, 8)


@pytest.mark.parametrize("attention", [(), (0,), (1,), (0, 1)])
def test_attention_follows_every_block_of_its_levels(attention):
    net = ADM(1, **TINY | {"blocks": 3, "attention": attention})
    found = [m for m in net.modules() if isinstance(m, Attention)]
    assert len(found) == 1 + len(attention) * (3 + 4)
    assert all(m.qkv.in_channels // m.heads == 8 for m in found)


@pytest.mark.parametrize("up", [False, True])
def test_resampling_convolutions_are_their_formulas(up):
    net = ADM(3, **TINY | {"multipliers": (1, 1)}, conv_resample=True).double()
    (layer,) = [b for b in (net.up if up else net.down) if isinstance(b, Resize)]
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    source = interpolate(x, scale_factor=2, mode="nearest") if up else x
    expected = conv2d(source, layer.conv.weight, layer.conv.bias, stride=1 if up else 2, padding=1)
    torch.testing.assert_close(layer(x, x), expected)


@pytest.mark.parametrize("up", [False, True])
def test_blocks_change_the_resolution_of_an_untouched_skip(up):
    net = ADM(1, **TINY)
    (block,) = [b for b in (net.up if up else net.down) if b.resamples]
    assert isinstance(block, ResidualBlock)
    channels = block.conv_in.in_channels
    x = torch.randn(2, channels, 4, 4)  # a block's last convolution starts at zero
    expected = Resample(2, (1.0, 1.0), up=up)(x)
    torch.testing.assert_close(block(x, torch.randn(2, block.modulation)), expected)


def test_frequencies_are_those_of_transformers():
    net = ADM(1, **TINY, time_scale=100.0)
    sinusoids = net.conditioning.sinusoids
    assert isinstance(sinusoids, Sinusoids)
    expected = 100.0 * torch.tensor([1.0, 0.1, 0.01, 0.001])  # 1e4^(-i/4)
    torch.testing.assert_close(sinusoids.frequencies, expected)


def test_a_configuration_names_it():
    call = "ADM(width=8, multipliers=(1, 2), attention=(1,), head_channels=8)"
    net = build(call, nn.Module, shape=(3, 8, 8), channels=3, dims=2, num_classes=10)
    assert isinstance(net, ADM)
    assert (net.channels, net.dims, net.conditioning.num_classes) == (3, 2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 0}, "dims=0"),
        ({"width": 7}, "width=7.*even"),
        ({"outputs": 0}, "outputs=0"),
        ({"multipliers": ()}, "a multiplier given for each level"),
        ({"attention": (2,)}, r"attention=\(2,\).*0 to 1"),
        ({"attention": (-1,)}, r"attention=\(-1,\)"),
        ({"head_channels": 0}, "head_channels=0"),
        ({"head_channels": 3}, r"head_channels=3 must divide.*\(16, 16\)"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ADM(1, **TINY | options)


X, T = torch.zeros(2, 1, 4, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], T), "x: shape .* 2 spatial dimensions"),
        ((X.expand(2, 3, 4, 4), T), r"x: shape \(2, 3, 4, 4\) is not \(B, 1, \*\)"),
        ((X[..., :3], T), r"x: size \(4, 3\) must be divisible by 2.*pad x"),
        ((X, T[:1]), "t: shape"),
        ((X, T.long()), "t: .*float32 or float64"),
        ((X, T, torch.tensor([0, 0])), "num_classes=K"),
    ],
)
def test_inputs_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message):
        ADM(1, **TINY)(*args)
