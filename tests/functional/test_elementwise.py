"""Arithmetic, powers, exponentials and selections."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import arrays, broadcast_arrays, check_op, check_torch
from hypothesis import given
from hypothesis import strategies as st

from tinygen import Tensor, grad, tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

UNARY = {
    # name: the domain that is drawn from
    "abs": {"kinks": [0.0]},
    "clone": {},
    "cos": {},
    "exp": {},
    "expm1": {},
    "log": {"low": 0.3, "high": 3.0},
    "log1p": {"low": -0.6, "high": 3.0},
    "neg": {},
    "sin": {},
    "sqrt": {"low": 0.3, "high": 3.0},
    "square": {},
}
NUMPY_NAMES = {"clone": "copy", "neg": "negative"}


@pytest.mark.parametrize("name", UNARY)
@given(data=st.data())
def test_functions_of_one_array(name, data):
    x = data.draw(arrays(**UNARY[name]))
    check_op(getattr(F, name), [x], getattr(np, NUMPY_NAMES.get(name, name)))


BINARY = {
    "add": (np.add, {}),
    "sub": (np.subtract, {}),
    "mul": (np.multiply, {}),
    "div": (np.divide, {"kinks": [0.0], "margin": 0.3}),
    "pow": (np.power, {"low": 0.3, "high": 2.0}),
    "maximum": (np.maximum, {}),
    "minimum": (np.minimum, {}),
}


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data())
def test_functions_of_two_arrays_that_broadcast(name, data):
    reference, options = BINARY[name]
    check_op(getattr(F, name), data.draw(broadcast_arrays(**options)), reference)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("number", [2, 0.5, np.float64(0.5), np.int64(2), True])
def test_a_number_on_either_side_keeps_the_dtype(name, number):
    function, (reference, _) = getattr(F, name), BINARY[name]
    for dtype in (np.float32, np.float64):
        x = np.linspace(0.45, 1.55, 4, dtype=dtype)
        for swap in (False, True):
            operands = (number, x) if swap else (x, number)
            out = function(*(Tensor(v) if v is x else v for v in operands))
            assert out.dtype == dtype
            np.testing.assert_allclose(out.numpy(), reference(*operands).astype(dtype), 1e-6)
    gradcheck(lambda x: function(x, number), [x], order=2)
    if not (name == "pow" and number is True):  # 1**x is constant: x is not even used
        gradcheck(lambda x: function(number, x), [x], order=2)


@given(broadcast_arrays(2), st.data())
def test_where(operands, data):
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    condition = data.draw(arrays(shape)) > 0
    check_op(
        lambda a, b: F.where(condition, a, b), operands, lambda a, b: np.where(condition, a, b)
    )
    a, b = map(Tensor, operands)
    same = F.where(Tensor(condition), a, b)
    np.testing.assert_array_equal(same.numpy(), np.where(condition, *operands))


def test_where_with_numbers_and_a_condition_that_broadcasts():
    x = tensor([[1.0, -2.0], [-3.0, 4.0]], requires_grad=True)
    out = F.where(x > 0, x, 0.0)
    assert out.dtype == np.float32
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 0], [0, 1]])
    assert F.where(x > 0, 1.0, -1.0).dtype == np.float32
    assert F.where(x > 0, 1, 0).dtype == np.int64
    assert F.where(True, x, 0.0).tolist() == x.tolist()
    gradcheck(lambda a: F.where(np.array([True, False]), a, 2.0), [x], order=2)


@given(
    arrays(kinks=[-0.5, 1.0]),
    st.sampled_from([(-0.5, 1.0), (None, 1.0), (-0.5, None), (np.float64(-0.5), np.float64(1))]),
)
def test_clip(x, limits):
    check_op(lambda x: F.clip(x, *limits), [x], lambda x: np.clip(x, *limits))


@given(arrays(low=-3.0, high=3.0, kinks=[0.0], margin=0.4), st.sampled_from([-2, -1, 0, 1, 2, 3]))
def test_integer_powers_of_either_sign(x, n):
    check_op(lambda x: x**n, [x], lambda x: x ** float(n))


@given(arrays(low=0.3), st.sampled_from([-1.5, 0.0, 0.5, 1.0, 2.5]))
def test_fractional_powers_of_positive_numbers(x, n):
    check_op(lambda x: F.pow(x, n), [x], lambda x: x**n)


def test_powers_at_zero():
    base = tensor([0.0, 0.0, 0.0, 0.0], requires_grad=True)
    exponent = tensor([0.0, 1.0, 2.0, 3.0], requires_grad=True)
    out = base**exponent
    assert out.tolist() == [1, 0, 0, 0]
    for g, expected in zip(
        grad(out.sum(), [base, exponent]), ([0, 1, 0, 0], [0] * 4), strict=True
    ):
        np.testing.assert_array_equal(g.numpy(), expected)
    for n, expected in ((0, 0), (1, 1), (2, 0)):
        x = tensor(0.0, requires_grad=True)
        assert grad(x**n, x).item() == expected
    # The mixed derivative d/db d/da a**b = a**(b - 1) (1 + b log a), here at b = 0.
    gradcheck(F.pow, [np.array([0.5, 2.0]), np.array([0.0, 0.0])], order=2)


def test_a_number_to_the_power_of_a_tensor():
    gradcheck(lambda x: 2.0**x, [np.linspace(-1, 1, 5)], order=2)
    assert (2 ** tensor([1.0, 3.0])).tolist() == [2, 8]


def test_gradients_at_kinks_are_the_documented_ones():
    def slope(function, at):
        x = tensor(at, requires_grad=True)
        return grad(function(x).sum(), x).tolist()

    assert slope(F.abs, [0.0, -0.0]) == [0, 0]
    assert slope(lambda x: F.clip(x, -1, 1), [-1.0, 1.0]) == [1, 1]
    assert slope(lambda x: F.maximum(x, 0.5), [0.5]) == [0.5]
    assert slope(lambda x: F.minimum(0.5, x), [0.5]) == [0.5]
    with np.errstate(divide="ignore"):
        assert slope(F.sqrt, [0.0]) == [math.inf]
    a, b = (tensor([1.0, 2.0, 3.0], requires_grad=True) for _ in range(2))
    for function in (F.maximum, F.minimum):
        for g in grad(function(a, b).sum(), [a, b]):
            assert g.tolist() == [0.5, 0.5, 0.5]


def test_sign_is_constant():
    x = tensor([-2.0, 0.0, 3.0], requires_grad=True)
    assert F.sign(x).tolist() == [-1, 0, 1]
    assert not F.sign(x).requires_grad
    assert F.sign(np.array([-2.0])).tolist() == [-1]


def test_astype_gives_gradients_in_the_dtype_of_the_input():
    x = tensor([1.5, -2.5], requires_grad=True)
    y = x.astype(np.float64)
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [3, -5]
    assert F.astype(x, np.int64).tolist() == [1, -2]
    gradcheck(lambda x: F.astype(x, np.float64) ** 2, [np.array([1.5, -2.5])], order=2)


def test_mixed_dtypes_promote_and_gradients_return_to_their_own():
    single = tensor([1.0, 2.0], requires_grad=True)
    double = tensor(np.array([3.0, 4.0]), requires_grad=True)
    product = single * double
    assert product.dtype == np.float64
    product.sum().backward()
    assert (single.grad.dtype, double.grad.dtype) == (np.float32, np.float64)
    assert (tensor([1, 2]) / 2).tolist() == [0.5, 1.0]


def test_clone_keeps_the_memory_order_but_not_the_memory():
    x = Tensor(np.zeros((2, 3, 4, 5)).transpose(0, 3, 1, 2))
    y = x.clone()
    assert y.data.strides == x.data.strides
    assert not np.shares_memory(x.data, y.data)


def test_to_device_cpu():
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x.to("cpu")
    (y * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]
    with pytest.raises(ValueError, match="'tpu' is no device; use 'cpu', 'cuda'"):
        F.to_device(x, "tpu")


def test_nan_and_infinity_pass_through():
    x = tensor([math.nan, math.inf, -math.inf, 0.0])
    for function in (F.exp, F.abs, F.neg, F.square, lambda x: F.clip(x, -9, 9)):
        assert math.isnan(function(x).tolist()[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        assert F.log(x).tolist()[3] == -math.inf
    assert F.clip(x, -9, 9).tolist()[1:] == [9, -9, 0]
    for function in (F.maximum, F.minimum):
        assert math.isnan(function(x, 1.0).tolist()[0])
        assert math.isnan(function(1.0, x).tolist()[0])


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "maximum", "minimum"])
def test_shapes_that_do_not_broadcast_are_explained(name):
    x, y = tensor(np.ones((2, 3))), tensor(np.ones((4,)))
    text = (
        rf"{name}: shapes \(2, 3\) and \(4,\) do not broadcast: "
        "aligned at the last axis, two sizes must be equal or one of them 1"
    )
    with pytest.raises(ValueError, match=text):
        getattr(F, name)(x, y)


def test_other_errors():
    x = tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"where: shapes \(4,\) and \(2, 3\) do not broadcast"):
        F.where(np.ones(4, bool), x, 0.0)
    with pytest.raises(ValueError, match="clip: give low, high or both"):
        x.clip()


TORCH = {
    "abs": lambda m, x, y: m.abs(x),
    "add": lambda m, x, y: x + y,
    "clip": lambda m, x, y: m.clip(x, -1.0, 2.0),
    "cos": lambda m, x, y: m.cos(x),
    "div": lambda m, x, y: x / y,
    "exp": lambda m, x, y: m.exp(x),
    "expm1": lambda m, x, y: m.expm1(x),
    "log": lambda m, x, y: m.log(x),
    "log1p": lambda m, x, y: m.log1p(x),
    "maximum": lambda m, x, y: m.maximum(x, y),
    "minimum": lambda m, x, y: m.minimum(x, y),
    "mul": lambda m, x, y: x * y,
    "pow": lambda m, x, y: m.pow(m.abs(x), m.abs(y)),
    "pow 2": lambda m, x, y: x**2,
    "pow -1.5": lambda m, x, y: m.abs(x) ** -1.5,
    "rpow": lambda m, x, y: 2.0**x,
    "sin": lambda m, x, y: m.sin(x),
    "sqrt": lambda m, x, y: m.sqrt(x),
    "square": lambda m, x, y: m.square(x),
    "sub": lambda m, x, y: 1.0 - (x - y),
    "where": lambda m, x, y: m.where(x > y, x, y * y),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_like_pytorch_at_special_values_too(name):
    torch = pytest.importorskip("torch")
    special = np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.3, -0.7, 25.0, np.inf, -np.inf])
    x, y = (v.ravel().copy() for v in np.meshgrid(special, special))
    function = TORCH[name]

    def used(m, x, y):  # so that each has a gradient
        return (
            function(m, x, y)
            + 0 * m.where(m.abs(y) < 100, y, 0.0)
            + 0 * m.where(m.abs(x) < 100, x, 0.0)
        )

    check_torch(lambda *v: used(F, *v), lambda *v: used(torch, *v), [x, y])
