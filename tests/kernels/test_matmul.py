"""The blocked matrix product against NumPy's, for every way a matrix can lie in memory."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import matmul as cpu
from tinygen_kernels.reference import matmul as reference

LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: np.asfortranarray(x),
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "wider": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
}


def matrices(m, k, n, dtype):
    rng = np.random.default_rng(m * 7919 + k * 31 + n)
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


def check(a, b):
    tolerance = {"f": 1e-5, "d": 1e-13}[a.dtype.char] * max(1, a.shape[1]) ** 0.5
    got = cpu.matmul(a, b)
    assert got.dtype == a.dtype
    np.testing.assert_allclose(got, reference.matmul(a, b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_layouts_and_both_ways_of_cutting(a_layout, b_layout, dtype):
    for m, k, n in [
        (331, 129, 67),
        (67, 129, 331),
        (1, 700, 401),
        (401, 700, 1),
        (643, 701, 131),
        (131, 701, 643),
    ]:
        a, b = matrices(m, k, n, dtype)
        check(LAYOUTS[a_layout](a), LAYOUTS[b_layout](b))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 400))
def test_odd_sizes(m, k, n):
    check(*matrices(m, k, n, np.float32))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_nothing_to_multiply(shape):
    check(*matrices(*shape, np.float32))


def test_threads_do_not_change_a_bit():
    a, b = matrices(517, 301, 403, np.float32)
    before = numba.get_num_threads()
    try:
        results = []
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            results.append(cpu.matmul(a, b))
    finally:
        numba.set_num_threads(before)
    assert (results[0] == results[1]).all()


@pytest.mark.parametrize("bias", [None, np.arange(3.0)])
def test_the_affine_map(bias):
    x, weight = matrices(70, 90, 80, np.float64)
    weight = weight.T[:3]
    got = cpu.linear(x, weight, bias)
    np.testing.assert_allclose(got, reference.linear(x, weight, bias), 1e-12, 1e-12)
    expected = np.einsum("mi,oi->mo", x, weight) + (0 if bias is None else bias)
    np.testing.assert_allclose(got, expected, 1e-12, 1e-12)


def test_batches_broadcast():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 3, 4)), rng.standard_normal((5, 4, 2))
    np.testing.assert_allclose(cpu.matmul(a, b), np.einsum("xyij,zjk->xzik", a, b), 1e-12)
