"""Gradients of gradients: a backward pass that records itself, and composites of fused ops."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import leaf, values

from tinygen import Tensor, grad, no_grad, tensor
from tinygen.autograd import Op
from tinygen.gradcheck import gradcheck

from .ops import Cube, count_calls, overwritten

# ------------------------------------------------------------------------------------ create_graph


def test_first_order_gradients_record_nothing():
    x = leaf(1.0, 2.0)
    y = (x.exp() * x).sum()
    with count_calls() as calls:
        g = grad(y, x)
    assert calls.forward == []
    assert not g.requires_grad


def test_create_graph_to_the_fourth_order():
    x = leaf(0.7)
    derivatives = [x**5 + x.exp()]
    for _ in range(4):
        derivatives.append(grad(derivatives[-1], x, create_graph=True))
    factors = [1, 5, 20, 60, 120]
    for n, (value, factor) in enumerate(zip(derivatives, factors, strict=True)):
        assert value.item() == pytest.approx(factor * 0.7 ** (5 - n) + np.exp(0.7), rel=1e-14)


def test_backward_through_a_gradient_penalty():
    w = leaf(0.5, -1.5)
    x = leaf(1.0, 2.0)
    (g,) = grad((w * x * x).sum(), [x], create_graph=True)
    ((g * g).sum() * 0.5).backward()
    np.testing.assert_allclose(w.grad.numpy(), 4 * w.detach().numpy() * x.detach().numpy() ** 2)


def test_backward_with_create_graph_leaves_gradients_on_the_tape():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    assert x.grad.requires_grad
    assert grad(x.grad, x).item() == 18


def test_a_detached_factor_stays_constant_in_higher_orders():
    x = leaf(1.0, 2.0)
    for constant in (x.detach(), Tensor(x.data)):
        (g,) = grad((x * constant).sum(), [x], create_graph=True)
        assert g.tolist() == [1, 2]
        assert grad((g * x).sum(), x).tolist() == [1, 2]


def test_the_gradient_for_a_tensor_that_shares_its_array_with_another():
    x = leaf(1.0, 2.0)
    alias = x.to("cpu")
    (g,) = grad((x * alias).sum(), [alias], create_graph=True)
    assert grad(g.sum(), x).tolist() == [1, 1]


# -------------------------------------------------------------------------------------- composites


class Product(Op):
    """a b² and a + b, fused, for two inputs and with two outputs."""

    @staticmethod
    def composite(a, b):
        return a * b * b, a + b

    def forward(self, a, b):
        self.save(a, b)
        return a * b * b, a + b

    def backward(self, first, second):
        a, b = self.saved
        first = np.zeros(a.shape) if first is None else first
        second = np.zeros(a.shape) if second is None else second
        return np.multiply(first, b * b) + second, np.multiply(first, 2 * a * b) + second


def test_a_composite_gives_gradients_of_gradients():
    gradcheck(lambda x: Cube()(x), [values((3,), 0)], order=3)
    gradcheck(lambda a, b: Product()(a, b), [values((3,), 0), values((3,), 1)], order=3)


@pytest.mark.parametrize("used", [0, 1])
def test_a_composite_with_one_output_used(used):
    inputs = [values((3,), 0), values((3,), 1)]
    gradcheck(lambda a, b: Product()(a, b)[used], inputs, order=2)


def test_a_composite_whose_inputs_depend_on_each_other():
    gradcheck(lambda x: Product()(x, x), [values((3,), 0)], order=3)
    gradcheck(lambda x: Product()(x, x.exp()), [values((3,), 0)], order=3)
    gradcheck(lambda x: Product()(x * x, x), [values((3,), 0)], order=2)


def test_a_composite_for_one_of_its_inputs():
    a, b = leaf(2.0), leaf(3.0)
    first, _ = Product()(a, b)
    g = grad(first, b, create_graph=True)
    assert g.item() == 12
    assert [v.item() for v in grad(g, [a, b])] == [6, 4]


@pytest.mark.parametrize("b", [leaf(3.0), tensor([3.0])])
def test_a_composite_with_an_output_that_does_not_depend_on_the_input(b):
    class Apart(Op):
        composite = staticmethod(lambda a, b: (a * a, b * b))

        def forward(self, a, b):
            self.save(a, b)
            return a * a, b * b

        def backward(self, first, second):
            a, b = self.saved
            return (
                np.multiply(first, 2 * a) if self.needs_grad(0) else None,
                np.multiply(second, 2 * b) if self.needs_grad(1) else None,
            )

    a = leaf(2.0)
    first, second = Apart()(a, b)
    g = grad(first + second, a, create_graph=True)
    assert g.item() == 4
    assert grad(g, a).item() == 2


def test_a_composite_catches_writes_and_freed_graphs():
    x = leaf(1.0, 2.0)
    h = x * 1
    y = Cube()(h).sum()
    with no_grad():
        h.fill_(7)
    with pytest.raises(RuntimeError, match=overwritten("Cube")):
        grad(y, x, create_graph=True)

    y = Cube()(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"Cube: .* freed by an earlier backward"):
        grad(y, x, create_graph=True)
