"""Linear combinations without promotion, and one arithmetic for floats and tensors."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoresde import tensors
from scoresde.tensors import lincomb
from scoresde.testing import count_operations

ALL = ["sin", "cos", "tan", "asinh", "sqrt", "expm1", "log", "exp", "softplus"]
floats = st.floats(-20.0, 20.0)


# Linear combinations


@given(st.lists(floats, min_size=1, max_size=5), st.sampled_from([torch.float32, torch.float64]))
def test_lincomb_of_floats_and_of_per_sample_tensors_is_the_sum(coefficients, dtype):
    grid = torch.linspace(-1.0, 1.0, 12, dtype=dtype).reshape(4, 3)
    terms = [(c, grid - k) for k, c in enumerate(coefficients)]
    each = [(torch.full((4, 1), c, dtype=torch.float64), x) for c, x in terms]
    exact = sum(c * x.double() for c, x in terms)
    size = sum(abs(c) * x.double().abs() for c, x in terms)
    for total in (lincomb(*terms), lincomb(*each)):
        assert total.dtype == dtype
        error = (total.double() - exact).abs()
        assert (error <= 2 * len(terms) * torch.finfo(dtype).eps * size + 1e-44).all()


def test_lincomb_leaves_out_terms_of_coefficient_zero():
    x, bad = torch.ones(2, 3), torch.full((2, 3), math.inf)
    assert torch.equal(lincomb((0.0, bad), (2.0, x)), 2.0 * x)
    assert torch.equal(lincomb((2.0, x), (-0.0, bad)), 2.0 * x)
    assert torch.equal(lincomb((0.0, bad)), torch.zeros(2, 3))


def test_lincomb_takes_one_operation_a_term():
    x = torch.ones(2, 3)
    each = torch.full((2, 1), 0.5)
    for terms, calls in [
        (((1.0, x),), 0),
        (((0.5, x),), 1),
        (((1.0, x), (2.0, x)), 1),
        (((0.5, x), (2.0, x), (0.0, x), (3.0, x)), 3),
        (((each, x), (each, x)), 2),
    ]:
        assert len(count_operations(lambda terms=terms: lincomb(*terms)).operations) == calls


def test_lincomb_passes_gradients_and_non_finite_coefficients_on():
    x = torch.ones(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(lincomb((3.0, x), (0.5, x * x)).sum(), x)
    assert torch.equal(gradient, torch.full((2, 3), 4.0))
    assert lincomb((math.nan, torch.ones(2)), (1.0, torch.ones(2))).isnan().all()


# Scalars


@pytest.mark.parametrize("name", ALL)
@given(x=floats)
def test_floats_and_tensors_agree(name, x):
    function = getattr(tensors, name)
    x = abs(x) if name in ("sqrt", "log") else x
    of_float, of_tensor = function(x), function(torch.tensor(x, dtype=torch.float64))
    assert isinstance(of_float, float)
    assert of_tensor.dtype == torch.float64
    assert of_tensor.item() == pytest.approx(of_float, rel=1e-14, abs=1e-300)
    assert function(torch.tensor(x, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("name", ["atan2", "hypot"])
@given(x=floats, y=floats)
def test_a_float_next_to_a_tensor_keeps_its_digits(name, x, y):
    function, tensor = getattr(tensors, name), torch.tensor([[y]], dtype=torch.float64)
    exact = function(x, y)
    assert isinstance(exact, float)
    for mixed in (function(x, tensor), function(torch.tensor([[x]], dtype=torch.float64), y)):
        assert mixed.shape == (1, 1)
        assert mixed.item() == pytest.approx(exact, rel=1e-15, abs=1e-300)
    assert function(x, tensor.float()).dtype == torch.float32
    assert function(tensor, tensor.mT).item() == pytest.approx(function(y, y), rel=1e-15)


def test_log_and_exp_at_their_ends():
    for of in (lambda x: x, lambda x: torch.tensor(x, dtype=torch.float64)):
        assert float(tensors.log(of(0.0))) == -math.inf
        assert float(tensors.log(of(math.inf))) == math.inf
        assert float(tensors.exp(of(1e4))) == math.inf
        assert float(tensors.exp(of(709.5))) == pytest.approx(math.exp(709.5))
        assert float(tensors.exp(of(-math.inf))) == 0.0
        assert math.isnan(float(tensors.exp(of(math.nan))))
        assert math.isnan(float(tensors.log(of(math.nan))))
    with pytest.raises(ValueError, match=r"positive|domain"):
        tensors.log(-1.0)


@given(st.floats(-700.0, 700.0))
def test_softplus_keeps_its_relative_accuracy(x):
    exact = float(mpmath.log1p(mpmath.exp(mpmath.mpf(x))))
    assert tensors.softplus(x) == pytest.approx(exact, rel=1e-15)
    assert tensors.softplus(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(
        exact, rel=1e-15
    )


def test_softplus_at_infinity():
    for of in (lambda x: x, torch.tensor):
        assert float(tensors.softplus(of(math.inf))) == math.inf
        assert float(tensors.softplus(of(-math.inf))) == 0.0


def test_per_sample_takes_the_rank_of_its_sample():
    values = torch.arange(3.0)
    assert tensors.per_sample(values, torch.zeros(3, 2, 4, 5)).shape == (3, 1, 1, 1)
    assert tensors.per_sample(values[:, None], torch.zeros(3, 2)).shape == (3, 1)
    assert tensors.per_sample(values, torch.zeros(3)).shape == (3,)
