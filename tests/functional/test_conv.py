"""Convolutions: gradients of first and second order, PyTorch as oracle, and messages."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_torch, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

NAMES = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]
functions = pytest.mark.parametrize("name", NAMES)


@st.composite
def problems(draw, name):
    """[input, weight, bias] in any memory order, and options."""
    axes, transposed = int(name[-2]), "transpose" in name
    groups = draw(st.sampled_from([1, 1, 2]))
    c, o = (groups * draw(st.sampled_from([1, 2, 3])) for _ in range(2))
    kernel_size = [draw(st.integers(1, 3)) for _ in range(axes)]
    options = {
        key: tuple(draw(st.integers(least, most)) for _ in range(axes))
        for key, least, most in (("stride", 1, 3), ("padding", 0, 2), ("dilation", 1, 3))
    }
    extents = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel_size, strict=True)]
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1))
            for s, d in zip(options["stride"], options["dilation"], strict=True)
        )
        # As many rows as the padding takes away, at least.
        size = [
            draw(st.integers(0, 2)) + max(1, -(-(2 * p + 1 - extent) // s) + 1)
            for extent, s, p in zip(extents, options["stride"], options["padding"], strict=True)
        ]
        weight = (c, o // groups, *kernel_size)
    else:
        size = [
            draw(st.integers(0, 3)) + max(1, extent - 2 * p)
            for extent, p in zip(extents, options["padding"], strict=True)
        ]
        weight = (o, c // groups, *kernel_size)
    shapes = [(draw(st.integers(1, 2)), c, *size), weight, (o,)]
    layout = draw(st.sampled_from(LAYOUTS))
    seed = draw(st.integers(0, 2**20))
    arrays = [in_layout(values(shape, seed + i), layout) for i, shape in enumerate(shapes)]
    return arrays, {**options, "groups": groups}


@functions
@settings(max_examples=15)
@given(data=st.data())
def test_gradients_of_first_and_second_order(name, data):
    arrays, options = data.draw(problems(name))
    gradcheck(lambda *args: getattr(F, name)(*args, **options), arrays, order=2)


@functions
@settings(max_examples=20)
@given(data=st.data())
def test_equals_torch(name, data):
    torch = pytest.importorskip("torch")
    arrays, options = data.draw(problems(name))
    theirs = getattr(torch.nn.functional, name)
    check_torch(
        lambda *args: getattr(F, name)(*args, **options),
        lambda *args: theirs(*args, **options),
        [x.copy() for x in arrays],
    )


def test_third_order():
    x, weight = values((2, 2, 4, 5), 0), values((3, 2, 2, 2), 1)

    def cubed(x, weight):
        y = F.conv2d(x, weight, stride=2, padding=1)
        return (y * y * y).sum()

    gradcheck(cubed, [x, weight], order=3)


@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        ((2, 3), {"stride": 2, "padding": 1, "output_padding": 3, "dilation": 4}),
        ((1, 1), {"stride": 1, "padding": 0, "output_padding": 1, "dilation": 2}),
    ],
)
def test_output_padding_of_a_whole_stride(kernel_size, options):
    """A dilation allows it; the convolution of the result is then larger than the input."""
    arrays = [values((2, 3, 3, 2), 0), values((3, 2, *kernel_size), 1), values((2,), 2)]
    gradcheck(lambda *args: F.conv_transpose2d(*args, **options), arrays, order=2)
    torch = pytest.importorskip("torch")
    check_torch(
        lambda *args: F.conv_transpose2d(*args, **options),
        lambda *args: torch.nn.functional.conv_transpose2d(*args, **options),
        arrays,
    )


def test_options_as_one_number_or_one_per_axis():
    x, weight = Tensor(values((1, 2, 7, 7), 0)), Tensor(values((2, 2, 3, 3), 1))
    one = F.conv2d(x, weight, stride=2, padding=1, dilation=2)
    for both in (
        (2, 1, 2),
        ((2, 2), (1, 1), (2, 2)),
        ([2, 2], [1, 1], [2, 2]),
        np.array([2, 1, 2]),
    ):
        stride, padding, dilation = both
        other = F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
        np.testing.assert_array_equal(one.data, other.data)


def test_of_no_images():
    x = Tensor(np.zeros((0, 2, 5, 5)), requires_grad=True)
    weight = Tensor(values((3, 2, 3, 3), 0), requires_grad=True)
    y = F.conv2d(x, weight)
    assert y.shape == (0, 3, 3, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    np.testing.assert_array_equal(weight.grad.data, np.zeros(weight.shape))


def test_computes_only_the_gradients_that_were_asked_for():
    from tinygen.autograd import op_hook

    class Names(op_hook):
        def before(self, op, phase):
            seen.append((op.name, phase))

    x, weight = Tensor(values((1, 2, 5, 5), 0)), Tensor(values((3, 2, 3, 3), 0))
    for trained, arrays in ((weight, 1), (x, 0)):
        seen: list = []
        trained.requires_grad_()
        y = F.conv2d(x, weight).sum()
        with Names():
            (g,) = tg.grad([y], [trained], create_graph=True)
        trained.requires_grad_(False)
        assert g.shape == trained.shape
        assert (("Conv2dWeightGrad", "forward") in seen) == (arrays == 1)
        assert (("Conv2dInputGrad", "forward") in seen) == (arrays == 0)


def zeros(*shape, dtype=np.float32):
    return Tensor(np.zeros(shape, dtype))


X, W = zeros(2, 4, 8, 8), zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.conv2d(X[0], W), ValueError,
         "conv2d: input (4, 8, 8), weight (6, 4, 3, 3): both need 4 axes, the input (N, C, H, W); "
         "for one image use x[None]"),
        (lambda: F.conv1d(X, W), ValueError,
         "conv1d: input (2, 4, 8, 8), weight (6, 4, 3, 3): both need 3 axes, the input (N, C, L); "
         "for one sequence use x[None]"),
        (lambda: F.conv2d(zeros(2, 3, 8, 8), W), ValueError,
         "conv2d: input (2, 3, 8, 8), weight (6, 4, 3, 3), groups=1: the weight is "
         "(C_out, C_in/groups, ...), so the input needs 4 channels, got 3"),
        (lambda: F.conv_transpose2d(X, W), ValueError,
         "conv_transpose2d: input (2, 4, 8, 8), weight (6, 4, 3, 3), groups=1: the weight is "
         "(C_in, C_out/groups, ...), so the input needs 6 channels, got 4"),
        (lambda: F.conv2d(X, W, groups=3), ValueError,
         "conv2d: groups=3 must divide the channels: input (2, 4, 8, 8), weight (6, 4, 3, 3)"),
        (lambda: F.conv2d(X, W, groups=0), ValueError, "conv2d: groups=0 must divide"),
        (lambda: F.conv2d(X, W, zeros(4)), ValueError,
         "conv2d: bias (4,) must have shape (6,), one value for each output channel of weight "
         "(6, 4, 3, 3), groups=1"),
        (lambda: F.conv_transpose2d(zeros(1, 6, 8, 8), W, zeros(4), groups=2), ValueError,
         "conv_transpose2d: bias (4,) must have shape (8,)"),
        (lambda: F.conv2d(zeros(2, 4, 8, 2), W), ValueError,
         "conv2d: input (2, 4, 8, 2), kernel (3, 3), stride=(1, 1), padding=(0, 0), "
         "dilation=(1, 1) give an output of (6, 0); "
         "the padded input must be at least as large as the kernel"),
        (lambda: F.conv1d(zeros(1, 2, 4), zeros(3, 2, 3), dilation=2), ValueError,
         "conv1d: input (1, 2, 4), kernel (3,), stride=(1,), padding=(0,), dilation=(2,) "
         "give an output of (0,)"),
        (lambda: F.conv_transpose2d(zeros(1, 6, 1, 9), W, padding=2), ValueError,
         "conv_transpose2d: input (1, 6, 1, 9), kernel (3, 3), stride=(1, 1), padding=(2, 2), "
         "output_padding=(0, 0), dilation=(1, 1) give an output of (-1, 7); use less padding"),
        (lambda: F.conv_transpose1d(zeros(1, 3, 4), zeros(3, 2, 3), output_padding=2, stride=2),
         ValueError,
         "conv_transpose1d: output_padding=(2,) must be smaller than stride=(2,) "
         "or than dilation=(1,)"),
        (lambda: F.conv2d(X, W, stride=0), ValueError,
         "conv2d: stride=0 must be an integer, or 2 of them, of at least 1"),
        (lambda: F.conv2d(X, W, stride=(1, 2, 3)), ValueError, "conv2d: stride=(1, 2, 3) must be"),
        (lambda: F.conv2d(X, W, padding=-1), ValueError, "conv2d: padding=-1 must be"),
        (lambda: F.conv2d(X, W, padding="same"), ValueError, "conv2d: padding='same' must be"),
        (lambda: F.conv2d(X, W, dilation=1.5), ValueError, "conv2d: dilation=1.5 must be"),
        (lambda: F.conv1d(zeros(1, 2, 4), zeros(3, 2, 3), stride=(1, 1)), ValueError,
         "conv1d: stride=(1, 1) must be an integer of at least 1"),
        (lambda: F.conv2d(X, zeros(6, 4, 3, 3, dtype=np.float64)), TypeError,
         "conv2d: input float32, weight float64: expected float32 for all or float64 for all; "
         "convert with x.astype(...)"),
        (lambda: F.conv2d(X, W, zeros(6, dtype=np.float64)), TypeError, "bias float64"),
        (lambda: F.conv2d(zeros(2, 4, 8, 8, dtype=np.int64), zeros(6, 4, 3, 3, dtype=np.int64)),
         TypeError, "conv2d: input int64, weight int64: expected float32"),
    ],
)  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
