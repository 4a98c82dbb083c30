"""Memory order: kernels loop over dense memory and give their result in the order of their input.

Shapes are (N, C, ...) everywhere. The memory below may be C-contiguous or channels-last, the order
that convolutions return: an NCHW-shaped view of NHWC memory. Nothing here copies unless it must;
on the CPU NumPy's single-threaded copy is as fast as a parallel transposing kernel was. Written
with what NumPy's and CuPy's arrays have in common, for the CPU's and the GPU's launchers.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "around",
    "channels_last",
    "contiguous",
    "dense",
    "dense_like",
    "flat",
    "from_rows",
    "is_channels_last",
    "rows",
]


def _by_stride(x: np.ndarray) -> list[int]:
    """The axes of `x` from the largest step in memory to the smallest."""
    return sorted(range(x.ndim), key=x.strides.__getitem__, reverse=True)


def dense(x: np.ndarray) -> np.ndarray:
    """`x` itself if its memory has no gaps in some order of the axes, else a C-contiguous copy."""
    if x.flags.c_contiguous or x.transpose(_by_stride(x)).flags.c_contiguous:
        return x
    return x.copy(order="C")


def dense_like(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`x` in the memory order of `like`, a dense array of the same shape (a copy if need be)."""
    if x.flags.c_contiguous and like.flags.c_contiguous:
        return x
    if x.transpose(_by_stride(like)).flags.c_contiguous:
        return x
    out = np.empty_like(like, dtype=x.dtype)
    out[...] = x
    return out


def flat(x: np.ndarray) -> np.ndarray:
    """The elements of a dense array as a 1-D view, in the order in which they lie in memory."""
    return x.reshape(-1) if x.flags.c_contiguous else x.transpose(_by_stride(x)).reshape(-1)


def around(x: np.ndarray, axis: int) -> np.ndarray:
    """A dense array's memory as (outer, size of `axis`, inner), a C-contiguous view: what lies
    before that axis in memory, and what lies after it."""
    if not x.flags.c_contiguous:
        order = _by_stride(x)
        x, axis = x.transpose(order), order.index(axis)
    sizes = x.shape
    return x.reshape(math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :]))


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x` itself if it is C-contiguous, else a C-contiguous copy."""
    return x if x.flags.c_contiguous else x.copy(order="C")


def _last(x: np.ndarray) -> np.ndarray:
    """A view of an (N, C, ...) array with the axes (N, ..., C)."""
    return x.transpose(0, *range(2, x.ndim), 1)


def is_channels_last(x: np.ndarray) -> bool:
    """Whether the channels of an (N, C, ...) array lie next to each other in dense memory."""
    return _last(x).flags.c_contiguous


def channels_last(x: np.ndarray) -> np.ndarray:
    """An (N, C, ...) array with channels-last memory: `x` itself, or a copy."""
    if is_channels_last(x):
        return x
    return from_rows(contiguous(_last(x)), x.shape)


def rows(x: np.ndarray) -> np.ndarray:
    """An (N, C, ...) array as a C-contiguous (N·..., C) matrix: a view if it is channels-last."""
    n, channels, *spatial = x.shape
    return contiguous(_last(x)).reshape(n * math.prod(spatial), channels)


def from_rows(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `rows`: an array of `shape` (N, C, ...) over channels-last memory."""
    n, channels, *spatial = shape
    nhwc = matrix.reshape(n, *spatial, channels)
    return nhwc.transpose(0, nhwc.ndim - 1, *range(1, nhwc.ndim - 1))
