"""Embedding, gather, scatter on the GPU against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import index as reference

import tinygen
from tinygen import functional as F

dtypes = st.sampled_from([np.float32, np.float64])
integers = st.sampled_from([np.int32, np.int64, np.uint8])
layouts = st.sampled_from(LAYOUTS)
index_layouts = st.sampled_from(["C", "F", "transposed", "reversed"])
seeds = st.integers(0, 2**20)
few = settings(max_examples=15)
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def numbers(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def places(shape, size, dtype, seed):
    return np.random.default_rng(seed).integers(0, size, shape).astype(dtype)


def assert_close(got, expected):
    tolerance = TOLERANCE[expected.dtype.type]
    got = to_cpu(got)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@few
@given(
    count=st.sampled_from([0, 1, 31, 32, 33, 200]),
    rows=st.sampled_from([1, 2, 10, 133]),
    columns=st.sampled_from([0, 1, 3, 8, 32, 33, 68]),
    dtype=dtypes,
    integer=integers,
    layout=layouts,
    index_layout=index_layouts,
    seed=seeds,
)
def test_take(cuda_kernels, count, rows, columns, dtype, integer, layout, index_layout, seed):
    cuda = cuda_kernels("index")
    weight, index = numbers((rows, columns), dtype, seed), places(count, rows, integer, seed)
    on_gpu = to_gpu(in_layout(index, index_layout))
    got = cuda.take(to_gpu(in_layout(weight, layout)), on_gpu)
    assert_close(got, reference.take(weight, index))
    grad = numbers((count, columns), dtype, seed)
    expected = reference.take_grad(grad, index, rows)
    grad = to_gpu(in_layout(grad, layout))
    for plain in (False, True):
        assert_close(cuda._take_grad(grad, on_gpu, rows, plain=plain), expected)


@pytest.mark.parametrize(
    ("count", "rows", "columns", "dtype"),
    [
        (1000, 3, 5, np.float32),  # several chunks
        (700, 300, 2, np.float32),  # several tiles
        (2500, 150, 33, np.float64),  # both, and several slices of columns
    ],
)
def test_take_grad_of_large_tables_and_long_lists(cuda_kernels, count, rows, columns, dtype):
    grad, index = numbers((count, columns), dtype, 0), places(count, rows, np.int64, 1)
    got = cuda_kernels("index").take_grad(to_gpu(grad), to_gpu(index), rows)
    assert_close(got, reference.take_grad(grad, index, rows))


def test_a_table_that_starts_between_vectors(cuda_kernels):
    weight, index = numbers((5, 8), np.float32, 0), places(7, 5, np.int64, 1)
    shifted = to_gpu(np.append(np.float32(0), weight))[1:].reshape(5, 8)
    assert_close(cuda_kernels("index").take(shifted, to_gpu(index)), weight[index])


@few
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    dtype=dtypes,
    integer=st.sampled_from([np.int32, np.int64]),
    layout=layouts,
    index_layout=index_layouts,
    seed=seeds,
    data=st.data(),
)
def test_gather_and_scatter(cuda_kernels, shape, dtype, integer, layout, index_layout, seed, data):
    cuda = cuda_kernels("index")
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = [data.draw(st.integers(0, n)) for n in shape]
    sizes[axis] = data.draw(st.integers(0, 40))
    x, size = numbers(shape, dtype, seed), shape[axis]
    index = places(sizes, 2 * size, integer, seed) - integer(size)  # some count from the end
    on_gpu = to_gpu(in_layout(index, index_layout))
    got = cuda.gather(to_gpu(in_layout(x, layout)), axis, on_gpu)
    assert_close(got, reference.gather(x, axis, index))
    grad = numbers(sizes, dtype, seed)
    got = cuda.scatter_add(to_gpu(in_layout(grad, layout)), axis, on_gpu, shape)
    assert_close(got, reference.scatter_add(grad, axis, index, shape))


INDICES = {
    "rows": np.array([[1, -1, 1], [0, 2, 1]]),
    "places": (np.array([0, 2, 2, -1]), np.array([1, 1, 1, 0])),
    "mixed": (slice(None), np.array([3, 0, 3]), 1),
    "mask": np.arange(24).reshape(3, 4, 2) % 5 < 2,
    "list": [2, 2, 0],
    "number": np.array(1),
}


@pytest.mark.parametrize("name", INDICES)
def test_getitem_grad(cuda_kernels, name):
    index, shape = INDICES[name], (3, 4, 2)
    grad = numbers(np.zeros(shape)[index].shape, np.float32, 0)
    if isinstance(index, tuple):
        on_gpu = tuple(to_gpu(i) if isinstance(i, np.ndarray) else i for i in index)
    else:
        on_gpu = to_gpu(index) if isinstance(index, np.ndarray) else index
    got = cuda_kernels("index").getitem_grad(to_gpu(grad), on_gpu, shape)
    assert_close(got, reference.getitem_grad(grad, index, shape))


@pytest.mark.parametrize("bad", [3, -1, 2**31 + 1, -(2**40)])
def test_an_index_out_of_range_is_nan_and_reads_nothing(cuda_kernels, bad):
    cuda = cuda_kernels("index")
    weight, index = np.ones((3, 4), np.float32), to_gpu(np.array([2, bad, 0]))
    expected = np.array([[1], [np.nan], [1]]) * np.ones((3, 4))
    np.testing.assert_array_equal(to_cpu(cuda.take(to_gpu(weight), index)), expected)
    for plain in (False, True):
        got = cuda._take_grad(to_gpu(np.ones((3, 4), np.float32)), index, 3, plain=plain)
        np.testing.assert_array_equal(to_cpu(got), np.array([[1], [0], [1]]) * np.ones((3, 4)))


@pytest.mark.parametrize("bad", [3, -4, 2**31 + 1, -(2**40)])
def test_gathering_out_of_range_is_nan_and_reads_nothing(cuda_kernels, bad):
    cuda = cuda_kernels("index")
    index = to_gpu(np.array([[1, bad], [-1, 0]]))
    got = to_cpu(cuda.gather(to_gpu(np.arange(6.0).reshape(2, 3)), 1, index))
    np.testing.assert_array_equal(got, [[1, np.nan], [5, 3]])
    got = to_cpu(cuda.scatter_add(to_gpu(np.ones((2, 2))), 1, index, (2, 3)))
    np.testing.assert_array_equal(got, [[0, 1, 0], [1, 0, 1]])


def test_indices_are_integers(cuda_kernels):
    x = to_gpu(np.ones((2, 3)))
    with pytest.raises(TypeError, match="expected integer indices, got float64"):
        cuda_kernels("index").gather(x, 1, x)


def test_functions_do_not_wait_for_the_gpu(cupy):
    """Neither to check what they are given, nor for a gradient."""
    if not hasattr(cupy, "statistics"):
        pytest.skip("a real GPU does not count synchronisations")
    tinygen.device.check("cuda")
    index = tinygen.tensor(np.array([2, 0, 7]), device="cuda")  # 7 is out of range for all
    weight = tinygen.tensor(np.ones((3, 4), np.float32), device="cuda", requires_grad=True)
    before = cupy.statistics.synchronizations
    losses = [
        F.embedding(index, weight).sum(),
        F.cross_entropy(weight, index),
        F.gather(weight, 1, index.reshape(3, 1)).sum(),
    ]
    for loss in losses:
        loss.backward()
    assert cupy.statistics.synchronizations == before
    assert all(np.isnan(loss.item()) for loss in losses)


def test_gathering_integers(cuda_kernels):
    x, index = np.arange(6).reshape(2, 3), np.array([[2, 0]])
    got = cuda_kernels("index").gather(to_gpu(x), 1, to_gpu(index))
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(to_cpu(got), [[2, 0]])
