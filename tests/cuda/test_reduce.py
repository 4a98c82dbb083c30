"""Reductions and running sums on the GPU against the definition, in every layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, axis_of, axis_tuples, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import reduce as reference

# What lies between the elements of a strided array of integers would be NaN, were there one.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
EXAMPLES = settings(max_examples=40)
DTYPES = ["float32", "float64", "int64", "int32", "uint8", "bool"]

# Runs with and without packs of 4, longer than a block or a warp, of one and of nothing.
sides = st.sampled_from([1, 2, 3, 4, 5, 8, 33, 37])
seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)


def random(shape, dtype, seed, few=False):
    """Numbers of a dtype; with `few` different ones many are equal, some NaN or infinite."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind != "f":
        return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    x = rng.standard_normal(shape).astype(dtype)
    return rng.choice(np.array([-np.inf, -1, 0, 2, 2.5, np.nan], dtype), shape) if few else x


@st.composite
def inputs(draw, min_dims=0, sides=sides, few=False):
    """An array of at most some 4000 elements in some layout."""
    shape = []
    for side in draw(st.lists(sides, min_size=min_dims, max_size=5)):
        shape.append(side if np.prod(shape) * side <= 4000 else 1)
    return in_layout(random(shape, draw(st.sampled_from(DTYPES)), draw(seeds), few), draw(layouts))


def axes_of(x):
    return st.one_of(st.none(), axis_tuples(x.ndim))


