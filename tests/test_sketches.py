"""Hutch++ and XTrace: exact on low ranks, equal to their definitions, without bias."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from solver_examples import normal
from trace_helpers import Known, Mixing, jacobian_of, matrix_of, trace_of

import scoresde as sd
from scoresde import VPSDE, Denoiser, HutchPP, InjectedNoise, SeededNoise, Sphere, XTrace

F64 = torch.float64


def low_rank(d, rank, dtype, batch=4):
    left, right = normal(batch, d, rank, dtype=dtype), normal(batch, rank, d, seed=1, dtype=dtype)
    return left @ right


@pytest.mark.parametrize("trace", [HutchPP(9), XTrace(8)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_low_ranks_are_exact(trace, rank, dtype):
    matrix = low_rank(12, rank, dtype)
    found = trace.estimate(Known(matrix), SeededNoise(0))
    slack = 2e3 * torch.finfo(dtype).eps * max(1.0, float(matrix.abs().max()))
    assert found.trace.dtype == dtype
    assert torch.allclose(found.trace, trace_of(matrix), rtol=0, atol=slack)
    assert float(found.stderr.max()) < slack


@pytest.mark.parametrize("kind", [HutchPP, XTrace])
@pytest.mark.parametrize("d", [1, 5])
def test_as_many_directions_as_dimensions_are_exact(kind, d):
    trace, matrix = kind((3 if kind is HutchPP else 2) * d), normal(4, d, d, dtype=F64)
    found = trace.estimate(Known(matrix), SeededNoise(0))
    assert torch.allclose(found.trace, trace_of(matrix), rtol=1e-10)
    assert (found.stderr == 0.0).all()
    assert trace.exact_in(d)
    assert not trace.exact_in(d + 1)


def test_hutch_pp_has_no_bias():
    """Over all signs of one probe for the range and one for the rest."""
    matrix = normal(4, 4, dtype=F64)
    signs = list(product((-1.0, 1.0), repeat=4))
    pairs = [torch.tensor(c, dtype=F64) for c in zip(*product(signs, signs), strict=True)]
    jacobian = Known(matrix.expand(len(pairs[0]), 4, 4))
    found = HutchPP(3).estimate(jacobian, InjectedNoise(pairs))
    assert float(found.trace.mean()) == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert float(found.trace.std()) > 0.1
    assert found.stderr.isnan().all()


def test_xtrace_is_its_definition():
    """Every probe against the range of the others' images, each by a decomposition of its own."""
    d, k = 9, 4
    matrix = normal(3, d, d, dtype=F64)
    noise = SeededNoise(0)
    probes = torch.stack([noise.fold(i).normal(matrix[:, 0]) for i in range(k)], 2)
    values = []
    for i in range(k):
        others = probes[..., [j for j in range(k) if j != i]]
        q, _ = torch.linalg.qr(matrix @ others)
        rest = torch.eye(d, dtype=F64) - q @ q.mT
        u = rest @ probes[..., i : i + 1]
        u = u / u.norm(dim=1, keepdim=True) * (d - k + 1) ** 0.5
        values.append(trace_of(q.mT @ matrix @ q) + trace_of(u.mT @ matrix @ u))
    expected = torch.stack(values, 1)
    found = XTrace(2 * k).estimate(Known(matrix), noise)
    assert torch.allclose(found.trace, expected.mean(1), rtol=1e-10)
    assert torch.allclose(found.stderr, expected.std(1) / k**0.5, rtol=1e-8)


def test_xtrace_of_one_probe_is_a_probe_on_the_sphere():
    jacobian = Known(normal(3, 6, 6, dtype=F64))
    found = XTrace(2).estimate(jacobian, SeededNoise(0))
    plain = sd.Hutchinson(1, Sphere()).estimate(jacobian, SeededNoise(0))
    assert torch.allclose(found.trace, plain.trace, rtol=1e-12)


@pytest.mark.parametrize("mode", [None, "reverse"])
@pytest.mark.parametrize("trace", [HutchPP(9), XTrace(6)], ids=str)
def test_both_modes_and_their_costs(trace, mode):
    x = normal(2, 3, dtype=F64)
    jacobian = jacobian_of(Denoiser(Mixing(3), VPSDE(), "v"), x, mode=mode)
    found = trace.estimate(jacobian, SeededNoise(0))
    assert jacobian.products.tolist() == [12 * trace.n] * 2
    assert jacobian.nfe.tolist() == [24] * 2
    assert torch.allclose(found.trace, trace_of(matrix_of(jacobian)), rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "n"), [(HutchPP, 0), (HutchPP, 8), (HutchPP, 3.0), (XTrace, 0), (XTrace, 5)]
)
def test_numbers_of_products_that_cannot_be_are_refused(kind, n):
    with pytest.raises(ValueError, match=f"n={n} must be"):
        kind(n)


@pytest.mark.parametrize("trace", [HutchPP(12), XTrace(8)], ids=str)
def test_more_directions_than_dimensions_are_refused(trace):
    with pytest.raises(ValueError, match=f"n={trace.n}: finds a subspace of 4 dimensions, of 3"):
        trace.estimate(Known(normal(2, 3, 3)), SeededNoise(0))
