"""Rows and elements picked by integers: the CPU and the definition by their mathematics."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import index as cpu
from tinygen_kernels.reference import index as reference

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
integers = st.sampled_from([np.int32, np.int64])
index_layouts = st.sampled_from(["C", "F", "transposed", "reversed"])
seeds = st.integers(0, 2**20)
both = pytest.mark.parametrize("module", [reference, cpu])
RTOL = {np.float32: 1e-5, np.float64: 1e-13}


def draw(shape, size, seed, dtype=np.float64, integer=np.int64):
    """Numbers of this shape, and integers from 0 to size."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), rng.integers(0, size, shape).astype(integer)


@given(
    count=st.integers(0, 60),
    rows=st.integers(1, 9),
    columns=st.integers(0, 5),
    dtype=dtypes,
    integer=integers,
    layout=layouts,
    index_layout=index_layouts,
    seed=seeds,
)
def test_rows_of_a_table(count, rows, columns, dtype, integer, layout, index_layout, seed):
    weight, _ = draw((rows, columns), 1, seed, dtype)
    index = in_layout(draw(count, rows, seed, integer=integer)[1], index_layout)
    one_hot = index[:, None] == np.arange(rows)
    for module in (reference, cpu):
        got = module.take(in_layout(weight, layout), index)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, one_hot.astype(dtype) @ weight)
    grad, _ = draw((count, columns), 1, seed, dtype)
    for module in (reference, cpu):
        got = module.take_grad(in_layout(grad, layout), index, rows)
        assert got.dtype == dtype
        expected = one_hot.T.astype(dtype) @ grad
        np.testing.assert_allclose(got, expected, RTOL[dtype], RTOL[dtype])


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    layout=layouts,
    index_layout=index_layouts,
    seed=seeds,
    data=st.data(),
)
def test_gather_and_its_transpose(shape, layout, index_layout, seed, data):
    """By the definition, element by element; and <gather(x), g> = <x, scatter_add(g)>."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = [data.draw(st.integers(0, n)) for n in shape]
    sizes[axis] = data.draw(st.integers(0, 7))
    x, _ = draw(shape, 1, seed)
    g, index = draw(sizes, shape[axis], seed)
    index = in_layout(index, index_layout)
    for module in (reference, cpu):
        y = module.gather(in_layout(x, layout), axis, index)
        for place in np.ndindex(*sizes):
            assert y[place] == x[(*place[:axis], index[place], *place[axis + 1 :])]
        grad_x = module.scatter_add(in_layout(g, layout), axis, index, shape)
        assert grad_x.shape == shape
        np.testing.assert_allclose((y * g).sum(), (x * grad_x).sum(), atol=1e-12)


def test_gather_equals_pytorch():
    torch = pytest.importorskip("torch")
    x, _ = draw((4, 5, 3), 1, 0)
    g, index = draw((2, 7, 3), 5, 1)
    leaf = torch.tensor(x, requires_grad=True)
    y = leaf.gather(1, torch.tensor(index))
    y.backward(torch.tensor(g))
    np.testing.assert_array_equal(reference.gather(x, 1, index), y.detach().numpy())
    got = reference.scatter_add(g, 1, index, x.shape)
    np.testing.assert_allclose(got, leaf.grad.numpy(), 1e-13)


@both
@pytest.mark.parametrize("index", [np.array([0, 2, 0]), (slice(1), [1, 1, -1]), (..., [0, 0])])
def test_the_gradient_of_an_index_counts_how_often_it_picks(module, index):
    picked = np.arange(12).reshape(3, 4)[index]
    got = module.getitem_grad(np.ones(picked.shape, np.float32), index, (3, 4))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.ravel(), np.bincount(picked.ravel(), minlength=12))


@both
def test_errors(module):
    weight = np.ones((3, 2))
    for index in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=r"embedding: indices -?\d\.\.\d for a table of 3"):
            module.take(weight, np.array(index))
    with pytest.raises(IndexError, match="out of bounds"):
        module.gather(weight, 0, np.array([[3]]))
