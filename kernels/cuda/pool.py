"""Pooling and nearest-neighbour resizing on the GPU; see `pool.cu`.

Results have the memory order of the input: channels-last, or contiguous (to which any other order
is copied). All kernels are deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cupy
import numpy as np

from ..layout import channels_last, contiguous, is_channels_last
from ..reference.pool import Pair, windows
from .launch import REALS, Source, blocks, ctype

__all__ = [
    "avg_pool2d",
    "avg_pool2d_grad",
    "interpolate_nearest",
    "interpolate_nearest_grad",
    "max_pool2d",
    "max_pool2d_grad",
]

SOURCE = Source("pool.cu", REAL=REALS)
THREADS = 256
VECTOR_BYTES = 16
WARP = 32

Axis = tuple[int, int, int, int, int, int]
"""size, windows, kernel_size, stride, padding, dilation: the struct in pool.cuh."""


def max_pool2d(
    x: cupy.ndarray, *, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """See `reference.pool`."""
    axes = _windows(x.shape[2:], kernel_size, stride, padding, dilation)
    x = _ordered(x)
    y, indices = _empty(x, _results(axes)), _empty(x, _results(axes), "int32")
    _launch("max_pool", x, axes, (y, indices))
    return y, indices


def max_pool2d_grad(grad: cupy.ndarray, indices: cupy.ndarray, size: Pair) -> cupy.ndarray:
    """See `reference.pool`."""
    indices = _ordered(indices)
    side_by_side = is_channels_last(indices) and indices.shape[1] > 1
    return _max_pool2d_grad(grad, indices, size, plain=side_by_side)


def avg_pool2d(
    x: cupy.ndarray,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> cupy.ndarray:
    """See `reference.pool`."""
    axes = _windows(x.shape[2:], kernel_size, stride, padding)
    x = _ordered(x)
    y = _empty(x, _results(axes))
    _launch("avg_pool", x, axes, (count_include_pad, y))
    return y


def avg_pool2d_grad(
    grad: cupy.ndarray,
    size: Pair,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> cupy.ndarray:
    """See `reference.pool`."""
    axes = _windows(size, kernel_size, stride, padding)
    grad = _ordered(grad)
    grad_x = _empty(grad, size)
    _launch("avg_pool_grad", grad, axes, (count_include_pad, grad_x))
    return grad_x


def interpolate_nearest(x: cupy.ndarray, size: Pair) -> cupy.ndarray:
    """See `reference.pool`."""
    x = _ordered(x)
    y = _empty(x, size)
    _launch("nearest", x, _resized(x.shape[2:], size), (y,))
    return y


def interpolate_nearest_grad(grad: cupy.ndarray, size: Pair) -> cupy.ndarray:
    """See `reference.pool`."""
    grad = _ordered(grad)
    grad_x = _empty(grad, size)
    _launch("nearest_grad", grad, _resized(size, grad.shape[2:]), (grad_x,))
    return grad_x


def _max_pool2d_grad(
    grad: cupy.ndarray, indices: cupy.ndarray, size: Pair, *, plain: bool
) -> cupy.ndarray:
    """By a thread per plane, or by a warp per plane of contiguous memory."""
    by_channels = is_channels_last(indices)
    grad = channels_last(grad) if by_channels else contiguous(grad)
    n, channels, *results = grad.shape
    grad_x = _empty(grad, size)
    grad_x.fill(0)
    planes, counts = n * channels, (math.prod(results), math.prod(size))
    if plain:
        kernel = SOURCE.kernel("max_pool_grad", REAL=ctype(grad))
        step = channels if by_channels else 1
        arguments = (grad, indices, planes, step, *counts, grad_x)
        kernel(blocks(planes, THREADS), THREADS, arguments)
    else:
        kernel = SOURCE.kernel("max_pool_grad_planes", REAL=ctype(grad))
        arguments = (grad, indices, planes, *counts, grad_x)
        kernel(blocks(planes, THREADS // WARP), THREADS, arguments)
    return grad_x


def _launch(name: str, x: cupy.ndarray, axes: Sequence[Axis], results: tuple) -> None:
    """A kernel with a thread for each element, or vector, of the last result."""
    images, channels = x.shape[:2]
    if not is_channels_last(x):
        images, channels = images * channels, 1
    arrays = [x, *(a for a in results if isinstance(a, cupy.ndarray))]
    width = VECTOR_BYTES // x.itemsize
    vectors = channels % width == 0 and all(a.data.ptr % VECTOR_BYTES == 0 for a in arrays)
    pool = np.array([images, channels, *axes[0], *axes[1]], np.int32)
    threads = results[-1].size // (width if vectors else 1)
    kernel = SOURCE.kernel(name, REAL=ctype(x))
    kernel(blocks(threads, THREADS), THREADS, (x, pool, vectors, *results))


def _windows(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> list[Axis]:
    return [
        (n, len(windows(n, kernel_size=k, stride=s, padding=p, dilation=d)[0]), k, s, p, d)
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]


def _resized(size: Pair, out: Pair) -> list[Axis]:
    return [(n, m, 1, 1, 0, 1) for n, m in zip(size, out, strict=True)]


def _results(axes: Sequence[Axis]) -> Pair:
    return axes[0][1], axes[1][1]


def _ordered(x: cupy.ndarray) -> cupy.ndarray:
    return x if is_channels_last(x) else contiguous(x)


def _empty(like: cupy.ndarray, size: Pair, dtype: str | None = None) -> cupy.ndarray:
    """An array for images of this size in the memory order of `like`."""
    n, channels = like.shape[:2]
    dtype = dtype or like.dtype
    if is_channels_last(like):
        return cupy.empty((n, *size, channels), dtype).transpose(0, 3, 1, 2)
    return cupy.empty((n, channels, *size), dtype)
