"""Pooling and nearest-neighbour resizing: each result gathers a rectangle of its source.

Average pooling, nearest resizing and the gradients of both are one kernel, the sum over rectangles
[first_h, stop_h) × [first_w, stop_w): the windows that hold a given element are a range as well.
A gather needs no atomics and has one order of summation. Only the gradient of max pooling
scatters, and its images are independent.

Kernels see channels-last memory as (N, H, W, C) arrays in C order and vectorise along C; other
memory is copied to it, which is several times faster than pooling it as it lies. Results are
channels-last.
"""

from __future__ import annotations

import numpy as np

from ..layout import channels_last
from ..reference.pool import Pair, nearest, windows
from .jit import kernel, prange

__all__ = [
    "avg_pool2d",
    "avg_pool2d_grad",
    "interpolate_nearest",
    "interpolate_nearest_grad",
    "max_pool2d",
    "max_pool2d_grad",
]

Ranges = tuple[np.ndarray, np.ndarray]
"""first and stop of the range that each result reads along an axis."""


def max_pool2d(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """See `reference.pool`."""
    spans = _windows(x.shape[2:], kernel_size, stride, padding, dilation)
    y = np.empty((len(x), len(spans[0][0]), len(spans[1][0]), x.shape[1]), x.dtype)
    indices = np.empty(y.shape, np.int32)
    _max_windows(_nhwc(x), *spans[0], *spans[1], *dilation, y, indices)
    return _nchw(y), _nchw(indices)


def max_pool2d_grad(grad: np.ndarray, indices: np.ndarray, size: Pair) -> np.ndarray:
    """See `reference.pool`."""
    n, channels, height, width = grad.shape
    positions = (n, height * width, channels)
    grad_x = np.zeros((n, size[0] * size[1], channels), grad.dtype)
    _scatter(_nhwc(grad).reshape(positions), _nhwc(indices).reshape(positions), grad_x)
    return _nchw(grad_x.reshape(n, *size, channels))


def avg_pool2d(
    x: np.ndarray,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> np.ndarray:
    """See `reference.pool`."""
    spans = _windows(x.shape[2:], kernel_size, stride, padding)
    if count_include_pad:
        return _gather(x, spans, 1 / (kernel_size[0] * kernel_size[1]))
    return _gather(x, spans) * _window_weights(spans, x.dtype)


def avg_pool2d_grad(
    grad: np.ndarray,
    size: Pair,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> np.ndarray:
    """See `reference.pool`."""
    spans = _windows(size, kernel_size, stride, padding)
    back = _transposed(spans, size)
    if count_include_pad:
        return _gather(grad, back, 1 / (kernel_size[0] * kernel_size[1]))
    return _gather(grad * _window_weights(spans, grad.dtype), back)


def interpolate_nearest(x: np.ndarray, size: Pair) -> np.ndarray:
    """See `reference.pool`."""
    return _gather(x, _nearest(x.shape[2:], size))


def interpolate_nearest_grad(grad: np.ndarray, size: Pair) -> np.ndarray:
    """See `reference.pool`."""
    return _gather(grad, _transposed(_nearest(size, grad.shape[2:]), size))


def _windows(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> list[Ranges]:
    """The range of each pooling window, down and across."""
    return [
        windows(n, kernel_size=k, stride=s, padding=p, dilation=d)
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]


def _nearest(size: Pair, out: Pair) -> list[Ranges]:
    taken = [nearest(n, m) for n, m in zip(size, out, strict=True)]
    return [(index, index + 1) for index in taken]


def _transposed(spans: list[Ranges], size: Pair) -> list[Ranges]:
    """For each element the range of windows that hold it (both ends of windows never decrease)."""
    return [
        (
            np.searchsorted(stop, np.arange(n), "right"),
            np.searchsorted(first, np.arange(n), "right"),
        )
        for (first, stop), n in zip(spans, size, strict=True)
    ]


def _window_weights(spans: list[Ranges], dtype: np.dtype) -> np.ndarray:
    """1 / number of elements of each window, (H, W)."""
    down, across = (stop - first for first, stop in spans)
    return (1 / np.outer(down, across)).astype(dtype)


def _nhwc(x: np.ndarray) -> np.ndarray:
    return channels_last(x).transpose(0, 2, 3, 1)


def _nchw(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


def _gather(x: np.ndarray, spans: list[Ranges], scale: float = 1.0) -> np.ndarray:
    y = np.zeros((len(x), len(spans[0][0]), len(spans[1][0]), x.shape[1]), x.dtype)
    _sum_windows(_nhwc(x), *spans[0], *spans[1], x.dtype.type(scale), y)
    return _nchw(y)


@kernel
def _sum_windows(x, first_h, stop_h, first_w, stop_w, scale, y):
    images, height, width, channels = y.shape
    for k in prange(images * height):  # one row of the result each
        n = k // height
        i = k % height
        for j in range(width):
            for h in range(first_h[i], stop_h[i]):
                for w in range(first_w[j], stop_w[j]):
                    for c in range(channels):
                        y[n, i, j, c] += scale * x[n, h, w, c]


@kernel
def _max_windows(x, first_h, stop_h, first_w, stop_w, dilation_h, dilation_w, y, indices):
    images, height, width, channels = y.shape
    for k in prange(images * height):
        n = k // height
        i = k % height
        for j in range(width):
            for c in range(channels):
                y[n, i, j, c] = x[n, first_h[i], first_w[j], c]
                indices[n, i, j, c] = first_h[i] * x.shape[2] + first_w[j]
            for h in range(first_h[i], stop_h[i], dilation_h):
                for w in range(first_w[j], stop_w[j], dilation_w):
                    here = np.int32(h * x.shape[2] + w)
                    for c in range(channels):
                        v = x[n, h, w, c]
                        best = y[n, i, j, c]
                        # The first NaN wins over all and is kept: no comparison with it is true.
                        wins = (v > best) | ((v != v) & (best == best))
                        y[n, i, j, c] = v if wins else best
                        indices[n, i, j, c] = here if wins else indices[n, i, j, c]


@kernel
def _scatter(grad, indices, grad_x):
    images, positions, channels = grad.shape
    for n in prange(images):
        for p in range(positions):
            for c in range(channels):
                grad_x[n, indices[n, p, c], c] += grad[n, p, c]
