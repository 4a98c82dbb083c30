"""Pooling and resizing: gradients of first and second order, PyTorch as oracle, and messages."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_torch, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, dilation: int = 1):
    """Images without equal values, in any memory order, and the options of a window."""
    kernel_size = draw(pairs(1, 3))
    options = {
        "kernel_size": kernel_size,
        "stride": draw(st.one_of(st.none(), pairs(1, 3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel_size),
    }
    extents = list(kernel_size)
    if dilation > 1:
        options["dilation"] = draw(pairs(1, dilation))
        extents = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel_size, strict=True)]
    # A window must find at least one element, even where its taps are far apart.
    size = [draw(st.integers(e, e + 3)) for e in extents]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    return draw(images(shape)), options


@st.composite
def images(draw, shape):
    layout = draw(st.sampled_from(LAYOUTS))
    return in_layout(values(shape, draw(st.integers(0, 2**20))), layout)


@settings(max_examples=20)
@given(problems(dilation=3))
def test_max_pool(problem):
    x, options = problem
    gradcheck(lambda x: F.max_pool2d(x, **options), [x], order=2)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.max_pool2d
    check_torch(lambda x: F.max_pool2d(x, **options), lambda x: theirs(x, **options), [x.copy()])


@settings(max_examples=20)
@given(problems(), st.booleans())
def test_avg_pool(problem, count_include_pad):
    x, options = problem
    options["count_include_pad"] = count_include_pad
    gradcheck(lambda x: F.avg_pool2d(x, **options), [x], order=2)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.avg_pool2d
    check_torch(lambda x: F.avg_pool2d(x, **options), lambda x: theirs(x, **options), [x.copy()])


@settings(max_examples=20)
@given(images((2, 3, 4, 5)), pairs(1, 9))
def test_interpolate_to_a_size(x, size):
    gradcheck(lambda x: F.interpolate(x, size=size), [x], order=2)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.interpolate
    check_torch(lambda x: F.interpolate(x, size=size), lambda x: theirs(x, size=size), [x.copy()])


@pytest.mark.parametrize("factor", [1, 2, 3.0, 0.5, 1.25, (2.0, 0.75)])
def test_interpolate_by_a_factor(factor):
    torch = pytest.importorskip("torch")
    check_torch(
        lambda x: F.interpolate(x, scale_factor=factor),
        lambda x: torch.nn.functional.interpolate(
            x, scale_factor=factor, recompute_scale_factor=True
        ),
        [values((2, 1, 10, 7), 0)],
    )


def pooled_cubes(x):
    """Third powers around the pooling, so that its second derivative matters."""
    y = F.max_pool2d(x * x * x, kernel_size=2)
    return F.interpolate(F.avg_pool2d(y * y, kernel_size=2), scale_factor=2)


def test_gradients_of_gradients_flow_through():
    gradcheck(pooled_cubes, [values((2, 2, 4, 5), 0, low=0.5, high=2.5)], order=3)


def test_the_gradient_of_equal_values_goes_to_the_first():
    x = Tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
    F.max_pool2d(x, kernel_size=2).sum().backward()
    assert x.grad.tolist() == [[[[1, 0], [0, 0]]]]


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4)])
def test_of_nothing(shape):
    x = np.zeros(shape)
    for function, size in (
        (lambda x: F.max_pool2d(x, kernel_size=2), (2, 2)),
        (lambda x: F.avg_pool2d(x, kernel_size=2), (2, 2)),
        (lambda x: F.interpolate(x, scale_factor=2), (8, 8)),
    ):
        assert function(Tensor(x)).shape == (*shape[:2], *size)
        gradcheck(function, [x], order=2)


X = Tensor(np.zeros((2, 3, 8, 6), np.float32))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: F.max_pool2d(X[0], kernel_size=2),
         "max_pool2d: input (3, 8, 6) must be (N, C, H, W); for one image use x[None]"),
        (lambda: F.avg_pool2d(X, kernel_size=(2, 2, 2)),
         "avg_pool2d: kernel_size=(2, 2, 2) must be an integer, or 2 of them, of at least 1"),
        (lambda: F.max_pool2d(X, kernel_size=2, stride=0), "max_pool2d: stride=0 must be"),
        (lambda: F.max_pool2d(X, kernel_size=2, padding=2),
         "max_pool2d: padding 2 must be at most half of the kernel size 2"),
        (lambda: F.avg_pool2d(X, kernel_size=7),
         "avg_pool2d: input (2, 3, 8, 6) with padding 0 is smaller than the window 7 "
         "(kernel_size=7, dilation=1)"),
        (lambda: F.max_pool2d(X, kernel_size=3, dilation=4), "smaller than the window 9"),
        (lambda: F.interpolate(X, size=4, mode="bilinear"),
         "interpolate: mode='bilinear'; only 'nearest' is known"),
        (lambda: F.interpolate(X), "interpolate: give either size or scale_factor"),
        (lambda: F.interpolate(X, size=4, scale_factor=2), "interpolate: give either"),
        (lambda: F.interpolate(X[0], size=4), "interpolate: input (3, 8, 6) must be (N, C, H, W)"),
        (lambda: F.interpolate(X, scale_factor=0.1), "interpolate: size=(0, 0) must be"),
    ],
)  # fmt: skip
def test_messages(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
