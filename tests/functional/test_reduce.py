"""Reductions along axes, and cumulative sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import arrays, axes_of, axis_of, check_op, check_torch, shapes, values
from hypothesis import given
from hypothesis import strategies as st

import tinygen
from tinygen import Tensor, grad, tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck


@st.composite
def reductions(draw, *, min_side=1):
    """An array, the axes to reduce, and keepdims."""
    x = draw(arrays(shapes(min_side=min_side)))
    return x, draw(axes_of(x.ndim)), draw(st.booleans())


@given(reductions(min_side=0))
def test_sum(case):
    x, axis, keepdims = case
    check_op(lambda x: F.sum(x, axis, keepdims), [x], lambda x: x.sum(axis, keepdims=keepdims))


@pytest.mark.parametrize("name", ["max", "mean", "min", "var"])
@given(reductions())
def test_reductions(name, case):
    x, axis, keepdims = case
    function, reference = getattr(F, name), getattr(np, name)
    check_op(
        lambda x: function(x, axis, keepdims), [x], lambda x: reference(x, axis, keepdims=keepdims)
    )


@pytest.mark.parametrize("name", ["var", "std"])
@given(arrays(shapes(min_dims=1, min_side=3)), st.data())
def test_var_and_std_with_a_correction(name, x, data):
    axis, keepdims = data.draw(axis_of(x.ndim)), data.draw(st.booleans())
    function, reference = getattr(F, name), getattr(np, name)
    check_op(
        lambda x: function(x, axis, keepdims, correction=1),
        [x],
        lambda x: reference(x, axis, keepdims=keepdims, ddof=1),
    )


@given(arrays(shapes(min_dims=1)), st.data())
def test_cumsum(x, data):
    axis = data.draw(axis_of(x.ndim))
    check_op(lambda x: F.cumsum(x, axis), [x], lambda x: x.cumsum(axis))


@given(reductions(), st.sampled_from(["argmax", "argmin"]))
def test_argmax_and_argmin(case, name):
    x, _, keepdims = case
    for axis in (None, *range(-x.ndim, x.ndim)):
        expected = getattr(np, name)(x, axis, keepdims=keepdims)
        got = getattr(F, name)(Tensor(x, requires_grad=True), axis, keepdims)
        assert (got.dtype, got.requires_grad) == (np.int64, False)
        np.testing.assert_array_equal(got.numpy(), expected)
        np.testing.assert_array_equal(getattr(F, name)(x, axis, keepdims), expected)


def test_argmax_takes_the_first_of_equals():
    assert tensor([1.0, 3.0, 3.0]).argmax().item() == 1
    assert tensor([[0, 0], [5, 5]]).argmin(1).tolist() == [0, 0]


def test_equal_extremes_share_the_gradient_evenly():
    x = tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], requires_grad=True)
    assert grad(x.max(1).sum(), x).tolist() == [[0, 0.5, 0.5], [np.float32(1 / 3)] * 3]
    assert grad(x.min(), x).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_the_gradient_of_std_is_0_where_all_values_are_equal():
    x = tensor([[1.0, 1.0], [1.0, 3.0]], requires_grad=True)
    y = x.std(1)
    assert y.tolist() == [0, 1]
    (g,) = grad(y.sum(), [x], create_graph=True)
    assert g.tolist() == [[0, 0], [-0.5, 0.5]]
    assert np.isfinite(grad((g * g).sum(), x).numpy()).all()
    assert tensor(5.0, requires_grad=True).std().item() == 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_of_nothing():
    empty = tensor(np.zeros((0, 3), np.float32), requires_grad=True)
    assert empty.sum().item() == 0
    assert empty.sum(0).tolist() == [0, 0, 0]
    assert empty.cumsum(0).shape == (0, 3)
    assert math.isnan(empty.mean().item())
    assert math.isnan(tensor([1.0]).var(correction=1).item())
    assert grad(empty.sum(), empty).shape == (0, 3)
    for name in ("max", "min", "argmax", "argmin"):
        with pytest.raises(ValueError, match=rf"{name}: nothing to reduce in shape \(0, 3\)"):
            getattr(F, name)(empty, 0)
    assert empty.max(1).shape == (0,)
    assert empty.argmax(1).shape == (0,)


def test_nan_is_seen():
    x = tensor([1.0, math.nan, 2.0])
    for name in ("sum", "mean", "var", "std", "max", "min"):
        with np.errstate(invalid="ignore"):
            assert math.isnan(getattr(F, name)(x).item())


def test_integers_and_booleans():
    x = tensor([[1, 2], [3, 5]])
    assert (x.sum().dtype, x.sum().item()) == (np.int64, 11)
    assert x.mean().item() == 2.75
    assert x.max(0).tolist() == [3, 5]
    assert (x > 2).sum().item() == 2
    assert (x > 2).cumsum(1).tolist() == [[0, 0], [1, 2]]


def test_the_mean_of_equal_numbers_is_that_number():
    for n in range(1, 200):
        assert tensor(np.full(n, 0.7)).mean().item() == pytest.approx(0.7, rel=1e-15)
        assert tensor(np.ones(n)).mean().item() == 1


def test_a_float32_sum_of_many_numbers_is_accurate():
    x = values((300, 1000), 0, low=0, high=1, dtype=np.float32)
    for axis in (None, 1):
        exact = x.sum(axis, dtype=np.float64)
        np.testing.assert_allclose(F.sum(Tensor(x), axis).numpy(), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min", "argmax", "cumsum"])
def test_wrong_axes_are_named(name):
    x = tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=f"{name}: axis 2 is out of range for 2 axes"):
        getattr(x, name)(2)
    if name not in ("argmax", "cumsum"):
        with pytest.raises(ValueError, match=rf"{name}: axis \(0, -2\) names one axis twice"):
            getattr(x, name)((0, -2))


TORCH = {
    "sum": lambda m, x: m.sum(x, -1),
    "mean": lambda m, x: m.mean(x, (0, 2), True),
    "cumsum": lambda m, x: m.cumsum(x, 1),
}


@pytest.mark.parametrize("name", TORCH)
def test_like_pytorch(name):
    torch = pytest.importorskip("torch")
    x = values((3, 4, 5), 1)
    check_torch(lambda x: TORCH[name](F, x), lambda x: TORCH[name](torch, x), [x])


TIES = np.array([[1.0, 4.0, 4.0], [2.0, 2.0, 2.0]])


def test_ties_like_pytorch():
    torch = pytest.importorskip("torch")
    check_torch(lambda x: F.max(x, 1), lambda x: torch.amax(x, 1), [TIES])
    check_torch(lambda x: F.min(x, 1), lambda x: torch.amin(x, 1), [TIES])


@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.parametrize("correction", [0, 1])
def test_spread_like_pytorch(name, correction):
    torch = pytest.importorskip("torch")
    check_torch(
        lambda x: getattr(F, name)(x, 1, correction=correction),
        lambda x: getattr(torch, name)(x, 1, correction=correction),
        [TIES],
    )


def test_gradients_reach_higher_orders():
    x = values((2, 3), 2)
    gradcheck(lambda x: (F.mean(x * x, 0) ** 2 / F.var(x)).sum(), [x], order=3, rtol=1e-5)


def test_no_grad_reductions_record_nothing():
    x = tensor([1.0, 2.0], requires_grad=True)
    with tinygen.no_grad():
        assert not any(getattr(x, name)().requires_grad for name in ("sum", "std", "max"))
