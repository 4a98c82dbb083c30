"""Memory: gradients that share none, graphs and arrays that are freed in time."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
from helpers import leaf

from tinygen import functional as F
from tinygen import grad, no_grad
from tinygen.autograd import Op

from .ops import Both, Cube, overwritten

# ----------------------------------------------------------------------------------- shared memory


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a + b.reshape(2, 1).reshape(2),
        lambda a, b: a.reshape(2, 1) + b.reshape(2, 1),
        lambda a, b: a.clone() + b.clone(),
        lambda a, b: F.cat([a, b]),
        lambda a, b: F.stack([a, b]),
        lambda a, b: (a + b).expand(3, 2),
        lambda a, b: a + a + b + b,
    ],
)
def test_gradients_of_leaves_never_share_memory(function, create_graph):
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    out = function(a, b)
    given = np.ones(out.shape)
    out.backward(given, create_graph=create_graph)
    before = b.grad.tolist()
    with no_grad():
        a.grad.fill_(77)
    assert b.grad.tolist() == before
    assert (given == 1).all()
    assert not np.shares_memory(a.grad.data, b.grad.data)


def test_gradients_of_leaves_behind_ops_that_return_one_array_twice_share_no_memory():
    class Double(Op):
        def forward(self, a, b):
            return 2 * (a + b)

        def backward(self, grad):
            doubled = 2 * grad
            return doubled, doubled

    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    Double()(a, b).sum().backward()
    a.grad.fill_(77)
    assert b.grad.tolist() == [2, 2]


def test_gradients_of_leaves_behind_ops_with_several_outputs_share_no_memory():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    out = Both()(a)[0] + Both()(b)[0]
    out.backward(np.ones(2))
    a.grad.fill_(77)
    assert b.grad.tolist() == [1, 1]


def test_gradients_from_grad_can_be_written_to():
    x = leaf(1.0, 2.0)
    h, k = x * 1, x * 2
    g, f = grad((h + k).sum(), [h, k])
    g.fill_(77)
    assert f.tolist() == [1, 1]


def test_accumulating_into_a_grad_leaves_other_graphs_alone():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    for _ in range(3):
        (a + b).sum().backward()
    a.grad += 1
    (a * b).sum().backward()
    assert a.grad.tolist() == [7, 8]
    assert b.grad.tolist() == [4, 5]

    (a**3).sum().backward(create_graph=True)  # a gradient on the tape ...
    on_tape = a.grad
    total = (on_tape * on_tape).sum()
    (a * 5).sum().backward()  # ... is not the place to accumulate in
    assert on_tape.tolist() == [10, 20]
    assert a.grad.tolist() == [15, 25]
    assert grad(total, a).tolist() == [2 * 10 * 6, 2 * 20 * 12]


def test_accumulating_into_a_grad_that_a_graph_needs_is_caught():
    a, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (a * 2).sum().backward()
    y = (a.grad * w).sum()
    (a * 2).sum().backward()
    with pytest.raises(RuntimeError, match=overwritten("Mul")):
        y.backward()


def test_a_copied_tensor_is_a_leaf_of_its_own():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    assert np.shares_memory(copy.copy(x).data, x.data)
    assert not np.shares_memory(copy.deepcopy(x).data, x.data)
    with pytest.raises(ValueError, match="deepcopy: only leaves can be copied"):
        copy.deepcopy(x * 2)
    for other in (copy.deepcopy(x), copy.copy(x)):
        other.grad = None
        (other * 3).sum().backward()
        assert other.grad.tolist() == [3, 3]
    assert x.grad.tolist() == [2, 2]


# ---------------------------------------------------------------------------------------- lifetime


def graph_is_freed(make) -> bool:
    """Whether what `make` returns is freed by reference counts alone."""
    gc.collect()
    gc.disable()
    try:
        refs = make()
        return all(ref() is None for ref in refs)
    finally:
        gc.enable()


def test_no_reference_cycle_keeps_a_graph_alive():
    def unused():
        y = leaf(1.0).exp().sqrt() * 2
        return [weakref.ref(y), weakref.ref(y.node)]

    def after_backward():
        x = leaf(1.0, 2.0)
        y = (x.exp() * x).sum()
        y.backward()
        return [weakref.ref(v) for v in (x, y, y.node, x.node, x.grad)]

    def of_higher_order():
        x = leaf(1.0, 2.0)
        (g,) = grad((x.exp() ** 2).sum(), [x], create_graph=True)
        (h,) = grad(g.sum(), [x], create_graph=True)
        return [weakref.ref(v) for v in (x, g, h, g.node, h.node)]

    def several_outputs():
        a, b = Both()(leaf(1.0))
        return [weakref.ref(v) for v in (a, b, a.node, b.node, a.node.parents[0])]

    def fused():
        x = leaf(1.0)
        y = Cube()(x)
        g = grad(y, x, create_graph=True)
        return [weakref.ref(v) for v in (x, y, g, y.node, g.node)]

    for make in (unused, after_backward, of_higher_order, several_outputs, fused):
        assert graph_is_freed(make), make.__name__


def test_saved_arrays_are_freed_by_backward_while_the_loss_lives():
    x = leaf(*np.linspace(0, 1, 100))
    kept = []

    def forward():
        h = x.exp()
        kept.append(weakref.ref(h.data))
        a = F.abs(x - 50.0)
        kept.append(weakref.ref(a.node._saved[0][0]))
        return (h * h + a).sum()

    loss = forward()
    assert all(ref() is not None for ref in kept)
    loss.backward()
    assert all(ref() is None for ref in kept)


def test_a_leaf_that_is_gone_is_skipped():
    x, y = leaf(1.0), leaf(2.0)
    z = x + y
    del y
    z.backward()
    assert x.grad.item() == 1
