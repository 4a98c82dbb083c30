"""The matrix product, on the same threads as all other kernels.

NumPy's own product would be as fast, but BLAS's threads go on looking for work for some 30 ms
after it and take the cores from the kernels that follow: a DCGAN step at 28×28 spent a third of
its CPU time in them. So a large product is cut into blocks, each of which one of our threads
multiplies. NumPy itself uses one thread for a small one.
"""

from __future__ import annotations

import numpy as np

from .blas import gemm, gemm_address, one_thread
from .jit import kernel, prange, serial_kernel

__all__ = ["add_matmul", "linear", "matmul"]

SMALL = 1 << 18  # multiplications: up to here NumPy's BLAS stays on one thread by itself
BLOCK = 1 << 22  # multiplications for a task, some 0.1 ms: a thread that waits is there in 0.01 ms
TASKS = 16  # at most: each of them packs the other matrix anew


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., m, k) times b (..., k, n) -> (..., m, n), the axes before the last two broadcast.

    Any strides; without those axes the result is C-contiguous. Batches are left to NumPy.
    """
    if a.ndim != 2 or b.ndim != 2 or _is_small(a, b):
        return a @ b
    out = np.empty((len(a), b.shape[1]), a.dtype)
    return _multiply(a, b, out, accumulate=False)


def add_matmul(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """out += a b, for matrices of one dtype; `out` (m, n) is C-contiguous."""
    if _is_small(a, b):
        out += a @ b
    else:
        _multiply(a, b, out, accumulate=True)


def _is_small(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a product is NumPy's: too small for us, or of numbers that BLAS doesn't know."""
    return a.size * b.shape[1] <= SMALL or a.dtype != b.dtype or a.dtype.char not in "fd"


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, *, accumulate: bool) -> np.ndarray:
    (m, k), n = a.shape, b.shape[1]
    a, a_transposed = _stored(a)
    b, b_transposed = _stored(b)
    beta = a.dtype.type(accumulate)
    arguments = gemm_address(a.dtype), a, a_transposed, b, b_transposed, out, beta
    tasks = min(TASKS, round(m * n * k / BLOCK), max(m, n) // 32)
    with one_thread():
        if tasks < 2:
            _part(*arguments, m >= n, 0, max(m, n))
        else:  # a power of two, which most numbers of cores share evenly
            _parts(*arguments, m >= n, 1 << tasks.bit_length() - 1)
    return out


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y = x Wᵀ + b: x (M, in), weight (out, in), bias (out,) -> (M, out)."""
    y = matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def _stored(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """The matrix as it lies in memory, with contiguous rows, and whether that is its transpose."""
    if x.strides[1] == x.itemsize and x.strides[0] >= x.shape[1] * x.itemsize:
        return x, False
    if x.strides[0] == x.itemsize and x.strides[1] >= x.shape[0] * x.itemsize:
        return x.T, True
    return x.copy(order="C"), False  # also of a single row, whose stride may say anything


@serial_kernel
def _part(address, a, a_transposed, b, b_transposed, out, beta, by_rows, first, last):
    """Rows, or columns, first ... last - 1 of the output."""
    m, n = out.shape
    k = a.shape[0] if a_transposed else a.shape[1]
    size = out.itemsize
    lda, ldb = a.strides[0] // size, b.strides[0] // size
    if by_rows:
        gemm(
            address, last - first, n, k,
            a.ctypes.data + first * (1 if a_transposed else lda) * size, lda, a_transposed,
            b.ctypes.data, ldb, b_transposed, beta, out.ctypes.data + first * n * size, n,
        )  # fmt: skip
    else:
        gemm(
            address, m, last - first, k, a.ctypes.data, lda, a_transposed,
            b.ctypes.data + first * (ldb if b_transposed else 1) * size, ldb, b_transposed,
            beta, out.ctypes.data + first * size, n,
        )  # fmt: skip


@kernel
def _parts(address, a, a_transposed, b, b_transposed, out, beta, by_rows, tasks):
    """Rows or columns of the output in `tasks` equal parts, which are independent."""
    whole = out.shape[0] if by_rows else out.shape[1]
    for t in prange(tasks):
        task = np.int64(t)
        # Parts begin at multiples of 16, the width of BLAS's own blocks.
        first = task * whole // tasks // 16 * 16
        last = (task + 1) * whole // tasks // 16 * 16 if task + 1 < tasks else whole
        _part(address, a, a_transposed, b, b_transposed, out, beta, by_rows, first, last)
