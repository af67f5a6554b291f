"""Weights of the authors' code of score SDEs, from lists of tensors as that code keeps them."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import silu

from scoresde.interop.score_sde import load_score_sde
from scoresde.nets import ddpm, ddpmpp, ncsnpp

SIZES = {"width": 8, "multipliers": (1, 2), "blocks": 1}


def norm(c):
    return [(c,), (c,)]


def conv(i, o, k=3):
    return [(o, i, k, k), (o,)]


def linear(i, o):
    return [(o, i), (o,)]


def nin(i, o):
    return [(i, o), (o,)]


def block(i, o, *skip):
    return [*norm(i), *conv(i, o), *linear(32, o), *norm(o), *conv(o, o), *skip]


def attention(c):
    return [*norm(c), *nin(c, c) * 4]


def biggan(i, o):
    return block(i, o, *conv(i, o, 1))


# modules of the authors' networks of these sizes, in their order
DDPM = [
    *(*linear(8, 32), *linear(32, 32), *conv(3, 8)),
    *(*block(8, 8), *conv(8, 8), *block(8, 16, *nin(8, 16)), *attention(16)),
    *(*block(16, 16), *attention(16), *block(16, 16)),
    *(*block(32, 16, *nin(32, 16)), *block(24, 16, *nin(24, 16)), *attention(16), *conv(16, 16)),
    *(*block(24, 8, *nin(24, 8)), *block(16, 8, *nin(16, 8)), *norm(8), *conv(8, 3)),
]
NCSNPP = [
    *(*linear(16, 32), *linear(32, 32), *conv(3, 8)),
    *(*block(8, 8), *biggan(8, 8), *conv(3, 8), *biggan(8, 16), *attention(16)),
    *(*block(16, 16), *attention(16), *block(16, 16)),
    *(*biggan(32, 16), *biggan(24, 16), *attention(16), *biggan(16, 16)),
    *(*biggan(24, 8), *biggan(16, 8), *norm(8), *conv(8, 3)),
]
SKIPS = [
    *(*linear(16, 32), *linear(32, 32), *conv(3, 8)),
    *(*block(8, 8), *biggan(8, 8), *conv(3, 8, 1), *biggan(8, 16), *attention(16)),
    *(*block(16, 16), *attention(16), *block(16, 16)),
    *(*biggan(32, 16), *biggan(24, 16), *attention(16)),
    *(*norm(16), *conv(16, 3), *biggan(16, 16)),
    *(*biggan(24, 8), *biggan(16, 8), *norm(8), *conv(8, 3)),
]
RESIDUAL = [
    *(*linear(16, 32), *linear(32, 32), *conv(3, 8), *block(8, 8)),
    *(*biggan(8, 8), *conv(3, 8), *block(8, 8), *biggan(8, 8), *conv(8, 8)),
    *(*biggan(8, 16), *attention(16), *block(16, 16), *attention(16), *block(16, 16)),
    *(*biggan(32, 16), *biggan(24, 16), *attention(16)),
    *(*norm(16), *conv(16, 16), *biggan(16, 16)),
    *(*biggan(24, 8), *biggan(16, 8), *conv(16, 8), *biggan(8, 8)),
    *(*biggan(16, 8), *biggan(16, 8), *conv(8, 8), *norm(8), *conv(8, 3)),
]


def skips(**sizes):
    return ncsnpp(progressive_input="input_skip", progressive_output="output_skip", **sizes)


def residual(**sizes):
    sizes |= {"multipliers": (1, 1, 2), "attention": (2,)}
    return ncsnpp(progressive_output="residual", **sizes)


CASES = {
    "ddpm": (ddpm, DDPM),
    "ncsn++": (ncsnpp, NCSNPP),
    "skips": (skips, SKIPS),
    "residual": (residual, RESIDUAL),
}


@pytest.fixture(params=CASES)
def loaded(request):
    torch.manual_seed(0)
    build, shapes = CASES[request.param]
    net, weights = build(**SIZES), [torch.randn(shape) for shape in shapes]
    frequencies = None if build is ddpm else torch.randn(8)
    load_score_sde(net, weights, frequencies)
    return net, weights, frequencies


def test_every_number_has_one_place(loaded):
    net, weights, frequencies = loaded
    own, given = (torch.cat([p.flatten() for p in ps]) for ps in (net.parameters(), weights))
    assert torch.equal(own.sort()[0], given.sort()[0])
    if frequencies is not None:
        torch.testing.assert_close(
            net.conditioning.sinusoids.frequencies, 2 * math.pi * frequencies
        )


def test_blocks_are_told_by_their_own_matrices(loaded):
    net, weights, _ = loaded
    t = torch.rand(2)
    features = net.conditioning.sinusoids(t)
    w1, b1, w2, b2 = weights[:4]
    e = silu(silu(features @ w1.T + b1) @ w2.T + b2)
    dense = [i for i, w in enumerate(weights) if i > 3 and w.ndim == 2 and w.shape[1] == 32]
    dense = [
        i for i in dense if weights[i - 1].shape == weights[i + 1].shape
    ]  # after a convolution
    told = [m for m in net.conditioning(torch.zeros(2, 3, 4, 4), t, None) if m.shape[1]]
    assert len(told) == len(dense)
    for modulation, i in zip(told, dense, strict=True):
        torch.testing.assert_close(modulation, e @ weights[i].T + weights[i + 1])


def test_attention_reads_the_authors_matrices(loaded):
    net, weights, _ = loaded
    start = next(i for i, w in enumerate(weights) if w.shape == (16, 16) and i > 3) - 2
    gain, bias, *matrices = weights[start : start + 10]
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = zip(matrices[::2], matrices[1::2], strict=True)
    x = torch.randn(2, 16, 2, 2)
    h = torch.nn.functional.group_norm(x, 4, gain, bias, 1e-6).flatten(2).mT  # (B, points, 16)
    q, k, v = h @ wq + bq, h @ wk + bk, h @ wv + bv
    y = torch.softmax(q @ k.mT / 4.0, dim=-1) @ v @ wo + bo
    layer = net.down[-1].attention
    expected = layer.add(x, y.mT.reshape(x.shape))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_shortcuts_of_ddpm_are_turned():
    weights = [torch.randn(shape) for shape in DDPM]
    net = ddpm(**SIZES)
    load_score_sde(net, weights)
    matrix, bias = next((w, b) for w, b in pairwise(weights) if w.shape == (8, 16))
    x = torch.randn(2, 8, 3, 3)
    expected = torch.einsum("bihw,io->bohw", x, matrix) + bias[:, None, None]
    torch.testing.assert_close(net.down[2].skip(x), expected)


@pytest.mark.parametrize(
    ("build", "tensors"),
    [
        (lambda: ddpm(), 308),
        (lambda: ddpmpp(), 564),
        (lambda: ddpmpp(blocks=8), 956),
        (lambda: ncsnpp(), 570),
        (lambda: skips(multipliers=(1, 1, 2, 2, 2, 2, 2), blocks=2, attention=(4,)), 644),
    ],
)
def test_numbers_of_tensors_are_the_authors(build, tensors):
    with torch.device("meta"):
        net = build()
    with pytest.raises(ValueError, match=f"weights: 0 tensors, where the network has {tensors};"):
        load_score_sde(net, [])


def test_weights_of_another_network_are_refused():
    weights = [torch.zeros(shape) for shape in NCSNPP]
    net = ncsnpp(**SIZES)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    swapped = [*weights[:4], torch.zeros(9, 3, 3, 3), *weights[5:]]
    for build, given, frequencies, message in (
        (net, weights, None, r"frequencies: shape None.*needs \(8,\)"),
        (net, weights, torch.zeros(7), r"frequencies: shape \(7,\)"),
        (net, swapped, torch.zeros(8), r"weights\[4\]: shape \(9, 3, 3, 3\).*\(8, 3, 3, 3\)"),
        (ddpm(**SIZES, num_classes=2), [], None, "num_classes"),
        (ddpm(**SIZES), [torch.zeros(s) for s in DDPM], torch.zeros(8), r"shape \(8,\).*None"),
    ):
        with pytest.raises(ValueError, match=message):
            load_score_sde(build, given, frequencies)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
