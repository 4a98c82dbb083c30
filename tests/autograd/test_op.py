"""Ops of other kinds: with several outputs, without a gradient, with a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import leaf, values

from tinygen import grad, no_grad
from tinygen.autograd import Op
from tinygen.gradcheck import gradcheck

from .ops import Both


class ExpAndSquare(Op):
    """(e^x, x², and x + e^x): keeps its input and its first output."""

    def forward(self, x):
        out = np.exp(x)
        self.save(x, out)
        return out, x * x, x + out

    def backward(self, *grads):
        x, out = self.saved
        slopes = (lambda: out, lambda: 2 * x, lambda: 1 + out)
        terms = [g * slope() for g, slope in zip(grads, slopes, strict=True) if g is not None]
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return result


def test_several_outputs_all_used():
    gradcheck(lambda x: ExpAndSquare()(x), [values((3,), 0)], order=3)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_several_outputs_partly_used(used):
    gradcheck(lambda x: [ExpAndSquare()(x)[i] for i in used], [values((3,), 0)], order=2)


def test_several_outputs_used_more_than_once():
    def function(x):
        a, b, c = ExpAndSquare()(x)
        return a * b + b * b + a.sum() * c

    gradcheck(function, [values((3,), 0)], order=2)


def test_an_op_that_returns_a_tuple_of_one():
    class Single(Op):
        def forward(self, x):
            return (3 * x,)

        def backward(self, g):
            return 3 * g

    gradcheck(lambda x: Single()(x), [values((3,), 0)], order=2)


def test_grad_of_one_of_several_outputs():
    x = leaf(1.0, 2.0)
    a, b = Both()(x)
    y = a * b
    ga, gb = grad(y, [a, b], np.ones(2))
    assert (ga.tolist(), gb.tolist()) == ([2, 4], [1, 2])


def test_outputs_of_ops_that_record_nothing_are_tensors():
    with no_grad():
        a, b = Both()(leaf(1.0))
    assert (a.item(), b.item(), a.requires_grad, b.requires_grad) == (1, 2, False, False)
    assert [v.tolist() for v in Both()(np.ones(1))] == [[1], [2]]


def test_an_op_without_a_gradient_says_so():
    class Round(Op):
        def forward(self, x):
            return np.round(x)

    x = leaf(1.4)
    y = Round()(x)
    assert y.item() == 1
    with pytest.raises(NotImplementedError, match="Round has no gradient"):
        y.backward()


def test_a_backward_of_the_wrong_number_or_shape_is_an_error():
    class Wrong(Op):
        def __init__(self, result):
            self.result = result

        def forward(self, x):
            return 2 * x

        def backward(self, grad):
            return self.result

    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"Wrong.backward returned 2 gradients for 1 inputs"):
        Wrong((np.ones(2), np.ones(2)))(x).sum().backward()
    with pytest.raises(RuntimeError, match=r"returned shape \(3,\) for an input of \(2,\)"):
        Wrong(np.ones(3))(x).sum().backward()
