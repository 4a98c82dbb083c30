"""backward and grad: what they return, in what order ops run, and what is an error."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from helpers import leaf, values
from tinygen_kernels.cpu import matmul as cpu_matmul

import tinygen
from tinygen import Tensor, grad, no_grad, tensor
from tinygen import functional as F
from tinygen.autograd import Op, op_hook
from tinygen.gradcheck import gradcheck

from .ops import count_calls

# ---------------------------------------------------------------------------------- size and order


def test_a_chain_of_100_000_ops_forward_backward_and_deleted():
    x = y = leaf(1.0)
    for _ in range(100_000):
        y = y * 1.0  # each one keeps its input
    y.backward(retain_graph=True)
    assert x.grad.item() == 1
    del y

    y = x
    for _ in range(10_000):
        y = y * 1.0
    g = grad(y, x, create_graph=True)
    assert g.item() == 1
    del y, g


def test_every_op_runs_backward_once_after_all_of_its_consumers():
    x = y = leaf(1.0)
    for _ in range(60):  # 2**60 paths
        y = y * 0.5 + y * 0.5
    with count_calls() as calls:
        y.backward()
    assert x.grad.item() == 1
    assert len(calls.backward) == 180


def test_a_diamond_of_unequal_sides():
    gradcheck(lambda x: F.sin(x.exp() * x) + x * x * x.exp(), [values((3,), 0)], order=3)


def test_an_input_used_many_times_in_one_op():
    x = leaf(3.0)
    (x * x).backward()
    assert x.grad.item() == 6
    gradcheck(lambda x: F.cat([x, x, x * x]), [values((2,), 0)], order=2)


# ------------------------------------------------------------------------------ a weight of a loop


def recurrent(weight, x, steps=4):
    for _ in range(steps):
        x = F.linear(x, weight, activation="tanh")
    return (x * x).sum()


def test_a_weight_of_a_loop_has_one_product_for_its_gradient():
    weight, x = Tensor(values((8, 8), 0), requires_grad=True), Tensor(values((3, 8), 1))
    with mock.patch.object(cpu_matmul, "matmul", wraps=cpu_matmul.matmul) as products:
        recurrent(weight, x).backward()
    of_weights = [call.args for call in products.call_args_list if call.args[0].shape[0] == 8]
    assert [a.shape for a, _ in of_weights] == [(8, 12)]  # 4 steps of 3 rows
    # Hooks see each contribution, and so do gradients of gradients.
    for found in (
        grad(recurrent(weight, x), weight, create_graph=True),
        grad(recurrent(weight, x), weight),
        with_a_hook(lambda: grad(recurrent(weight, x), weight)),
    ):
        np.testing.assert_allclose(found.data, weight.grad.data, rtol=1e-12)


def with_a_hook(function):
    with op_hook():
        return function()


@pytest.mark.parametrize("order", [1, -1])
def test_a_weight_of_a_loop_with_other_uses(order):
    """The products meet gradients of other kinds before them, after them and in between."""
    x = Tensor(values((3, 8), 1))

    def loss(weight):
        terms = [
            lambda: recurrent(weight, x),
            lambda: (weight * weight).sum(),
            lambda: recurrent(weight.T, x),
            lambda: weight.sum(),
            lambda: recurrent(weight * 2.0, x, 2),
            lambda: F.linear(x, weight).sum(),
        ]
        total = 0.0
        for term in terms[::order]:
            total = total + term()
        return total

    gradcheck(loss, [values((8, 8), 0)], order=1)
    weight = Tensor(values((8, 8), 0), requires_grad=True)
    loss(weight).backward()
    once = weight.grad.numpy().copy()
    loss(weight).backward()
    np.testing.assert_array_equal(weight.grad.numpy(), 2 * once)


def test_a_weight_of_a_loop_in_another_precision():
    weight = Tensor(values((8, 8), 0).astype(np.float32), requires_grad=True)
    recurrent(weight, Tensor(values((3, 8), 1))).backward()
    assert weight.grad.dtype == np.float32


def test_many_rows_are_not_kept():
    """Copying them would cost more than the sums of the weight's gradients."""
    weight, x = Tensor(values((3, 3), 0), requires_grad=True), Tensor(values((5, 3), 1))
    with mock.patch.object(cpu_matmul, "matmul", wraps=cpu_matmul.matmul) as products:
        recurrent(weight, x).backward()
    assert sum(call.args[0].shape == (3, 5) for call in products.call_args_list) == 4


