"""The matrix product, on the same threads as all other kernels.

NumPy's BLAS would be as fast, but its threads go on looking for work for some 30 ms after a
product and take the cores from the kernels that follow: a DCGAN step at 28×28 spent a third of its
CPU time in them. So a large product is cut into blocks, each of which one of our threads
multiplies. NumPy itself uses one thread for a small one.
"""

from __future__ import annotations

import numpy as np

from .blas import gemm, gemm_address, one_thread
from .jit import kernel, prange

__all__ = ["matmul"]

SMALL = 1 << 18  # multiplications: BLAS computes up to here on one thread, in less than 10 µs
BLOCK = 1 << 22  # multiplications for a task: enough to be worth a thread
TASKS = 16  # at most: each of them packs the other matrix anew


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (m, k) times b (k, n) -> (m, n), C-contiguous; float32 or float64, any strides."""
    (m, k), n = a.shape, b.shape[1]
    if m * n * k <= SMALL or a.dtype != b.dtype or a.dtype.char not in "fd":
        return a @ b
    a, a_transposed = _stored(a)
    b, b_transposed = _stored(b)
    out = np.empty((m, n), a.dtype)
    by_rows = m >= n
    tasks = max(1, min(TASKS, m * n * k // BLOCK, max(m, n) // 32))
    with one_thread():
        _blocks(
            gemm_address(a.dtype), a, a_transposed, b, b_transposed, out, by_rows, tasks,
            a.dtype.type(0),
        )  # fmt: skip
    return out


def _stored(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """The matrix as it lies in memory, with contiguous rows, and whether that is its transpose."""
    if x.strides[1] == x.itemsize and x.strides[0] >= x.shape[1] * x.itemsize:
        return x, False
    if x.strides[0] == x.itemsize and x.strides[1] >= x.shape[0] * x.itemsize:
        return x.T, True
    return x.copy(order="C"), False  # also of a single row, whose stride may say anything


@kernel
def _blocks(address, a, a_transposed, b, b_transposed, out, by_rows, tasks, zero):
    """Rows or columns of the output in `tasks` equal parts, which are independent."""
    m, n = out.shape
    k = a.shape[0] if a_transposed else a.shape[1]
    size = out.itemsize
    lda, ldb = a.strides[0] // size, b.strides[0] // size
    for task in prange(tasks):
        # Parts begin at multiples of 16, the width of BLAS's own blocks.
        whole = m if by_rows else n
        first = np.int64(task) * whole // tasks // 16 * 16
        last = (np.int64(task) + 1) * whole // tasks // 16 * 16 if task + 1 < tasks else whole
        count = last - first
        if by_rows:
            gemm(
                address, count, n, k,
                a.ctypes.data + first * (1 if a_transposed else lda) * size, lda, a_transposed,
                b.ctypes.data, ldb, b_transposed, zero, out.ctypes.data + first * n * size, n,
            )  # fmt: skip
        else:
            gemm(
                address, m, count, k, a.ctypes.data, lda, a_transposed,
                b.ctypes.data + first * (ldb if b_transposed else 1) * size, ldb, b_transposed,
                zero, out.ctypes.data + first * size, n,
            )  # fmt: skip
