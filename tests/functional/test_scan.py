"""The scans and the masked convolution: the reference, gradients of two orders, messages."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import check_op, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import masked_conv, scan

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

KINDS = ["row", "diagonal", "reverse diagonal"]
SIZES = {
    "n": st.integers(1, 3), "hidden": st.integers(1, 3), "height": st.integers(1, 4),
    "width": st.integers(1, 4), "seed": st.integers(0, 2**20),
}  # fmt: skip


def problem(kind, n=2, hidden=2, height=3, width=4, seed=0):
    """z, weight, h0, c0."""
    taps, side = (3, width) if kind == "row" else (2, height)
    shapes = [(n, 4 * hidden, height, width), (4 * hidden, hidden, taps)] + 2 * [(hidden, side)]
    return [values(shape, seed + i, low=-1.5, high=1.5) for i, shape in enumerate(shapes)]


def function_of(kind, module=F):
    if kind == "row":
        return module.row_lstm
    return lambda *args: module.diagonal_lstm(*args, reverse=kind.startswith("reverse"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(size=st.fixed_dictionaries(SIZES))
def test_values_and_gradients_of_two_orders(kind, size):
    check_op(function_of(kind), problem(kind, **size), lambda *x: function_of(kind, scan)(*x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_states_start_at_zero(kind):
    z, weight, h0, _ = problem(kind)
    zeros = np.zeros_like(h0)
    without = function_of(kind)(z, weight)
    np.testing.assert_array_equal(without, function_of(kind)(z, weight, zeros, zeros))
    gradcheck(function_of(kind), [z, weight], order=2)


def test_in_reverse_the_map_is_mirrored():
    z, *rest = problem("diagonal")
    mirrored = F.diagonal_lstm(z[..., ::-1], *rest)[..., ::-1]
    np.testing.assert_allclose(F.diagonal_lstm(z, *rest, reverse=True), mirrored, 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_order_does_not_matter(kind):
    results = []
    for layout in ("C", "channels_last", "strided", "reversed"):
        inputs = [Tensor(in_layout(x, layout), requires_grad=True) for x in problem(kind)]
        h = function_of(kind)(*inputs)
        weights = Tensor(in_layout(values(h.shape, 9), layout))
        results.append([h, *tg.grad(h, inputs, weights)])
    for first, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other.data, first.data, 1e-12, 1e-13)


def conv_problem(n=2, inputs=3, outputs=2, height=4, width=5, taps=5, seed=0):
    shapes = [(n, inputs, height, width), (outputs, inputs, taps), (outputs,)]
    return [values(shape, seed + i) for i, shape in enumerate(shapes)]


@settings(max_examples=6)
@given(
    taps=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 2**20),
)
def test_masked_conv2d(taps, padding, seed):
    options = {"taps": tuple(sorted(taps)), "kernel_size": (3, 3), "padding": padding}
    check_op(
        lambda *x: F.masked_conv2d(*x, **options),
        conv_problem(taps=len(taps), seed=seed),
        lambda *x: masked_conv.masked_conv2d(*x, **options),
    )


def test_a_masked_conv_is_one_whose_other_weights_are_zero():
    x, weight, bias = conv_problem()
    taps = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    whole = np.zeros((2, 3, 3, 3))
    for index, (kh, kw) in enumerate(taps):
        whole[:, :, kh, kw] = weight[:, :, index]
    found = F.masked_conv2d(x, weight, bias, taps=taps, kernel_size=3, padding=1)
    np.testing.assert_allclose(found, F.conv2d(x, whole, bias, padding=1), 1e-12, 1e-13)


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.row_lstm(zeros(8, 3, 3), zeros(8, 2, 3)), ValueError,
         "row_lstm: z (8, 3, 3) must be (N, 4h, H, W)"),
        (lambda: F.row_lstm(zeros(1, 8, 3, 4), zeros(8, 3, 3)), ValueError,
         "so the weight must be (4h, h, k), got (8, 3, 3)"),
        (lambda: F.row_lstm(zeros(1, 8, 3, 4), zeros(8, 2, 2)), ValueError,
         "row_lstm: the weight's 2 taps must be odd"),
        (lambda: F.row_lstm(zeros(1, 8, 3, 4), zeros(8, 2, 3), zeros(2, 3)), ValueError,
         "row_lstm: z (1, 8, 3, 4): h0 must have shape (2, 4), got (2, 3)"),
        (lambda: F.diagonal_lstm(zeros(1, 8, 3, 4), zeros(8, 2, 2), None, zeros(2, 4)),
         ValueError, "c0 must have shape (2, 3), got (2, 4)"),
        (lambda: F.diagonal_lstm(zeros(1, 8, 3, 4), zeros(8, 2, 3)), ValueError,
         "diagonal_lstm: the weight has 3 taps, expected 2"),
        (lambda: F.row_lstm(zeros(1, 8, 3, 4), zeros(8, 2, 3).astype(np.float32)), TypeError,
         "row_lstm: z float64, weight float32: expected"),
        (lambda: F.masked_conv2d(zeros(1, 2, 3, 3), zeros(4, 2, 2), taps=[(0, 0), (0, 3)],
                                 kernel_size=3), ValueError,
         "masked_conv2d: taps [(0, 0), (0, 3)] must be places (row, column), at least one, in a "
         "kernel of (3, 3)"),
        (lambda: F.masked_conv2d(zeros(1, 2, 3, 3), zeros(4, 2, 2), taps=[(0, 0)],
                                 kernel_size=3), ValueError,
         "input (1, 2, 3, 3), weight (4, 2, 2), 1 taps: they must be (N, C, H, W) and"),
        (lambda: F.masked_conv2d(zeros(1, 2, 3, 3), zeros(4, 2, 1), zeros(3), taps=[(0, 0)],
                                 kernel_size=3), ValueError, "bias (3,) must be (O,)"),
        (lambda: F.masked_conv2d(zeros(1, 2, 2, 3), zeros(4, 2, 1), taps=[(0, 0)],
                                 kernel_size=3), ValueError, "give an output of (0, 1)"),
    ],
)  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
