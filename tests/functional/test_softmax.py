"""Softmax, log-softmax and logsumexp: closed forms, PyTorch, gradients, extreme values."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, axis_of, check_op, check_torch, in_layout, shapes, values
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F

FUNCTIONS = {
    "softmax": (F.softmax, special.softmax),
    "log_softmax": (F.log_softmax, special.log_softmax),
    "logsumexp": (F.logsumexp, special.logsumexp),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


@st.composite
def problems(draw):
    """An array in any memory order, and an axis."""
    shape = draw(shapes(min_dims=1, min_side=1, max_side=4))
    x = in_layout(values(shape, draw(st.integers(0, 2**20))), draw(st.sampled_from(LAYOUTS)))
    return x, draw(axis_of(x.ndim))


@functions
@settings(max_examples=20)
@given(problem=problems())
def test_equals_scipy_and_gradients(name, problem):
    x, axis = problem
    ours, theirs = FUNCTIONS[name]
    check_op(lambda x: ours(x, axis), [x], lambda x: theirs(x, axis))


@settings(max_examples=10)
@given(problems())
def test_logsumexp_keepdims(problem):
    x, axis = problem
    check_op(
        lambda x: F.logsumexp(x, axis, keepdims=True),
        [x],
        lambda x: special.logsumexp(x, axis, keepdims=True),
    )


@functions
@settings(max_examples=15)
@given(problem=problems())
def test_equals_torch(name, problem):
    torch = pytest.importorskip("torch")
    x, axis = problem
    check_torch(
        lambda x: FUNCTIONS[name][0](x, axis),
        lambda x: getattr(torch, name)(x, axis),
        [np.concatenate([x, 300 * x], axis % x.ndim)],  # of very different sizes too
    )


@functions
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_values(name, dtype):
    torch = pytest.importorskip("torch")
    rows = np.array(
        [[1e4, -1e4, 9999], [-1e30, -1e30, -2e30], [1e30, 0, 1e30], [-np.inf, 0, 1],
         [np.nan, 0, 1], [-np.inf, -np.inf, -np.inf], [np.inf, 0, 1]], dtype,
    )  # fmt: skip
    x = tg.Tensor(rows, requires_grad=True)
    y = FUNCTIONS[name][0](x, 1)
    other = torch.tensor(rows, requires_grad=True)
    expected = getattr(torch, name)(other, 1)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, expected.detach(), 1e-6, 1e-30)
    finite = y[:4]
    finite[np.isfinite(finite.data)].sum().backward()
    if name == "logsumexp":  # PyTorch's exp(x - y) loses digits where x is large
        slopes = special.softmax(rows[:4], 1)
    else:
        expected[:4][torch.isfinite(expected[:4])].sum().backward()
        slopes = other.grad[:4]
    np.testing.assert_allclose(x.grad.data[:4], slopes, 1e-5, 1e-6)


def test_of_nothing():
    for function in (F.softmax, F.log_softmax):
        for shape in ((0, 3), (3, 0)):
            x = tg.zeros(shape, requires_grad=True)
            y = function(x, 1)
            assert y.shape == shape
            y.sum().backward()
            assert x.grad.shape == shape
    assert F.logsumexp(tg.zeros(2, 0), 1).tolist() == [-np.inf, -np.inf]
    assert F.logsumexp(tg.zeros(0, 2), 1).shape == (0,)


def test_third_order():
    from tinygen.gradcheck import gradcheck

    for function, _ in FUNCTIONS.values():
        gradcheck(lambda x, f=function: f(x, 0), [values((3, 2), 0)], order=3)


@functions
def test_methods_and_default_axis(name):
    x = Tensor(values((2, 3), 0))
    for y in (getattr(x, name)(), getattr(x, name)(-1), FUNCTIONS[name][0](x)):
        np.testing.assert_allclose(y.data, FUNCTIONS[name][1](x.data, axis=-1))


@functions
def test_messages(name):
    function = FUNCTIONS[name][0]
    with pytest.raises(ValueError, match=f"{name}: .*axis"):
        function(tg.zeros(2, 3), 2)
    with pytest.raises(ValueError, match=f"{name}: .*axis"):
        function(tg.zeros(()), 0)
    with pytest.raises(TypeError, match=f"{name}: input int64: expected float32"):
        function(tg.arange(3), 0)
