"""Reductions: the CPU against the definition, the definition against plain loops and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import arrays, axis_of, axis_tuples, shapes
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import reduce as cpu
from tinygen_kernels.reference import reduce as reference

BOTH = pytest.mark.parametrize("kernels", [reference, cpu])
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def cases(draw, min_side=0):
    """An array, the axes to reduce (None: all), and keepdims."""
    x = draw(arrays(shapes(min_side=min_side), dtype=draw(dtypes)))
    return x, draw(st.one_of(st.none(), axis_tuples(x.ndim))), draw(st.booleans())


@given(cases())
def test_sum_equals_reference(case):
    x, axes, keepdims = case
    expected = reference.sum(x, axes, keepdims)
    got = cpu.sum(x, axes, keepdims)
    assert (got.dtype, got.shape) == (x.dtype, expected.shape) == (expected.dtype, got.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["max", "min"])
@given(cases(min_side=1))
def test_extremes_are_those_of_numpy(name, case):
    x, axes, keepdims = case
    for kernels in (reference, cpu):
        got = getattr(kernels, name)(x, axes, keepdims)
        np.testing.assert_array_equal(got, getattr(np, name)(x, axes, keepdims=keepdims))


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@given(arrays(shapes(min_dims=1, min_side=1)), st.booleans(), st.data())
def test_places_of_extremes_are_those_of_numpy(name, x, keepdims, data):
    axis = data.draw(st.one_of(st.none(), axis_of(x.ndim)))
    for kernels in (reference, cpu):
        got = getattr(kernels, name)(x, axis, keepdims)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, getattr(np, name)(x, axis, keepdims=keepdims))


@given(arrays(shapes(min_dims=1)), st.data())
def test_cumsum_equals_reference(x, data):
    axis = data.draw(axis_of(x.ndim))
    expected = reference.cumsum(x, axis)
    np.testing.assert_allclose(cpu.cumsum(x, axis), expected, rtol=1e-12, atol=1e-12)
    for i in range(x.shape[axis]):
        head = [sum(line[: i + 1]) for line in np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])]
        last = np.moveaxis(expected, axis, -1).reshape(-1, x.shape[axis])[:, i]
        np.testing.assert_allclose(last, head, rtol=1e-12, atol=1e-12)


def test_the_definition_rounds_once():
    x = np.random.default_rng(0).random(100_000, np.float32)
    exact = math.fsum(x.tolist())
    assert reference.sum(x, None) == np.float32(exact)
    assert reference.cumsum(x, 0)[-1] == np.float32(exact)


@BOTH
def test_integers_and_bools_sum_to_64_bits(kernels):
    for dtype, wide in [(bool, np.int64), (np.int32, np.int64), (np.uint8, np.uint64)]:
        x = np.array([[1, 0], [1, 1]], dtype)
        assert kernels.sum(x, (0,)).dtype == kernels.cumsum(x, 0).dtype == wide
        assert kernels.max(x, None).dtype == dtype
        np.testing.assert_array_equal(kernels.sum(x, (0,)), [2, 1])


@BOTH
def test_nan_and_ties(kernels):
    x = np.array([[1, np.nan, 3, np.nan], [5, 2, 5, 2]])
    np.testing.assert_array_equal(kernels.max(x, (1,)), [np.nan, 5])
    np.testing.assert_array_equal(kernels.min(x, (1,)), [np.nan, 2])
    np.testing.assert_array_equal(kernels.argmax(x, 1), [1, 0])
    np.testing.assert_array_equal(kernels.argmin(x, 1), [1, 1])


@BOTH
def test_of_nothing(kernels):
    x = np.zeros((0, 3), np.float32)
    np.testing.assert_array_equal(kernels.sum(x, (0,)), [0, 0, 0])
    assert kernels.max(x, (1,)).shape == kernels.argmax(x, 1).shape == (0,)
    for function in (kernels.max, kernels.min):
        with pytest.raises(ValueError):
            function(x, (0,))
    for function in (kernels.argmax, kernels.argmin):
        with pytest.raises(ValueError):
            function(x, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 32, 28, 28), (2, 1, 150, 150), (40_001, 3), (2, 40_000)])
def test_the_sums_of_rows_of_large_arrays(shape, dtype):
    """What gradients of biases are, in the memory order of convolutions and of linear layers."""
    x = np.random.default_rng(0).normal(1, 1, shape).astype(dtype)
    if x.ndim > 2:
        x = np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    for keepdims in (False, True):
        got, expected = cpu.sum(x, axes, keepdims), reference.sum(x, axes, keepdims)
        assert (got.dtype, got.shape) == (x.dtype, expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-6 if dtype == np.float32 else 1e-13)
    x[1, 0] = np.nan
    assert np.isnan(cpu.sum(x, axes)).tolist() == [True] + [False] * (x.shape[1] - 1)
