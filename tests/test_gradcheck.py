"""The gradient checker must pass what is right and find what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout, values

from tinygen import Tensor, no_grad, tensor
from tinygen import functional as F
from tinygen.autograd import Op
from tinygen.gradcheck import gradcheck


class Faulty(Op):
    """x³ with a gradient of our choice."""

    def __init__(self, slope):
        self.slope = slope

    def forward(self, x):
        self.save(x)
        return x**3

    def backward(self, grad):
        (x,) = self.saved
        return self.slope(grad, x)


def test_a_right_gradient_passes_at_every_order():
    gradcheck(lambda x: Faulty(lambda g, x: g * 3 * x * x)(x), [values((4, 5), 0)], order=3)


@pytest.mark.parametrize(
    "slope",
    [
        lambda g, x: g * 3.0001 * x * x,
        lambda g, x: 3 * x * x,  # without what comes in
        lambda g, x: -g * 3 * x * x,
        lambda g, x: g * 0,
        lambda g, x: g * np.nan,
        lambda g, x: None,
        lambda g, x: (g * 3 * x * x)[::-1],
    ],
)
def test_a_wrong_gradient_is_found(slope):
    text = (
        r"gradcheck of power, order 1, input 1 of shape \(20, 1\): along a random direction the "
        r"gradient is \S+, the central difference \S+; allowed difference \S+"
    )

    def power(a, x):
        return a * Faulty(slope)(x)

    with pytest.raises(AssertionError, match=text.replace("power", ".*power")):
        gradcheck(power, [np.ones(1), values((20, 1), 0)])


@pytest.mark.parametrize("seed", range(5))
def test_one_wrong_value_among_thousands_is_found(seed):
    def slope(grad, x):
        result = grad * 3 * x * x
        result[seed, 7] *= 1.5
        return result

    with pytest.raises(AssertionError):
        gradcheck(lambda x: Faulty(slope)(x), [values((50, 60), 0)], seed=seed)


def test_a_gradient_that_is_not_differentiable_again_is_found():
    def constant_in_x(grad, x):
        return grad * 3 * np.square(np.asarray(x.data if isinstance(x, Tensor) else x))

    function = Faulty(constant_in_x)
    gradcheck(lambda x: Faulty(constant_in_x)(x), [values((3,), 0)])
    with pytest.raises(AssertionError, match=r"order 2, input 0 of shape \(3,\)"):
        gradcheck(lambda x: Faulty(constant_in_x)(x), [values((3,), 0)], order=2)

    def constant_in_grad(grad, x):
        return Tensor(grad.data) * 3 * x * x if isinstance(grad, Tensor) else grad * 3 * x * x

    with pytest.raises(AssertionError, match=r"order 2, gradient of shape \(3,\) coming into"):
        gradcheck(lambda x: Faulty(constant_in_grad)(x), [values((3,), 0)], order=2)
    assert function.name == "Faulty"


def test_gradients_that_differ_between_the_two_modes_are_found():
    def slope(grad, x):
        return grad * 3 * x * x * (1.01 if isinstance(grad, Tensor) else 1)

    with pytest.raises(
        AssertionError, match=r"without and with create_graph differ by up to 0\.0"
    ):
        gradcheck(lambda x: Faulty(slope)(x), [values((3,), 0)], order=2)


def test_a_kink_shows_in_the_message():
    with pytest.raises(AssertionError, match=r"one-sided differences: .*0.* this is a kink"):
        gradcheck(F.abs, [np.zeros(1) + 1e-7])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_inputs_keep_their_layout(layout):
    seen = []

    def function(x):
        seen.append(x.data.strides)
        return x * x

    x = in_layout(values((2, 3, 4), 0), layout)
    gradcheck(function, [x])
    assert seen[0] == x.strides


def test_what_is_checked_and_what_is_passed_as_it_is():
    index, weight = np.array([0, 2, 2]), tensor([[1.0], [2.0], [3.0]])
    gradcheck(
        lambda i, w, scale, n: F.embedding(i, w) * scale, [index, weight, 2.0, None], order=2
    )
    assert (weight.dtype, weight.grad) == (np.float32, None)
    gradcheck(lambda x: (x * 2, x.argmax(), [1] and x * x), np.ones(3))
    gradcheck(F.exp, [np.zeros((0, 3))], order=2)
    with no_grad():
        gradcheck(F.exp, [np.zeros(2)], order=2)
