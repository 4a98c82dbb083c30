"""Tensor: making one, operators, comparisons, conversion, writes in place."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from helpers import arrays, broadcast_arrays, values
from hypothesis import given
from hypothesis import strategies as st

import tinygen
from tinygen import Tensor, grad, no_grad, tensor
from tinygen import functional as F

ARITHMETIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

# -------------------------------------------------------------------------------------- making one


def test_python_floats_are_float32_and_arrays_keep_their_dtype():
    assert tensor(1.5).dtype == np.float32
    assert tensor([[1.0, 2.0], [3.0, 4.0]]).dtype == np.float32
    assert tensor([1, 2]).dtype == np.int64
    assert tensor([True]).dtype == np.bool_
    assert tensor(np.zeros(2)).dtype == np.float64
    assert tensor(np.float64(1.5)).dtype == np.float64
    assert tensor(np.zeros(2), dtype=np.float32).dtype == np.float32
    assert tensor([tensor(1.0), tensor(2.0)]).tolist() == [1, 2]


def test_tensor_copies_and_the_constructor_does_not():
    array = np.zeros(3)
    copied, shared = tensor(array), Tensor(array)
    array[0] = 7
    assert copied.tolist() == [0, 0, 0]
    assert shared.tolist() == [7, 0, 0]
    again = tensor(shared)
    shared.fill_(1)
    assert again.tolist() == [7, 0, 0]


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="tensor: expected numbers, got list"):
        tensor(["a", "b"])
    with pytest.raises(TypeError, match="expected a floating-point tensor, got int64"):
        tensor([1, 2], requires_grad=True)


def test_requires_grad_can_be_switched_on_leaves_only():
    x = tensor([1.0])
    assert x.requires_grad_().requires_grad
    y = x * 2
    assert (x.is_leaf, y.is_leaf) == (True, False)
    with pytest.raises(ValueError, match="only a leaf can be switched off"):
        y.requires_grad = False
    x.requires_grad = False
    assert not (x * 2).requires_grad


# --------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("symbol", ARITHMETIC)
@given(operands=broadcast_arrays(low=0.3, high=2.0))
def test_arithmetic_of_tensors_and_arrays_on_either_side(symbol, operands):
    apply = ARITHMETIC[symbol]
    a, b = operands
    expected = apply(a, b)
    for left, right in ((Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b))):
        got = apply(left, right)
        assert isinstance(got, Tensor)
        np.testing.assert_allclose(got.numpy(), expected, 1e-14)


@pytest.mark.parametrize("symbol", ARITHMETIC)
@pytest.mark.parametrize("number", [2, 0.5, True, np.float64(0.5), np.int64(3), np.float32(2)])
def test_arithmetic_with_scalars_on_either_side(symbol, number):
    apply = ARITHMETIC[symbol]
    for dtype in (np.float32, np.float64):
        x = np.array([0.5, 1.0, 2.5], dtype)
        for got, expected in (
            (apply(Tensor(x), number), apply(x, dtype(number))),
            (apply(number, Tensor(x)), apply(dtype(number), x)),
        ):
            assert isinstance(got, Tensor)
            assert got.dtype == dtype
            np.testing.assert_allclose(got.numpy(), expected, 1e-6)


@pytest.mark.parametrize("symbol", COMPARISONS)
@given(operands=broadcast_arrays(), number=st.sampled_from([0, 0.5, np.float64(0.5)]))
def test_comparisons(symbol, operands, number):
    compare = COMPARISONS[symbol]
    a, b = operands
    x = Tensor(a, requires_grad=True)
    for got, expected in (
        (compare(x, Tensor(b)), compare(a, b)),
        (compare(x, b), compare(a, b)),
        (compare(a, Tensor(b)), compare(a, b)),
        (compare(x, number), compare(a, number)),
        (compare(number, x), compare(number, a)),
    ):
        assert isinstance(got, Tensor)
        assert (got.dtype, got.requires_grad) == (np.bool_, False)
        np.testing.assert_array_equal(got.numpy(), expected)


def test_logic_of_boolean_tensors():
    a, b = tensor([True, True, False]), tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, False]
    assert (a ^ b).tolist() == [False, True, False]
    assert (~a).tolist() == [False, False, True]
    assert (np.array([True] * 3) & a).tolist() == [True, True, False]


def test_unary_operators_and_matmul():
    x = tensor([[1.0, -2.0]])
    assert (-x).tolist() == [[-1, 2]]
    assert abs(x).tolist() == [[1, 2]]
    assert (x @ x.T).tolist() == [[5]]
    assert (np.ones((3, 1), np.float32) @ x).shape == (3, 2)
    assert (x @ np.ones((2, 3), np.float32)).shape == (1, 3)


METHODS = {
    "abs": (),
    "argmax": (1,),
    "argmin": (0,),
    "chunk": (2, 1),
    "clamp": (0.4, 0.7),
    "clip": (0.4, 0.7),
    "cumsum": (1,),
    "exp": (),
    "expand": (2, 3, 4),
    "flatten": (),
    "flip": (0,),
    "gather": (1, [[0], [3], [1]]),
    "log": (),
    "max": (1, True),
    "mean": (0,),
    "min": (1,),
    "permute": (1, 0),
    "pow": (2.0,),
    "reshape": (4, 3),
    "roll": (1, 0),
    "split": (2, 0),
    "sqrt": (),
    "squeeze": (),
    "std": (1,),
    "sum": (0, True),
    "transpose": (0, 1),
    "unsqueeze": (1,),
    "var": (1,),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_the_functions(name):
    x = Tensor(values((3, 4), 0, low=0.2, high=1.0), requires_grad=True)
    function = getattr(F, "clip" if name == "clamp" else name)
    got, expected = getattr(x, name)(*METHODS[name]), function(x, *METHODS[name])
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        assert a.tolist() == b.tolist()
        assert a.requires_grad == b.requires_grad


def test_properties():
    x = tensor(np.zeros((2, 3, 4), np.float32))
    assert (x.shape, x.ndim, x.size, x.dtype) == ((2, 3, 4), 3, 24, np.float32)
    assert (x.device, x.T.shape, len(x)) == ("cpu", (4, 3, 2), 2)


def test_conversion_of_dtype():
    x = tensor([1.5])
    assert x.double().dtype == np.float64
    assert x.double().float().dtype == np.float32
    assert x.astype(np.float32) is x
    assert x.to(np.int64).tolist() == [1]
    assert x.to("float64").dtype == np.float64


# ------------------------------------------------------------------------------ to and from others


def test_numpy_shares_memory():
    x = tensor([1.0, 2.0])
    x.numpy()[0] = 5
    assert x.tolist() == [5, 2]
    with pytest.raises(RuntimeError, match=r"use x\.detach\(\)\.numpy\(\)"):
        tensor([1.0], requires_grad=True).numpy()


def test_array_protocol():
    x = tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, np.float64).dtype == np.float64
    assert np.array(x, copy=False) is not None
    with pytest.raises(ValueError, match="float32 as float64 needs a copy"):
        np.array(x, np.float64, copy=False)
    np.testing.assert_allclose(x, [1, 2])
    with pytest.raises(RuntimeError, match="requires a gradient"):
        np.asarray(x.requires_grad_())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_dlpack_shares_memory_both_ways(dtype):
    x = tensor(np.zeros((2, 3), dtype))
    array = np.from_dlpack(x.T)
    assert array.shape == (3, 2)
    x.fill_(1)
    assert array.all()
    y = tinygen.from_dlpack(x)
    y.zero_()
    assert not array.any()
    with pytest.raises(BufferError, match=r"export x\.detach\(\)"):
        np.from_dlpack(tensor([1.0], requires_grad=True))


def test_dlpack_with_pytorch():
    torch = pytest.importorskip("torch")
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    theirs = torch.from_dlpack(x)
    theirs[0, 0] = 7
    assert x.tolist() == [[7, 2], [3, 4]]
    ours = tinygen.from_dlpack(theirs.T)
    assert ours.tolist() == [[7, 3], [2, 4]]


def test_one_element_as_a_number():
    x = tensor([[2.5]])
    assert (x.item(), float(x), int(x), f"{x.sum():.2f}") == (2.5, 2.5, 2, "2.50")
    assert isinstance(tensor(3).item(), int)
    assert range(5)[tensor(3)] == 3
    assert bool(tensor(0.0)) is False
    assert bool(tensor([1])) is True
    two = tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"item: shape \(2,\) holds 2 values, not 1"):
        two.item()
    with pytest.raises(ValueError, match=r"truth of a tensor of shape \(2,\) is ambiguous"):
        bool(two)
    with pytest.raises(TypeError, match="expected an integer tensor as an index, got float32"):
        range(5)[tensor(1.0)]


def test_as_a_sequence():
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    a, b = x
    assert (a.tolist(), b.tolist(), len(x)) == ([1, 2], [3, 4], 2)
    assert grad((a * b).sum(), x).tolist() == [[3, 4], [1, 2]]
    assert 3.0 in tensor([1.0, 3.0])
    with pytest.raises(TypeError, match=r"len\(\) of a 0-d tensor"):
        list(tensor(1.0))


def test_hash_is_by_identity():
    x, y = tensor([1.0]), tensor([1.0])
    assert {x: 1, y: 2}[x] == 1
    assert len({x, y, x}) == 2


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (tensor(3), "tensor(3)"),
        (tensor([True]), "tensor([ True])"),
        (tensor(np.ones(1)), "tensor([1.], dtype=float64)"),
        (tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (tensor([1.0], requires_grad=True) * 2, "tensor([2.], from=Mul)"),
        (tensor(np.zeros((0, 3), np.float32)), "tensor([], shape=(0, 3))"),
    ],
)
def test_repr(x, text):
    assert repr(x) == text
    assert f"{x}" == text


def test_repr_of_large_tensors_is_short():
    assert len(repr(tensor(np.zeros((100, 100))))) < 1000


# --------------------------------------------------------------------------------- writes in place


@given(arrays((3, 4)))
def test_writes_in_place_do_what_numpy_does(x):
    row, expected = np.arange(1.0, 5.0), x.copy(order="K")
    for method, ours, theirs in (
        ("add_", row, lambda a: a + row),
        ("sub_", row[:1], lambda a: a - row[:1]),
        ("mul_", 2.0, lambda a: a * 2),
        ("div_", row, lambda a: a / row),
        ("copy_", row, lambda a: a * 0 + row),
        ("fill_", 3.0, lambda a: a * 0 + 3),
    ):
        y = Tensor(x.copy(order="K"))
        memory = y.data
        assert getattr(y, method)(Tensor(ours) if isinstance(ours, np.ndarray) else ours) is y
        assert np.shares_memory(y.data, memory)
        np.testing.assert_allclose(y.numpy(), theirs(expected), 1e-14)
    y = tensor(x).add_(row, alpha=-0.5).clip_(-1, 1)
    np.testing.assert_allclose(y.numpy(), np.clip(x - 0.5 * row, -1, 1), 1e-14)
    assert not y.zero_().numpy().any()


def test_setitem():
    x = tensor(np.zeros((3, 4), np.float32))
    x[0] = 1
    x[1:, ::2] = tensor([5.0, 6.0])
    x[x == 0] = -1
    x[tensor([2]), tensor([3])] = 9
    assert x.tolist() == [[1, 1, 1, 1], [5, -1, 6, -1], [5, -1, 6, 9]]
    x[0] += 1
    assert x[0].tolist() == [2, 2, 2, 2]


def test_a_write_to_a_tensor_on_the_tape_is_refused():
    x = tensor([1.0, 2.0], requires_grad=True)
    for write in (
        lambda: x.add_(1),
        lambda: x.fill_(0),
        lambda: x.__setitem__(0, 1.0),
        lambda: (x * 1).mul_(2),
        lambda: operator.iadd(x, 1),
    ):
        with pytest.raises(
            RuntimeError, match=r"not recorded; .* or write inside tinygen.no_grad"
        ):
            write()
    assert x.tolist() == [1, 2]
    y = tensor([0.0, 0.0])
    with pytest.raises(RuntimeError, match="the written value requires a gradient"):
        y[0] = x[0]
    with pytest.raises(RuntimeError, match="the written value requires a gradient"):
        y.copy_(x)


@pytest.mark.parametrize("symbol", ["iadd", "isub", "imul", "itruediv"])
def test_augmented_assignment_writes_in_place_where_nothing_is_recorded(symbol):
    apply = getattr(operator, symbol)
    x = tensor([2.0, 4.0])
    y = apply(x, 2.0)
    assert y is x
    weight = tensor([2.0, 4.0], requires_grad=True)
    with no_grad():
        same = apply(weight, weight * 0.5)
    assert same is weight
    assert weight.requires_grad
    assert weight.tolist() == apply(np.array([2.0, 4.0]), np.array([1.0, 2.0])).tolist()


@pytest.mark.parametrize("symbol", ["iadd", "isub", "imul", "itruediv"])
def test_augmented_assignment_makes_a_new_tensor_where_something_is_recorded(symbol):
    apply = getattr(operator, symbol)
    x = tensor([2.0, 4.0], requires_grad=True)
    total = start = tensor([1.0, 1.0])
    total = apply(total, x)  # a constant that takes in what is recorded
    total = apply(total, 3.0)  # a recorded value that takes in a constant
    assert start.tolist() == [1, 1]
    assert total.requires_grad
    assert np.isfinite(grad(total.sum(), x).numpy()).all()


def test_augmented_power_and_matmul_make_new_tensors():
    x = y = tensor([[2.0]])
    y **= 2
    y @= x
    assert (x.tolist(), y.tolist()) == ([[2]], [[8]])


def test_set_data_is_for_leaves():
    x = tensor([1.0, 2.0], requires_grad=True)
    x.set_data(np.zeros(3))
    assert (x.shape, x.dtype, x.requires_grad) == ((3,), np.float64, True)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="only a leaf"):
        (x * 2).set_data(np.zeros(3))


def test_detach_and_clone():
    x = tensor([1.0, 2.0], requires_grad=True)
    d, c = x.detach(), x.clone()
    assert (d.requires_grad, c.requires_grad) == (False, True)
    assert np.shares_memory(d.data, x.data)
    assert not np.shares_memory(c.data, x.data)


def test_operands_of_the_wrong_type():
    x = tensor([1.0])
    for operand in ("a", None, object()):
        with pytest.raises(TypeError):
            x + operand
