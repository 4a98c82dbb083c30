"""no_grad, enable_grad and hooks: nesting, errors inside, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from helpers import leaf

from tinygen import enable_grad, grad, is_grad_enabled, no_grad
from tinygen.autograd import Op, op_hook

from .ops import count_calls


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
