"""DiT: published sizes, its parts against their formulas, and its symmetries."""

import math

import pytest
import torch
from nets_helpers import rouse
from torch import nn
from torch.func import grad
from torch.nn.functional import gelu

from scoresde.calls import build
from scoresde.nets import DiT
from scoresde.nets.dit import TransformerBlock, grid_positions
from scoresde.nets.patches import to_channels, to_points

TINY = {"width": 24, "depth": 2, "heads": 2}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "parameters"),
    [
        (384, 12, 6, 32_963_360),
        (768, 12, 12, 130_512_416),
        (1024, 24, 16, 458_102_816),
        (1152, 28, 16, 675_129_632),
    ],
    ids=["S/2", "B/2", "L/2", "XL/2"],
)
def test_published_sizes(width, depth, heads, parameters):
    """As counted in the authors' code, github.com/facebookresearch/DiT, with their positions."""
    with torch.device("meta"):
        net = DiT((4, 32, 32), width=width, depth=depth, heads=heads, num_classes=1000, outputs=8)
    assert sum(p.numel() for p in net.parameters()) + net.positions.numel() == parameters


def test_positions_are_sines_and_cosines_of_each_axis():
    places = grid_positions((3, 2), 16).double()
    w = torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64)
    for token, (i, j) in enumerate((i, j) for i in range(3) for j in range(2)):
        expected = [(i * w).sin(), (i * w).cos(), (j * w).sin(), (j * w).cos()]
        torch.testing.assert_close(places[token], torch.cat(expected), rtol=1e-5, atol=1e-6)


def reference(block, h, modulation):
    """Return what a block does to tokens (N, width), head by head and query by query."""
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6)

    def norm(h):
        return (h - h.mean(-1, keepdim=True)) / (
            h.var(-1, correction=0, keepdim=True) + 1e-6
        ).sqrt()

    q, k, v = block.qkv(norm(h) * (1 + scale_1) + shift_1).chunk(3, dim=1)
    size, heads = h.shape[1] // block.heads, []
    for head in range(block.heads):
        at = slice(head * size, (head + 1) * size)
        weights = [torch.softmax(k[:, at] @ query / math.sqrt(size), 0) for query in q[:, at]]
        heads.append(torch.stack([w @ v[:, at] for w in weights]))
    h = h + gate_1 * block.out(torch.cat(heads, 1))
    hidden = block.into(norm(h) * (1 + scale_2) + shift_2)
    return h + gate_2 * block.back(gelu(hidden, approximate="tanh"))


@pytest.mark.parametrize("fused", [False, True])
def test_block_is_its_formula(fused):
    block = rouse(TransformerBlock(12, heads=3, hidden=20, fused=fused))
    h = torch.randn(2, 5, 12, dtype=torch.float64)
    modulation = torch.randn(2, 72, dtype=torch.float64)
    expected = torch.stack([reference(block, *pair) for pair in zip(h, modulation, strict=True)])
    torch.testing.assert_close(block(h, modulation), expected)


def test_blocks_are_the_identity_at_first():
    net = DiT((2, 4, 4), **TINY)
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, y: seen.append((args[0], y)))
    net(torch.randn(2, 2, 4, 4), torch.rand(2))
    assert len(seen) == 2
    assert all(torch.equal(h, y) for h, y in seen)


def test_without_positions_patches_are_a_set():
    net = rouse(DiT((1, 8), **TINY))
    net.positions.zero_()
    x, t, order = torch.randn(1, 1, 8).double(), torch.rand(1), torch.tensor([2, 0, 3, 1])

    def permuted(x):
        return to_points(to_channels(x, 2)[..., order], 2)

    torch.testing.assert_close(net(permuted(x), t), permuted(net(x, t)))


def test_positions_tell_the_patches_apart():
    net = rouse(DiT((1, 4, 4), **TINY))
    y = to_channels(net(torch.zeros(1, 1, 4, 4).double(), torch.rand(1)), 2)
    assert torch.pdist(y[0].flatten(1).T).min() > 1e-3


def test_fused_attention_has_the_same_weights_and_gradients():
    net, fused = (DiT((1, 4, 4), fused=choice, **TINY) for choice in (False, True))
    fused.load_state_dict(rouse(net).state_dict())
    fused, x, t = fused.double(), torch.randn(2, 1, 4, 4).double(), torch.rand(2)
    slopes = [grad(lambda x, f=f: f(x, t).sin().sum())(x) for f in (net, fused)]
    torch.testing.assert_close(*slopes)


def test_outputs_are_channels_of_their_own():
    net = DiT((3, 4, 2, 6), outputs=6, **TINY)
    assert net(torch.randn(2, 3, 4, 2, 6), torch.rand(2)).shape == (2, 6, 4, 2, 6)


def test_a_configuration_names_it():
    call = "DiT(patch=4, width=24, depth=1, heads=2)"
    net = build(call, nn.Module, shape=(1, 8, 8), channels=1, dims=2, num_classes=10)
    assert isinstance(net, DiT)
    assert (net.shape, net.grid, net.conditioning.num_classes) == ((1, 8, 8), (2, 2), 10)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {}, r"shape=\(4,\) must be \(channels, \*\)"),
        ((1, 2, 2, 2, 2), {}, "1 to 3 spatial dimensions"),
        ((0, 4), {}, r"shape=\(0, 4\)"),
        ((1, 4, 6), {"patch": 4}, r"patch=4 must divide.*\(1, 4, 6\)"),
        ((1, 4), {"patch": 0}, "patch=0"),
        ((1, 4), {"outputs": 0}, "outputs=0"),
        ((1, 4), {"depth": 0}, "depth=0"),
        ((1, 4), {"heads": 5}, "width=24 must be a multiple of heads=5"),
        ((1, 4, 4), {"width": 26}, "width=26 must be a multiple .* of 4"),
        ((1, 4), {"num_classes": 0}, "num_classes=0"),
    ],
)
def test_arguments_out_of_range(shape, options, message):
    with pytest.raises(ValueError, match=message):
        DiT(shape, **TINY | options)


X, T = torch.zeros(2, 1, 4, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], T), r"x: shape \(1, 4, 4\) is not \(B, 1, 4, 4\)"),
        ((X[..., :2], T), r"x: shape \(2, 1, 4, 2\) .* build it with the shape"),
        ((X, T[:1]), "t: shape"),
        ((X, T.bfloat16()), "t: .*float32 or float64"),
        ((X, T, torch.tensor([0])), "label: shape"),
        ((X, T, torch.tensor([0, 3])), r"label: .*\[0, 3\)"),
    ],
)
def test_inputs_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message):
        DiT((1, 4, 4), num_classes=3, **TINY)(*args)
