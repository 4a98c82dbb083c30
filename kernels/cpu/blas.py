"""Matrix products inside Numba kernels: a BLAS called by address, one thread each.

`np.dot` in Numba can't accumulate into its output or work on sub-matrices, and a convolution needs
both. The address comes in as an argument, so compiled kernels can be cached on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import get_cython_function_address, intrinsic
from threadpoolctl import ThreadpoolController

from .jit import serial_kernel

# What functions are called in the OpenBLAS that NumPy's wheels bring.
_GEMM = "scipy_{}_64_"
_THREADS = "scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"


@cache
def gemm_address(dtype: np.dtype) -> int:
    """Address of `sgemm` or `dgemm` (the Fortran interface).

    NumPy's OpenBLAS if it has one, as its wheels do: it is newer than SciPy's and, at our sizes,
    up to 1.3 times as fast, for small matrices 2.7 times. Else whatever SciPy uses.
    """
    name = {"float32": "sgemm", "float64": "dgemm"}[np.dtype(dtype).name]
    for library in _of_numpy():
        function = getattr(library.dynlib, _GEMM.format(name))
        return ctypes.cast(function, ctypes.c_void_p).value
    return get_cython_function_address("scipy.linalg.cython_blas", name)


@cache
def _of_numpy() -> list:
    """NumPy's own BLAS, if we can call it."""
    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    needed = _GEMM.format("sgemm"), *_THREADS
    return [lib for lib in found if all(hasattr(lib.dynlib, name) for name in needed)]


@cache
def _switches() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """How to read and how to set the number of threads, of the BLAS in use or, if it isn't known
    which that is, of all. Of NumPy's the functions themselves: threadpoolctl looks for them anew
    at every call, for as long as a small product takes.
    """
    gemm_address(np.dtype("f4"))  # loads it
    if _of_numpy():
        return [tuple(getattr(lib.dynlib, name) for name in _THREADS) for lib in _of_numpy()]
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [(lib.get_num_threads, lib.set_num_threads) for lib in found]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread per call: the kernel around it already uses all cores."""
    switches = _switches()
    before = [read() for read, _ in switches]
    for _, set_threads in switches:
        set_threads(1)
    try:
        yield
    finally:
        for (_, set_threads), threads in zip(switches, before, strict=True):
            set_threads(threads)


@intrinsic
def _call_gemm(typingctx, address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """Fortran's gemm(transa, transb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc); `a`, `b`, `c` are
    addresses, `beta` has the type of the elements, a transposition is the character's code."""
    signature = types.void(address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)

    def codegen(context, builder, signature, args):
        def by_reference(value, type_):
            slot = builder.alloca(type_)
            builder.store(value, slot)
            return slot

        byte = ir.IntType(8)
        address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc = args
        number = beta.type

        def integer(value):
            # In 64 bits: a library with sizes of 32 bits reads the lower half, which comes first.
            return by_reference(value, value.type)

        def pointer(value):
            return builder.inttoptr(value, number.as_pointer())

        def character(value):
            return by_reference(builder.trunc(value, byte), byte)

        arguments = [
            character(trans_a), character(trans_b), integer(m), integer(n), integer(k),
            by_reference(ir.Constant(number, 1.0), number), pointer(a), integer(lda),
            pointer(b), integer(ldb), by_reference(beta, number), pointer(c), integer(ldc),
        ]  # fmt: skip
        function = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.inttoptr(address, function.as_pointer()), arguments)
        return context.get_dummy_value()

    return signature, codegen


_N, _T = ord("N"), ord("T")


@serial_kernel
def gemm(address, m, n, k, a, lda, a_transposed, b, ldb, b_transposed, beta, c, ldc):
    """c (m, n) = op(a) (m, k) op(b) (k, n) + beta c, for row-major matrices.

    `a`, `b` and `c` are addresses, `ld*` the elements from one stored row to the next, and beta
    has the type of the elements. A row-major product is BLAS's column-major product of the
    transposes in the other order.
    """
    _call_gemm(
        address, np.int64(_T if b_transposed else _N), np.int64(_T if a_transposed else _N),
        n, m, k, b, ldb, a, lda, beta, c, ldc,
    )  # fmt: skip


@serial_kernel
def multiply(address, a, b, b_transposed, accumulate, c):
    """c = a op(b), or c += with `accumulate`, for matrices whose rows are contiguous."""
    beta = c.dtype.type(1) if accumulate else c.dtype.type(0)
    m, n = c.shape
    size = c.itemsize
    gemm(
        address, m, n, a.shape[1], a.ctypes.data, a.strides[0] // size, False,
        b.ctypes.data, b.strides[0] // size, b_transposed, beta,
        c.ctypes.data, c.strides[0] // size,
    )  # fmt: skip
