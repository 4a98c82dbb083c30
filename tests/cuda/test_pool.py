"""Pooling and resizing on the GPU against the definition, in every layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import pool as reference

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
channels = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 12])  # with and without vectors of 2 or 4
TOLERANCE = {np.float32: {"rtol": 1e-5, "atol": 1e-6}, np.float64: {"rtol": 1e-12, "atol": 1e-13}}
few = settings(max_examples=20)


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, dilation: int = 1):
    """A shape and options that leave at least one window, and an element in each."""
    kernel_size, stride = draw(pairs(1, 4)), draw(pairs(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel_size)
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if dilation > 1:
        options["dilation"] = draw(pairs(1, dilation))
    size = []
    for k, p, d in zip(kernel_size, padding, options.get("dilation", (1, 1)), strict=True):
        # With dilation one element might be skipped by all taps of a padded window.
        least = max(d * (k - 1) + 1 - 2 * p, d * p if d > 1 else 1, 1)
        size.append(least + draw(st.integers(0, 7)))
    return (draw(st.integers(0, 3)), draw(channels), *size), options


shapes = st.tuples(st.integers(0, 3), channels, st.integers(1, 9), st.integers(1, 9))


def numbers(shape, dtype, seed) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_close(got, expected, dtype):
    assert (got.shape, got.dtype) == (expected.shape, dtype)
    np.testing.assert_allclose(to_cpu(got), expected, **TOLERANCE[dtype])


def assert_ordered_as(result, x):
    """Channels-last if the input is, else contiguous (single pixels of one are both)."""
    if is_channels_last(x):
        assert is_channels_last(result)
    elif x.shape[2] * x.shape[3] > 1:
        assert result.flags.c_contiguous


@few
@given(problems(dilation=3), dtypes, layouts, layouts, seeds)
def test_max_pool(cuda_kernels, problem, dtype, layout, grad_layout, seed):
    cuda = cuda_kernels("pool")
    shape, options = problem
    x = in_layout(np.round(numbers(shape, dtype, seed)), layout)  # with ties
    y, indices = cuda.max_pool2d(to_gpu(x), **options)
    expected, expected_indices = reference.max_pool2d(x, **options)
    assert_close(y, expected, dtype)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(to_cpu(indices), expected_indices)
    grad = numbers(expected.shape, dtype, seed)
    expected = reference.max_pool2d_grad(grad, expected_indices, shape[2:])
    grad = to_gpu(in_layout(grad, grad_layout))
    grad_x = cuda.max_pool2d_grad(grad, indices, shape[2:])
    assert_close(grad_x, expected, dtype)
    plain = cuda._max_pool2d_grad(grad, indices, shape[2:], plain=True)
    assert_close(plain, expected, dtype)
    for result, like in ((y, x), (indices, x), (grad_x, indices), (plain, indices)):
        assert_ordered_as(result, like)


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_gradient_of_a_plane_of_several_warps(cuda_kernels, layout):
    """Windows that overlap a lot: several lanes, and later steps, add to the same element."""
    x = in_layout(numbers((2, 3, 11, 17), np.float64, 0), layout)
    options = {"kernel_size": (5, 7), "stride": (1, 1), "padding": (2, 3)}
    y, indices = reference.max_pool2d(x, **options)
    indices = in_layout(indices, layout)
    grad = numbers(y.shape, np.float64, 1)
    got = cuda_kernels("pool").max_pool2d_grad(to_gpu(grad), to_gpu(indices), (11, 17))
    assert_close(got, reference.max_pool2d_grad(grad, indices, (11, 17)), np.float64)


@few
@given(problems(), st.booleans(), dtypes, layouts, layouts, seeds)
def test_avg_pool(cuda_kernels, problem, include, dtype, layout, grad_layout, seed):
    cuda = cuda_kernels("pool")
    shape, options = problem
    options = {**options, "count_include_pad": include}
    x = in_layout(numbers(shape, dtype, seed), layout)
    y = cuda.avg_pool2d(to_gpu(x), **options)
    assert_close(y, reference.avg_pool2d(x, **options), dtype)
    assert_ordered_as(y, x)
    grad = in_layout(numbers(y.shape, dtype, seed), grad_layout)
    grad_x = cuda.avg_pool2d_grad(to_gpu(grad), shape[2:], **options)
    assert_close(grad_x, reference.avg_pool2d_grad(grad, shape[2:], **options), dtype)
    assert_ordered_as(grad_x, grad)


@few
@given(shapes, pairs(1, 12), dtypes, layouts, seeds)
def test_interpolate(cuda_kernels, shape, size, dtype, layout, seed):
    cuda = cuda_kernels("pool")
    x = in_layout(numbers(shape, dtype, seed), layout)
    y = cuda.interpolate_nearest(to_gpu(x), size)
    assert_close(y, reference.interpolate_nearest(x, size), dtype)
    assert_ordered_as(y, x)
    grad = in_layout(numbers(y.shape, dtype, seed), layout)
    grad_x = cuda.interpolate_nearest_grad(to_gpu(grad), shape[2:])
    assert_close(grad_x, reference.interpolate_nearest_grad(grad, shape[2:]), dtype)
    assert_ordered_as(grad_x, grad)


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_max_pool_ties_and_nan(cuda_kernels, layout):
    x = np.zeros((1, 4, 4, 4), np.float32)
    x[0, 1, 0, 1] = x[0, 1, 1, 1] = x[0, 1, 2, 1] = np.nan
    x[0, 1, 2:, 2:] = -np.inf
    y, indices = cuda_kernels("pool").max_pool2d(
        to_gpu(in_layout(x, layout)), kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)
    )
    y, indices = to_cpu(y), to_cpu(indices)
    np.testing.assert_array_equal(indices[0, 0], [[0, 2], [8, 10]])  # the first of equals
    np.testing.assert_array_equal(y[0, 1], [[np.nan, 0], [np.nan, -np.inf]])
    np.testing.assert_array_equal(indices[0, 1], [[1, 2], [9, 10]])


def test_errors_are_the_references(cuda_kernels):
    x = to_gpu(np.zeros((1, 1, 3, 5)))
    cuda = cuda_kernels("pool")
    with pytest.raises(ValueError, match=r"size 3 with kernel_size 4.*a window spans 4 of 3"):
        cuda.max_pool2d(x, kernel_size=(4, 4), stride=(1, 1), padding=(0, 0))
    with pytest.raises(ValueError, match=r"stride 0.*must be at least 1"):
        cuda.avg_pool2d(x, kernel_size=(2, 2), stride=(0, 1), padding=(0, 0))


def test_channels_that_start_between_vectors(cuda_kernels):
    x = numbers((2, 3, 5, 4), np.float32, 0)
    shifted = to_gpu(np.append(np.float32(0), x))[1:].reshape(x.shape)  # 4 bytes after 16 · n
    images = x.transpose(0, 3, 1, 2)
    options = {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1)}
    y, _ = cuda_kernels("pool").max_pool2d(shifted.transpose(0, 3, 1, 2), **options)
    assert_close(y, reference.max_pool2d(images, **options)[0], np.float32)