def test_a_gradient_that_is_an_input_is_read_before_it_is_added_to():
    """As of a learned optimizer, whose cell takes gradients."""
    for _ in range(10):  # leaves come in no fixed order
        w = Tensor(values((2, 8), 0), requires_grad=True)
        v = Tensor(values((8, 8), 1), requires_grad=True)
        (w * w).sum().backward()
        x = w.grad.numpy().copy()
        twice = F.linear(w.grad, v).sum() + F.linear(w.grad, v).sum()
        (twice + (w**3).sum()).backward()
        np.testing.assert_allclose(v.grad.numpy(), 2 * np.ones((8, 2)) @ x)


# ---------------------------------------------------------------------------------------- backward


def test_backward_accumulates_in_leaves_only():
    x, fixed = leaf(1.0, 2.0), tensor(np.array([3.0, 4.0]))
    y = x * fixed
    y.sum().backward()
    (x * 10).sum().backward()
    assert x.grad.tolist() == [13, 14]
    assert fixed.grad is None
    assert y.grad is None
    assert not x.grad.requires_grad


def test_backward_from_a_leaf():
    x = leaf(2.0)
    x.backward()
    x.backward(np.array([3.0]))
    assert x.grad.tolist() == [4]


def test_a_gradient_given_to_backward_stays_as_it_is():
    given = np.ones(2)
    for make in (lambda x: x, lambda x: x + 0.0, lambda x: x.reshape(2)):
        for g in (given, Tensor(given)):
            x = leaf(1.0, 2.0)
            make(x).backward(g)
            make(x).backward(g)
            assert x.grad.tolist() == [2, 2]
            x.grad.zero_()
            assert given.tolist() == [1, 1]


def test_the_given_gradient_takes_the_dtype_of_the_tensor():
    x = tensor([1.0, 2.0], requires_grad=True)
    x.backward(np.ones(2))
    (x * 1).backward([1.0, 2.0])
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [2, 3]
    y = tensor(1.0, requires_grad=True)
    (y + 1).backward(2.0)
    assert y.grad.item() == 2


def test_backward_needs_a_gradient_of_the_right_shape():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a gradient of that shape"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gradient of shape \(3,\) for shape \(2,\)"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(ValueError, match="depends on nothing that requires a gradient"):
        tensor([1.0]).backward()
    with no_grad():
        y = x.sum()
    with pytest.raises(ValueError, match="made inside no_grad"):
        y.backward()


def test_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(RuntimeError, match=r"Mul: .* freed .*pass retain_graph=True"):
        y.backward()


def test_module_functions_are_the_methods():
    x = leaf(1.0, 2.0)
    tinygen.backward((x * x).sum())
    assert x.grad.tolist() == [2, 4]


# -------------------------------------------------------------------------------------------- grad


def test_grad_of_leaves_and_of_values_in_between():
    x = leaf(2.0)
    h = x * x
    y = h * x
    gx, gh = grad(y, [x, h], retain_graph=True)
    assert (gx.item(), gh.item()) == (12, 2)
    assert grad(y, y).item() == 1
    assert x.grad is None


def test_grad_of_several_outputs_is_the_sum():
    x = leaf(1.0, 2.0)
    a, b = x * 3, (x * x).sum()
    g = grad([a, b], x, [np.array([1.0, 10.0]), None])
    assert g.tolist() == [5, 34]
    y = x * 3
    assert grad([y, y], x, [np.ones(2), np.ones(2)]).tolist() == [6, 6]


def test_grad_of_what_is_not_used():
    x, other = leaf(1.0), leaf(2.0)
    y = x * 2
    with pytest.raises(ValueError, match="do not depend on input 1; allow_unused=True"):
        grad(y, [x, other], retain_graph=True)
    assert grad(y, [x, other], allow_unused=True)[1] is None
    with pytest.raises(ValueError, match="input 0 does not require a gradient"):
        grad(y, tensor([1.0]))


def test_grad_runs_only_the_part_of_the_graph_that_is_asked_for():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    h = F.sin(w.exp() * x)
    y = (h * F.cos(h) * w).sum()
    with count_calls() as calls:
        grad(y, h, retain_graph=True)
    assert sorted(calls.backward) == ["Cos", "Mul", "Mul", "Sum"]
    with count_calls() as calls:
        grad(y, x)
    assert "Exp" not in calls.backward
    assert "Sin" in calls.backward


def test_no_gradient_is_computed_for_inputs_that_need_none():
    asked = []

    class Probe(Op):
        def forward(self, a, b, c):
            return a + b + c

        def backward(self, grad):
            asked.append([self.needs_grad(i) for i in range(3)])
            return grad, grad, grad

    a, b = leaf(1.0), leaf(2.0)
    y = Probe()(a, b, np.ones(1))
    grad(y, b, retain_graph=True)
    y.backward()
    assert asked == [[False, True, False], [True, True, False]]
