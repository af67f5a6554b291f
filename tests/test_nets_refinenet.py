"""RefineNet: published sizes, its parts against their formulas, and what it is told."""

from functools import partial

import pytest
import torch
from nets_helpers import rouse
from torch import nn
from torch.nn.functional import avg_pool2d, elu, max_pool2d, pad

from scoresde.calls import build
from scoresde.nets import RefineNet
from scoresde.nets.refinement import (
    ChainedPooling,
    EncoderBlock,
    Fusion,
    InstanceNormPlus,
    ResidualUnits,
    Unnormalised,
    VolumeAverage,
)

TINY = {"width": 8, "multipliers": (1, 2, 2), "dilations": (2,)}
ROW = torch.tensor([0])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 29_694_083),
        ({"multipliers": (1, 2, 2, 4, 4)}, 83_445_379),
        ({"multipliers": (1, 2, 2, 2, 4, 4)}, 94_132_611),
        ({"noise_levels": 10}, 30_117_635),
    ],
    ids=["NCSNv2 on CIFAR-10", "deeper", "deepest", "NCSN on CIFAR-10"],
)
def test_published_sizes(options, parameters):
    """As counted in the authors' code, github.com/ermongroup/ncsnv2."""
    with torch.device("meta"):
        net = RefineNet(3, width=128, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("sides", [(5,), (3, 4), (2, 3, 2)])
def test_instance_norm_plus_is_its_formula(sides):
    norm = rouse(InstanceNormPlus(4, rows=3))
    x = randn(2, 4, *sides)
    y = norm(x, torch.tensor([2, 0]))
    for b, row in enumerate((2, 0)):
        gamma, alpha, beta = norm.table[row].split(4)
        mu = torch.stack([x[b, c].mean() for c in range(4)])
        m, v = mu.mean(), mu.var()
        for c in range(4):
            normed = (x[b, c] - mu[c]) / (x[b, c].var(correction=0) + 1e-5).sqrt()
            shift = alpha[c] * (mu[c] - m) / (v + 1e-5).sqrt()
            torch.testing.assert_close(y[b, c], gamma[c] * (normed + shift) + beta[c])


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("change", [False, True])
def test_encoder_block_is_its_formula(dilation, change):
    outputs, norm = 6 if change else 4, partial(InstanceNormPlus, rows=1)
    block = rouse(EncoderBlock(2, 4, outputs, norm, dilation, change=change))
    x = randn(2, 4, 6, 8)
    h = block.conv_in(elu(block.norm_in(x, ROW)))
    h = block.conv_out(elu(block.norm_out(h, ROW)))
    if not change:
        expected = x + h
    elif dilation == 1:
        expected = avg_pool2d(block.skip(x), 2) + avg_pool2d(h, 2)
    else:
        expected = block.skip(x) + h
    torch.testing.assert_close(block(x, ROW), expected)
    assert block.conv_in.dilation == block.conv_out.dilation == (dilation, dilation)


def test_residual_units_are_their_formula():
    units = rouse(ResidualUnits(2, 3, 2, Unnormalised))
    x = randn(1, 3, 4, 4)
    first = x + units.convs[1](elu(units.convs[0](elu(x))))
    second = first + units.convs[3](elu(units.convs[2](elu(first))))
    torch.testing.assert_close(units(x, ROW), second)


@pytest.mark.parametrize(("average", "pool"), [(False, max_pool2d), (True, avg_pool2d)])
def test_chained_pooling_is_its_formula(average, pool):
    chain = rouse(ChainedPooling(2, 3, Unnormalised, average))
    x = randn(1, 3, 6, 5)
    once = chain.convs[0](pool(elu(x), 5, 1, 2))
    twice = chain.convs[1](pool(once, 5, 1, 2))
    torch.testing.assert_close(chain(x, ROW), elu(x) + once + twice)


@pytest.mark.parametrize("sides", [(6, 5, 7), (1, 2, 1)])
def test_volumes_are_averaged_over_the_points_around_each(sides):
    x = randn(2, 3, *sides)
    around = pad(x, (2,) * 6).unfold(2, 5, 1).unfold(3, 5, 1).unfold(4, 5, 1)
    torch.testing.assert_close(VolumeAverage()(x), around.mean((5, 6, 7)))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("noise_levels", [None, 3])
def test_a_level_of_one_point_is_the_same_in_any_batch(dims, noise_levels):
    """Its channels are normalised to 0, those of a sample on its own too, and in bfloat16."""
    net = rouse(RefineNet(2, dims=dims, noise_levels=noise_levels, **TINY))
    x, t = randn(3, 2, *(2,) * dims), torch.tensor([0.0, 2.0, 1.0])
    y = net(x, t)
    for i in range(3):
        torch.testing.assert_close(net(x[i, None], t[i, None])[0], y[i])
    half = net.to(torch.bfloat16)(x.bfloat16(), t)
    assert (half - y).norm() < 0.05 * y.norm()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fusion_interpolates_a_ramp_to_a_ramp(dims):
    """The corners stay where they are, and what is linear between them stays linear."""
    fusion = Fusion(dims, [2, 1], 1, Unnormalised).double()
    for conv in fusion.convs:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    fusion.convs[1].weight.data[(0, 0, *(1,) * dims)] = 1.0  # passes its input on
    ramp = torch.linspace(0, 1, 4, dtype=torch.float64)
    fine = torch.linspace(0, 1, 8, dtype=torch.float64)
    y = fusion([torch.ones(1, 2, *(8,) * dims).double(), ramp.expand(1, 1, *(4,) * dims)], ROW)
    torch.testing.assert_close(y, fine.expand(1, 1, *(8,) * dims))


def test_resolution_falls_until_dilation_begins():
    net = RefineNet(1, width=2, multipliers=(1, 2, 3, 2, 4), dilations=(2, 4))
    sizes = []
    for first in net.encoder[::2]:
        first.register_forward_hook(lambda module, args, y: sizes.append(tuple(y.shape[1:])))
    y = net(torch.randn(1, 1, 16, 8), torch.zeros(1))
    assert sizes == [(2, 16, 8), (4, 8, 4), (6, 4, 2), (4, 4, 2), (8, 4, 2)]
    assert y.shape == (1, 1, 16, 8)


def test_without_noise_levels_t_says_nothing():
    net, x = RefineNet(1, **TINY), torch.randn(2, 1, 4, 4)
    y = net(x, torch.tensor([0.1, 1e6]))
    assert y.norm() > 1e-3
    assert torch.equal(y, net(x, torch.tensor([-5.0, 0.3], dtype=torch.float64)))


def test_noise_levels_are_chosen_by_the_nearest_index():
    net, x = RefineNet(1, noise_levels=3, **TINY), torch.randn(2, 1, 4, 4)
    for norm in net.modules():
        if isinstance(norm, InstanceNormPlus):
            nn.init.normal_(norm.table)
    y = net(x, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(y, net(x, torch.tensor([1.6, 0.4])))
    for i, level in enumerate((2.0, 0.0)):
        for other in {0.0, 1.0, 2.0} - {level}:
            assert (net(x, torch.full((2,), other))[i] - y[i]).norm() > 1e-3
        torch.testing.assert_close(net(x, torch.full((2,), level))[i], y[i])


def test_a_configuration_names_it():
    call = "RefineNet(width=8, multipliers=(1, 2), dilations=(2,))"
    net = build(call, nn.Module, shape=(3, 8), channels=3, dims=1, num_classes=None)
    assert isinstance(net, RefineNet)
    assert (net.channels, net.dims) == (3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims=4"),
        ({"width": 1}, "width=1 at least 2"),
        ({"dilations": (0,)}, r"dilations=\(0,\) must be positive"),
        ({"multipliers": (1, 0)}, r"multipliers=\(1, 0\)"),
        ({"multipliers": (1,)}, r"multipliers=\(1,\) must be more than dilations=\(2,\)"),
        ({"noise_levels": 0}, "noise_levels=0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RefineNet(1, **TINY | options)


X, T = torch.zeros(2, 1, 4, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], T), "x: shape .* 2 spatial dimensions"),
        ((X.expand(2, 3, 4, 4), T), r"x: shape \(2, 3, 4, 4\) is not \(B, 1, \*\)"),
        ((X[..., :3], T), r"x: size \(4, 3\) must be divisible by 2"),
        ((X, T[0]), "t: shape"),
        ((X, T.long()), "t: .*float32 or float64"),
        ((X, T + 2.6), r"t: .*\[0, 3\)"),
        ((X, T - 1), r"t: .*\[0, 3\)"),
        ((X, T, torch.tensor([0, 0])), "label: .*no classes"),
    ],
)
def test_inputs_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message):
        RefineNet(1, noise_levels=3, **TINY)(*args)