def assert_sums_equal(actual, expected, x):
    """Float sums differ by the rounding of a tree of additions."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if x.dtype.kind == "f":
        atol = 20 * np.finfo(x.dtype).eps * np.abs(x).sum()
        np.testing.assert_allclose(to_cpu(actual), expected, rtol=0, atol=atol)
    else:
        np.testing.assert_array_equal(to_cpu(actual), expected)


def assert_equal(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(to_cpu(actual), expected)


@EXAMPLES
@given(inputs(), st.booleans(), st.data())
def test_sum(cuda_kernels, x, keepdims, data):
    axes = data.draw(axes_of(x))
    total = cuda_kernels("reduce").sum(to_gpu(x), axes, keepdims)
    assert_sums_equal(total, reference.sum(x, axes, keepdims), x)


@pytest.mark.parametrize("name", ["max", "min"])
@EXAMPLES
@given(inputs(few=True), st.booleans(), st.data())
def test_extremes(cuda_kernels, name, x, keepdims, data):
    axes = data.draw(axes_of(x))
    found = getattr(cuda_kernels("reduce"), name)(to_gpu(x), axes, keepdims)
    assert_equal(found, getattr(reference, name)(x, axes, keepdims))


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@EXAMPLES
@given(inputs(min_dims=1, few=True), st.booleans(), st.data())
def test_places_of_extremes(cuda_kernels, name, x, keepdims, data):
    axis = data.draw(st.one_of(st.none(), axis_of(x.ndim)))
    found = getattr(cuda_kernels("reduce"), name)(to_gpu(x), axis, keepdims)
    assert_equal(found, getattr(reference, name)(x, axis, keepdims))


@EXAMPLES
@given(inputs(min_dims=1, sides=st.sampled_from([1, 2, 3, 33, 64, 300])), st.data())
def test_cumsum(cuda_kernels, x, data):
    axis = data.draw(axis_of(x.ndim))
    total = cuda_kernels("reduce").cumsum(to_gpu(x), axis)
    assert_sums_equal(total, reference.cumsum(x, axis), x)


@EXAMPLES
@given(st.tuples(*[st.sampled_from([1, 2, 3, 7, 16])] * 4), st.sampled_from(DTYPES[:3]), seeds)
def test_plain_versions(cuda_kernels, sizes, dtype, seed):
    cuda = cuda_kernels("reduce")
    batch, _, groups, _ = sizes
    x = random(sizes, dtype, seed)
    flat = to_gpu(x.reshape(-1))
    total = cuda._plain("reduce_sum", flat, *sizes).reshape(batch, groups)
    assert_sums_equal(total, reference.sum(x, (1, 3)), x)
    x = random(sizes, dtype, seed, few=True)
    flat = to_gpu(x.reshape(-1))
    lines = x.swapaxes(1, 2).reshape(batch * groups, -1)
    for name in ("max", "min"):
        found = cuda._plain(f"reduce_{name}", flat, *sizes)
        assert_equal(found, getattr(reference, name)(lines, (1,)))
        places = cuda._plain(f"arg{name}", flat, *sizes)
        assert_equal(places, getattr(reference, f"arg{name}")(lines, 1))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9001,), (0,)), ((3, 5000), (1,)), ((4100, 3), (0,)), ((2, 2100, 4), (1,)),
     ((3, 5, 1200), (0, 2))],
)  # fmt: skip
def test_blocks_share_large_inputs(cuda_kernels, shape, axes):
    cuda = cuda_kernels("reduce")
    x = random(shape, "float32", 0)
    assert_sums_equal(cuda.sum(to_gpu(x), axes), reference.sum(x, axes), x)
    assert_equal(cuda.max(to_gpu(x), axes), reference.max(x, axes))
    assert_equal(cuda.argmin(to_gpu(x), axes[-1]), reference.argmin(x, axes[-1]))
    ties = np.round(x)
    assert_equal(cuda.argmax(to_gpu(ties), axes[-1]), reference.argmax(ties, axes[-1]))


@pytest.mark.parametrize("axes", [(0, 2, 4), (1, 3), (0, 2), (1, 4), (0, 3)])
@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_kept_and_reduced_axes_in_turn(cuda_kernels, axes, layout):
    cuda = cuda_kernels("reduce")
    x = random((3, 2, 5, 4, 7), "float32", 3)
    arranged = to_gpu(in_layout(x, layout))
    assert_sums_equal(cuda.sum(arranged, axes), reference.sum(x, axes), x)
    assert_equal(cuda.min(arranged, axes, True), reference.min(x, axes, True))


def test_a_float32_sum_of_many_numbers_is_accurate(cuda_kernels):
    x = np.random.default_rng(1).random(30_011, np.float32)
    total = to_cpu(cuda_kernels("reduce").sum(to_gpu(x), None))
    np.testing.assert_allclose(total, x.sum(dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_results_do_not_share_memory(cuda_kernels, layout):
    """Not even where there is nothing to add."""
    x = random((2, 1, 3, 4), "float32", 2)
    arranged = to_gpu(in_layout(x, layout))
    for axes in ((), (1,)):
        total = cuda_kernels("reduce").sum(arranged, axes, True)
        total.fill(0)
    np.testing.assert_array_equal(to_cpu(arranged), x)


def test_extremes_of_whole_numbers_are_exact(cuda_kernels):
    cuda = cuda_kernels("reduce")
    x = np.array([2**62 + 1, -(2**63), 2**62, 2**63 - 1])
    assert_equal(cuda.max(to_gpu(x), None), np.max(x))
    assert_equal(cuda.min(to_gpu(x), None), np.min(x))
    assert_equal(cuda.argmin(to_gpu(x), None), np.argmin(x))


def test_of_nothing(cuda_kernels):
    cuda = cuda_kernels("reduce")
    x = to_gpu(np.zeros((0, 3), np.float32))
    assert_equal(cuda.sum(x, (0,)), np.zeros(3, np.float32))
    assert_equal(cuda.sum(x, None), np.float32(0))
    assert cuda.max(x, (1,)).shape == cuda.argmax(x, 1).shape == (0,)
    assert cuda.cumsum(x, 0).shape == (0, 3)
    for name in ("max", "min"):
        with pytest.raises(ValueError, match=rf"{name}: nothing to reduce in shape \(0, 3\)"):
            getattr(cuda, name)(x, (0,))
        with pytest.raises(ValueError, match=rf"arg{name}: nothing to reduce in shape \(0, 3\)"):
            getattr(cuda, f"arg{name}")(x, 0)


def test_dtypes_without_a_kernel_are_named(cuda_kernels):
    with pytest.raises(TypeError, match="reduce: no kernel for float16"):
        cuda_kernels("reduce").sum(to_gpu(np.ones(3, np.float16)), None)
