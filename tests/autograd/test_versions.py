"""Writes in place: those that a gradient still needed are errors that name both lines."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import leaf

from tinygen import Tensor, no_grad
from tinygen import functional as F

from .ops import overwritten


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
    assert re.findall(r"test_versions.py:(\d+)", str(error.value)) == [str(made), str(written)]


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
