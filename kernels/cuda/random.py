"""Counter-based random numbers on a GPU: the same numbers as everywhere (`reference.random`).

An offset is an integer, or a pair (counter, plus) with a counter in device memory, uint64 (1,):
its value when the kernel runs, plus `plus`. A recorded graph that ends with `advance_` draws new
numbers at every replay, where an integer would be part of the recording.

Words, uniform and Bernoulli numbers are exactly the reference's. Normal ones differ by a few units
in the last place, by the GPU's logarithm, sine and cosine.
"""

from __future__ import annotations

import cupy
import numpy as np
from numpy.typing import DTypeLike

from ..layout import contiguous
from .launch import REALS, Source, blocks, ctype

__all__ = ["Offset", "advance_", "bernoulli", "bits", "normal", "uniform"]

Offset = int | tuple[cupy.ndarray, int]

SOURCE = Source("random.cu", REAL=REALS)

_THREADS = 256
_MOST_BLOCKS = 1 << 20  # threads stride over what is left; a test lowers it
_VECTOR = 16  # bytes of the widest store


def bits(seed: int, offset: Offset, n: int, *, plane: int = 0) -> cupy.ndarray:
    """Random words, uint32 (n,)."""
    out = cupy.empty(n, np.uint32)
    _draw("bits", "float", out, seed, offset, plane)
    return out


def uniform(
    seed: int, offset: Offset, shape: tuple[int, ...], low: float, high: float, dtype: DTypeLike
) -> cupy.ndarray:
    """low + (high - low) u, with u on a grid of step 2⁻²⁴ (float64: 2⁻⁵³) in [0, 1)."""
    out = cupy.empty(shape, dtype)
    _draw("uniform", ctype(out), out, seed, offset, low, high - low)
    return out


def normal(
    seed: int, offset: Offset, shape: tuple[int, ...], mean: float, std: float, dtype: DTypeLike
) -> cupy.ndarray:
    """mean + std z, with z of a standard normal distribution (Box and Muller 1958)."""
    out = cupy.empty(shape, dtype)
    _draw("normal", ctype(out), out, seed, offset, mean, std)
    return out


def _normal_plain(
    seed: int, offset: Offset, shape: tuple[int, ...], mean: float, std: float, dtype: DTypeLike
) -> cupy.ndarray:
    out = cupy.empty(shape, dtype)
    kernel = SOURCE.kernel("normal_plain", REAL=ctype(out))
    arguments = out, out.size, seed, *_place(offset), mean, std
    kernel(blocks(out.size, _THREADS), _THREADS, arguments)
    return out


def bernoulli(
    seed: int,
    offset: Offset,
    shape: tuple[int, ...],
    p: float | cupy.ndarray,
    dtype: DTypeLike,
) -> cupy.ndarray:
    """1 with probability p, else 0: whether the float32 uniform number is below p.

    p is a number, or a float32 or float64 array on the device that broadcasts to `shape`.
    """
    if isinstance(p, cupy.ndarray):
        out = cupy.empty(shape, p.dtype)
        everywhere = contiguous(cupy.broadcast_to(p, shape))
        _draw("bernoulli", ctype(out), out, seed, offset, everywhere, 0.0)
    else:
        out = cupy.empty(shape, dtype if np.dtype(dtype) in (np.float32, np.float64) else "f4")
        # A Python number meets a float32 in float32, as in NumPy.
        limit = p if isinstance(p, np.generic) else np.float32(p)
        _draw("bernoulli", ctype(out), out, seed, offset, None, limit)
    return out.astype(dtype, copy=False)


def advance_(counter: cupy.ndarray, n: int) -> None:
    """Add n to a counter (uint64, shape (1,)) on the device, modulo 2⁶⁴."""
    counter += np.uint64(n)


def _draw(
    kernel: str, real: str, out: cupy.ndarray, seed: int, offset: Offset, *arguments
) -> None:
    """Fill `out`, four elements to a thread."""
    aligned = out.data.ptr % _VECTOR == 0
    grid = blocks(out.size, 4 * _THREADS, _MOST_BLOCKS)
    all_arguments = out, out.size, aligned, seed, *_place(offset), *arguments
    SOURCE.kernel(kernel, REAL=real)(grid, _THREADS, all_arguments)


def _place(offset: Offset) -> tuple[int, cupy.ndarray | None]:
    """An offset as the kernels take it: what the host knows of it, and the counter or None."""
    if not isinstance(offset, tuple):
        return offset, None
    counter, plus = offset
    if counter.dtype != np.uint64 or counter.shape != (1,):
        raise TypeError(
            f"random: the counter is {counter.dtype} {counter.shape}, expected uint64 (1,)"
        )
    return plus, counter
