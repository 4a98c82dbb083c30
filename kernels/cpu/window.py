"""DRAW's windows: the filters are made, used and differentiated in the L1 cache, image by image.

FLOPs of a window of n × n on a channel of H × W pixels: about 2 n H W, the gradient 6 n H W; the
bytes are those of the images, read or written once. Matrices lie in buffers with rows of whole
vectors, padded with zeros, so that inner loops have no tail.
"""

from __future__ import annotations

import numpy as np

from ..reference.window import longest_stride
from .jit import kernel, prange, serial_kernel
from .math import exp

__all__ = ["read_window", "read_window_grad", "write_window", "write_window_grad"]

IMAGES = 8  # of a task, which makes its buffers once
LANES = 32  # numbers that a vectorised loop takes at once (four vectors of 8)


def read_window(images: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """γ F_y X F_xᵀ, see `reference.window.read_window`."""
    n, channels, _, _ = images.shape
    images, window = np.ascontiguousarray(images), np.ascontiguousarray(window)
    patches = np.empty((n, channels, size, size), images.dtype)
    _read(images, window, _stride(size, images), patches)
    return patches


def read_window_grad(
    grad: np.ndarray, images: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `read_window` for images and window."""
    grad, images, window = map(np.ascontiguousarray, (grad, images, window))
    grads = np.empty_like(images), np.empty_like(window)
    _read_grad(grad, images, window, _stride(grad.shape[2], images), *grads)
    return grads


def write_window(patches: np.ndarray, window: np.ndarray, height: int, width: int) -> np.ndarray:
    """1/γ F_yᵀ P F_x, see `reference.window.write_window`."""
    n, channels, size, _ = patches.shape
    patches, window = np.ascontiguousarray(patches), np.ascontiguousarray(window)
    images = np.empty((n, channels, height, width), patches.dtype)
    _write(patches, window, _stride(size, images), images)
    return images


def write_window_grad(
    grad: np.ndarray, patches: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `write_window` for patches and window."""
    grad, patches, window = map(np.ascontiguousarray, (grad, patches, window))
    grads = np.empty_like(patches), np.empty_like(window)
    _write_grad(grad, patches, window, _stride(patches.shape[2], grad), *grads)
    return grads


def _stride(size: int, images: np.ndarray):
    return images.dtype.type(longest_stride(size, *images.shape[2:]))


@kernel
def _read(images, window, longest, patches):
    for task in prange(-(-len(images) // IMAGES)):
        rows, columns, pixels, seen, patch = _buffers(images, patches)
        one = window.dtype.type(1)
        for n in range(task * IMAGES, min((task + 1) * IMAGES, len(images))):
            _filters(window[n], longest, images, rows, columns)
            gain = exp(window[n, 4])
            for c in range(images.shape[1]):
                _copy(images[n, c], one, pixels)
                _multiply(rows, pixels, False, seen)
                _multiply_transposed(seen, columns, False, patch)
                _copy(patch, gain, patches[n, c])


@kernel
def _read_grad(grad, images, window, longest, grad_images, grad_window):
    for task in prange(-(-len(images) // IMAGES)):
        rows, columns, pixels, seen, patch = _buffers(images, grad)
        grad_rows, grad_columns, grad_pixels, grad_seen, _ = _buffers(images, grad)
        one = window.dtype.type(1)
        for n in range(task * IMAGES, min((task + 1) * IMAGES, len(images))):
            _filters(window[n], longest, images, rows, columns)
            gain = exp(window[n, 4])
            for c in range(images.shape[1]):
                _copy(grad[n, c], gain, patch)
                _copy(images[n, c], one, pixels)
                _multiply(rows, pixels, False, seen)
                _multiply(patch, columns, False, grad_seen)
                _multiply(rows.T, grad_seen, False, grad_pixels)
                _copy(grad_pixels, one, grad_images[n, c])
                _multiply_transposed(grad_seen, pixels, c > 0, grad_rows)
                _multiply(patch.T, seen, c > 0, grad_columns)
            gradients = grad_rows, grad_columns
            _window_grad(window[n], longest, images, rows, columns, *gradients, grad_window[n])


@kernel
def _write(patches, window, longest, images):
    for task in prange(-(-len(images) // IMAGES)):
        rows, columns, pixels, strokes, patch = _buffers(images, patches)
        one = window.dtype.type(1)
        for n in range(task * IMAGES, min((task + 1) * IMAGES, len(images))):
            _filters(window[n], longest, images, rows, columns)
            gain = exp(-window[n, 4])
            for c in range(images.shape[1]):
                _copy(patches[n, c], gain, patch)
                _multiply(patch, columns, False, strokes)
                _multiply(rows.T, strokes, False, pixels)
                _copy(pixels, one, images[n, c])


@kernel
def _write_grad(grad, patches, window, longest, grad_patches, grad_window):
    for task in prange(-(-len(grad) // IMAGES)):
        rows, columns, pixels, strokes, patch = _buffers(grad, patches)
        grad_rows, grad_columns, _, grad_strokes, grad_patch = _buffers(grad, patches)
        one = window.dtype.type(1)
        for n in range(task * IMAGES, min((task + 1) * IMAGES, len(grad))):
            _filters(window[n], longest, grad, rows, columns)
            gain = exp(-window[n, 4])
            for c in range(grad.shape[1]):
                _copy(grad[n, c], one, pixels)
                _copy(patches[n, c], gain, patch)
                _multiply(patch, columns, False, strokes)
                _multiply(rows, pixels, False, grad_strokes)
                _multiply_transposed(grad_strokes, columns, False, grad_patch)
                _copy(grad_patch, gain, grad_patches[n, c])
                _multiply_transposed(strokes, pixels, c > 0, grad_rows)
                _multiply(patch.T, grad_strokes, c > 0, grad_columns)
            gradients = grad_rows, grad_columns
            _window_grad(window[n], longest, grad, rows, columns, *gradients, grad_window[n])
            grad_window[n, 4] = -grad_window[n, 4]  # the gain divides here


@serial_kernel
def _buffers(images, patches):
    """For F_y, F_x, an image, F_y times it, and a patch: one channel of one image."""
    size, (height, width) = patches.shape[2], images.shape[2:]
    padded = -(-width // LANES) * LANES
    return (
        np.zeros((size, height), images.dtype),
        np.zeros((size, padded), images.dtype),
        np.zeros((height, padded), images.dtype),
        np.zeros((size, padded), images.dtype),
        np.zeros((size, size), images.dtype),
    )


@serial_kernel
def _copy(source, scale, target):
    """target = scale source, as much of it as both hold."""
    rows, columns = min(len(source), len(target)), min(source.shape[1], target.shape[1])
    for i in range(rows):
        for j in range(columns):
            target[i, j] = source[i, j] * scale


@serial_kernel
def _multiply(a, b, accumulate, out):
    """out = a b, or out += a b; a may be any view. Four rows of b at a time go into a row of out,
    so that it is read and written a quarter as often."""
    (m, k), n = a.shape, b.shape[1]
    for i in range(m):
        if not accumulate:
            for j in range(n):
                out[i, j] = 0
        for p in range(0, k - 3, 4):
            a0, a1, a2, a3 = a[i, p], a[i, p + 1], a[i, p + 2], a[i, p + 3]
            for j in range(n):
                pair = a0 * b[p, j] + a1 * b[p + 1, j]
                out[i, j] += pair + a2 * b[p + 2, j] + a3 * b[p + 3, j]
        for p in range(k // 4 * 4, k):
            for j in range(n):
                out[i, j] += a[i, p] * b[p, j]


@serial_kernel
def _multiply_transposed(a, b, accumulate, out):
    """out = a bᵀ, or out += a bᵀ."""
    for i in range(len(a)):
        for j in range(len(b)):
            total = a.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[j, k]
            out[i, j] = out[i, j] + total if accumulate else total


@serial_kernel
def _filters(window, longest, images, rows, columns):
    """Fill in F_y and F_x."""
    height, width = images.shape[2:]
    _filter_axis(*_grid(window, 1, longest, height), height, rows)
    _filter_axis(*_grid(window, 0, longest, width), width, columns)


@serial_kernel
def _grid(window, axis, longest, length):
    """Where the filters lie along an axis: g, δ and 1/σ²."""
    number = window.dtype.type
    centre = number((window[axis] + 1) * ((length + 1) / 2) - 1)
    return centre, number(exp(window[3]) * longest), number(exp(-window[2]))


@serial_kernel
def _filter_axis(centre, stride, precision, length, weights):
    number, size = weights.dtype.type, len(weights)
    half = number(-0.5) * precision
    for i in range(size):
        mean = number(centre + (i - (size - 1) / 2) * stride)
        # The largest exponent is the nearest pixel's; less it, none overflows, and one is 0.
        nearest = number(min(max(np.floor(mean + 0.5), 0.0), length - 1.0)) - mean
        largest = nearest * nearest * half
        total = number(0)
        for a in range(length):
            distance = number(a) - mean
            weights[i, a] = exp(distance * distance * half - largest)
            total += weights[i, a]
        for a in range(length):
            weights[i, a] /= total


@serial_kernel
def _window_grad(window, longest, images, rows, columns, grad_rows, grad_columns, grad_window):
    """From the gradients of F_y and F_x. Both the result and F_y are proportional to the gain, if
    it multiplies: its gradient is F_y's along F_y."""
    height, width = images.shape[2:]
    of_y = _filter_grad(*_grid(window, 1, longest, height), height, rows, grad_rows)
    of_x = _filter_grad(*_grid(window, 0, longest, width), width, columns, grad_columns)
    grad_window[0] = of_x[0] * ((width + 1) / 2)
    grad_window[1] = of_y[0] * ((height + 1) / 2)
    grad_window[2] = of_x[1] + of_y[1]
    grad_window[3] = of_x[2] + of_y[2]
    grad_window[4] = of_y[3]


@serial_kernel
def _filter_grad(centre, stride, precision, length, weights, grad):
    """The gradients of g, of log σ², of log δ and of a factor of the weights."""
    number, size = weights.dtype.type, len(weights)
    of_centre = of_variance = of_stride = of_factor = number(0)
    for i in range(size):
        mean = number(centre + (i - (size - 1) / 2) * stride)
        average = of_mean = of_square = number(0)
        for a in range(length):
            average += weights[i, a] * grad[i, a]
        for a in range(length):
            distance = number(a) - mean
            part = weights[i, a] * (grad[i, a] - average) * distance
            of_mean += part
            of_square += part * distance
        of_centre += of_mean * precision
        of_variance += of_square * precision * number(0.5)
        of_stride += of_mean * precision * (mean - centre)
        of_factor += average
    return of_centre, of_variance, of_stride, of_factor
