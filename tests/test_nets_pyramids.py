"""Progressive networks: where pyramids join the levels, and what they give to the output."""

import math
from itertools import pairwise

import pytest
import torch
from nets_helpers import rouse
from torch.nn.functional import silu

from scoresde.nets import UNet
from scoresde.nets.pyramids import ResidualInput, ResidualOutput

SIZES = {"dims": 1, "width": 8, "multipliers": (1, 2, 1), "blocks": 1, "attention": (1,)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def seen(net):
    """Record what every module is given first, and what it answers."""
    record = {}

    def hook(module, args, answer):
        record[module] = (args[0], answer)

    for module in net.modules():
        module.register_forward_hook(hook)
    return record


def levels(blocks):
    """Split the blocks of one way into those of each level; the last of all but one resamples."""
    ends = [i + 1 for i, block in enumerate(blocks) if block.resamples]
    bounds = [0, *ends, len(blocks)]
    return [blocks[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("resblock", ["biggan", "ddpm"])
def test_a_residual_output_is_what_goes_on_at_each_level(resblock, rescale):
    """p_L = conv SiLU norm h_L, p_l = h_l <- (up p_(l+1) + h_l) / sqrt(2), head SiLU norm p_0.

    As in models/ncsnpp.py of github.com/yang-song/score_sde: the deepest level itself goes on as it
    was, each other as its sum with the pyramid.
    """
    options = {"resblock": resblock, "skip_rescale": rescale, "resample": (1, 3, 3, 1)}
    net = rouse(UNet(2, progressive_output="residual", **SIZES, **options))
    record = seen(net)
    y = net(torch.randn(2, 2, 16).double(), torch.rand(2))
    *below, first = levels(net.up)
    answers = [record[blocks[-2]][1] for blocks in below] + [record[first[-1]][1]]
    goes_on = [record[blocks[-1]][0] for blocks in below] + [record[net.norm][0]]
    assert torch.equal(goes_on[0], answers[0])
    deepest, scale = net.outputs[0], math.sqrt(2) if rescale else 1.0
    pyramid = deepest.conv(silu(deepest.norm(answers[0])))
    for step, h, after in zip(net.outputs, answers[1:], goes_on[1:], strict=True):
        pyramid = (step.up(pyramid) + h) / scale
        torch.testing.assert_close(after, pyramid)
    torch.testing.assert_close(y, net.head(silu(net.norm(pyramid))))


@pytest.mark.parametrize("resblock", ["biggan", "ddpm"])
def test_shares_of_the_output_are_summed_up(resblock):
    """p_L = share_L, p_l = up p_(l+1) + share_l, where share_l = conv SiLU norm h_l; p_0 is out."""
    options = {"resblock": resblock, "resample": (1, 3, 3, 1)}
    net = rouse(UNet(2, progressive_output="output_skip", **SIZES, **options))
    record = seen(net)
    y = net(torch.randn(2, 2, 16).double(), torch.rand(2))
    *below, first = levels(net.up)
    pyramid = torch.zeros(2, 2, 4).double()
    for step, blocks in zip(net.outputs, below, strict=True):
        h = record[blocks[-2]][1]
        assert torch.equal(record[blocks[-1]][0], h)
        pyramid = step.up(pyramid + step.conv(silu(step.norm(h))))
    torch.testing.assert_close(y, pyramid + net.head(silu(net.norm(record[first[-1]][1]))))


@pytest.mark.parametrize("kind", ["residual", "input_skip"])
def test_an_input_pyramid_joins_what_a_level_begins_with(kind):
    """p_0 = x; p_l = (down p_(l-1) + h_l) / sqrt(2), or a copy of x that is added by a matrix."""
    options = {"progressive_input": kind, "resample": (1, 3, 3, 1)}
    net, x = rouse(UNet(2, **SIZES, **options)), torch.randn(2, 2, 16).double()
    record = seen(net)
    net(x, torch.rand(2))
    *above, _ = levels(net.down)
    pyramid, starts = x, [blocks[0] for blocks in levels(net.down)[1:]]
    for step, blocks, start in zip(net.pyramid, above, starts, strict=True):
        h, pyramid = record[blocks[-1]][1], step.down(pyramid)
        if kind == "residual":
            joined = pyramid = (pyramid + h) / math.sqrt(2)
        else:
            joined = step.conv(pyramid) + h
        torch.testing.assert_close(record[start][0], joined)


def test_residual_pyramids_are_their_formulas():
    x, h = torch.randn(1, 2, 8, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    down = rouse(ResidualInput(1, 2, 3, (1, 3, 3, 1), rescale=True))
    copy, joined = down(x, h)
    assert copy is joined
    torch.testing.assert_close(copy, (down.down(x) + h) / math.sqrt(2))
    deepest = rouse(ResidualOutput(1, 3, 2, (1, 1), rescale=True, deepest=True))
    above, unchanged = deepest(None, h)
    assert unchanged is h
    torch.testing.assert_close(above, deepest.up(deepest.conv(silu(deepest.norm(h)))))
    g = torch.randn(1, 2, 8, dtype=torch.float64)
    further = rouse(ResidualOutput(1, 2, 1, (1, 1), rescale=False, deepest=False))
    above, total = further(above, g)
    torch.testing.assert_close(total, deepest.up(deepest.conv(silu(deepest.norm(h)))) + g)
    torch.testing.assert_close(above, further.up(total))
