"""The tape: order, lifetime, modes, in-place writes, ops of every kind."""

from __future__ import annotations

import copy
import gc
import re
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from helpers import values

import tinygen
from tinygen import Tensor, enable_grad, grad, is_grad_enabled, no_grad, tensor
from tinygen import functional as F
from tinygen.autograd import Op, op_hook
from tinygen.gradcheck import gradcheck


def leaf(*numbers: float) -> Tensor:
    return tensor(np.array(numbers), requires_grad=True)


class count_calls(op_hook):
    """Names of the ops whose forward and backward ran."""

    def __init__(self):
        self.forward: list[str] = []
        self.backward: list[str] = []

    def after(self, op, phase, arrays):
        getattr(self, phase).append(op.name)


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


# ------------------------------------------------------------------------------- backward and grad


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


# -------------------------------------------------------------------------- shared memory of grads


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a + b.reshape(2, 1).reshape(2),
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


# --------------------------------------------------------------------------------- in-place writes


def overwritten(op: str) -> str:
    return rf"{op} at .*test_autograd.py:\d+ needs an array .*overwritten .*test_autograd.py:\d+"


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.fill_(0),
        lambda x: x.add_(1),
        lambda x: x.copy_(np.zeros(2)),
        lambda x: x.__setitem__(0, 5.0),
        lambda x: x[1:].zero_(),
        lambda x: x.detach().mul_(2),
        lambda x: x.reshape(2, 1).T.clip_(0, 1),
        lambda x: x.split(1)[0].sub_(1),
    ],
)
def test_a_write_to_a_saved_input_is_caught_through_any_view(write):
    x = leaf(1.0, 2.0)
    h = x * 1
    y = (h * h).sum()
    with no_grad():
        write(h)
    with pytest.raises(RuntimeError, match=overwritten("Mul")):
        y.backward()


def test_a_write_to_a_saved_output_is_caught():
    for name in ("exp", "sqrt", "expm1"):
        x = leaf(1.0, 2.0)
        y = getattr(F, name)(x)
        with no_grad():
            y += 1
        with pytest.raises(RuntimeError, match=overwritten(name.capitalize())):
            y.sum().backward()


def test_a_write_to_the_base_is_caught_by_what_saved_the_view():
    x = leaf(1.0, 2.0)
    h = x * 1
    y = (h[:1] * h[1:]).sum()
    with no_grad():
        h.zero_()
    with pytest.raises(RuntimeError, match=overwritten("Mul")):
        y.backward()


def test_both_lines_are_named():
    x = leaf(1.0)
    y = x.exp()  # line a
    with no_grad():
        y *= 2  # line b
    lines = Path(__file__).read_text().split("\n")
    made, written = (
        next(i for i, s in enumerate(lines, 1) if s.endswith(end))
        for end in ("# line a", "# line b")
    )
    with pytest.raises(RuntimeError) as error:
        y.backward()
    assert re.findall(r"test_autograd.py:(\d+)", str(error.value)) == [str(made), str(written)]


def test_writes_to_what_no_gradient_needs_are_fine():
    x = leaf(1.0, 2.0)
    h = x * 2.0
    y = h + 1.0
    with no_grad():
        h.zero_()
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_an_optimizer_step_between_forward_and_backward_is_caught():
    w = leaf(1.0, 2.0)
    loss = (w * w).sum()
    with no_grad():
        w -= 0.1 * w
    with pytest.raises(RuntimeError, match=overwritten("Mul")):
        loss.backward()


def test_gradients_are_taken_at_the_old_data_of_a_leaf_that_was_given_new():
    for replace in (Tensor.set_data, lambda w, data: setattr(w, "data", data)):
        w = leaf(1.0, 2.0)
        loss = (w * w).sum()
        replace(w, np.array([10.0, 20.0]))
        loss.backward()
        assert w.grad.tolist() == [2, 4]
        assert w.tolist() == [10, 20]


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


# ------------------------------------------------------------------------------------------- modes


def test_no_grad_and_enable_grad_nest():
    x = leaf(1.0)
    assert is_grad_enabled()
    with no_grad():
        assert not (x * 2).requires_grad
        with enable_grad():
            assert (x * 2).requires_grad
            with no_grad():
                assert not is_grad_enabled()
            assert is_grad_enabled()
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_modes_end_with_an_exception():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()
    x = leaf(1.0)

    class Broken(Op):
        def forward(self, x):
            return x

        def backward(self, grad):
            raise KeyError

    with pytest.raises(KeyError):
        Broken()(x).backward(create_graph=True)
    assert is_grad_enabled()
    with count_calls() as calls:
        grad(x.exp(), x)
    assert calls.forward == ["Exp"]  # of the call above, none of the backward


def test_modes_as_decorators():
    @no_grad()
    def double(x, *, times=2):
        """Its docstring."""
        return x * times

    @enable_grad()
    def triple(x):
        return x * 3

    x = leaf(1.0)
    assert not double(x, times=2).requires_grad
    assert double.__doc__ == "Its docstring."
    with no_grad():
        assert triple(x).requires_grad


def test_one_mode_object_can_be_entered_again_inside_itself():
    off = no_grad()
    with off:
        with off:
            pass
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_modes_and_hooks_belong_to_their_thread():
    seen = []

    def other():
        x = leaf(1.0)
        y = x.exp()
        y.backward()
        seen.append((is_grad_enabled(), y.requires_grad, x.grad.item()))

    with no_grad(), count_calls() as calls:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [(True, True, np.exp(1.0))]
    assert calls.forward == calls.backward == []


def test_threads_backward_side_by_side():
    results: dict[int, float] = {}

    def work(n):
        x = y = leaf(1.0)
        for _ in range(300):
            y = y * 1.0 + float(n)
        for _ in range(5):
            x.grad = None
            y.backward(retain_graph=True)
        results[n] = x.grad.item()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), 1.0)


# ------------------------------------------------------------------------------ ops of other kinds


class Both(Op):
    """(x, 2x), handing its first gradient on as it is."""

    def forward(self, x):
        return x.copy(), 2 * x

    def backward(self, first, second):
        if second is None:
            return first
        return 2 * second if first is None else first + 2 * second


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


class Cube(Op):
    """x³ with a backward that works on arrays only."""

    composite = staticmethod(lambda x: x * x * x)

    def forward(self, x):
        self.save(x)
        return x**3

    def backward(self, grad):
        (x,) = self.saved
        return np.multiply(grad, 3 * np.square(x))


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


def test_hooks_see_both_phases_in_order():
    events = []

    class Log(op_hook):
        def before(self, op, phase):
            events.append(("before", op.name, phase))

        def after(self, op, phase, arrays):
            events.append(("after", op.name, phase, [a if a is None else a.shape for a in arrays]))

    x = leaf(1.0, 2.0)
    with Log():
        grad((x * np.ones(2)).sum(), x)
    x.exp()
    assert events == [
        ("before", "Mul", "forward"),
        ("after", "Mul", "forward", [(2,)]),
        ("before", "Sum", "forward"),
        ("after", "Sum", "forward", [()]),
        ("before", "Sum", "backward"),
        ("after", "Sum", "backward", [(2,)]),
        ("before", "Mul", "backward"),
        ("after", "Mul", "backward", [(2,), None]),
    ]


def test_module_functions_are_the_methods():
    x = leaf(1.0, 2.0)
    tinygen.backward((x * x).sum())
    assert x.grad.tolist() == [2, 4]
