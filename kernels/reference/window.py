"""DRAW's windows: a grid of n × n Gaussian filters laid on an image, to read it or write to it.

A window is five numbers (g̃x, g̃y, log σ², log δ̃, log γ), which a network gives; on images of
H × W pixels, which count from 0 (Gregor et al. 2015, equations 21 to 26):

    g = (g̃ + 1)(A + 1)/2 - 1, for x with A = W, for y with A = H     δ = δ̃ (max(H, W) - 1)/(n - 1)
    μ_i = g + (i - (n - 1)/2) δ          F[i, a] = exp(-(a - μ_i)²/2σ²) / Z_i, rows of weight 1

F is a softmax over the pixels: exact where all exponentials would be zero, so that beyond the edge
a filter sees the edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "longest_stride",
    "read_window",
    "read_window_grad",
    "write_window",
    "write_window_grad",
]


def read_window(images: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """γ F_y X F_xᵀ: images (N, C, H, W), window (N, 5) -> patches (N, C, size, size); eq. 27."""
    rows, columns, gain = _filters(window, size, images.shape[2:])
    return gain * (rows.weights @ images @ columns.weights.swapaxes(2, 3))


def read_window_grad(
    grad: np.ndarray, images: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `read_window` for images and window, from that of the patches."""
    rows, columns, gain = _filters(window, grad.shape[2], images.shape[2:])
    grad = gain * grad
    seen = rows.weights @ images  # F_y X
    grad_seen = grad @ columns.weights
    grad_images = rows.weights.swapaxes(2, 3) @ grad_seen
    grad_rows = (grad_seen @ images.swapaxes(2, 3)).sum(axis=1)
    grad_columns = (grad.swapaxes(2, 3) @ seen).sum(axis=1)
    grad_gain = (grad_seen * seen).sum(axis=(1, 2, 3))
    return grad_images, _window_grad(rows, columns, grad_rows, grad_columns, grad_gain)


def write_window(patches: np.ndarray, window: np.ndarray, height: int, width: int) -> np.ndarray:
    """1/γ F_yᵀ P F_x: patches (N, C, n, n), window (N, 5) -> images (N, C, H, W); eq. 29."""
    rows, columns, gain = _filters(window, patches.shape[2], (height, width))
    return rows.weights.swapaxes(2, 3) @ (patches / gain) @ columns.weights


def write_window_grad(
    grad: np.ndarray, patches: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `write_window` for patches and window, from that of the images."""
    rows, columns, gain = _filters(window, patches.shape[2], grad.shape[2:])
    patches = patches / gain
    strokes = patches @ columns.weights  # P F_x
    grad_strokes = rows.weights @ grad
    grad_patches = grad_strokes @ columns.weights.swapaxes(2, 3) / gain
    grad_rows = (strokes @ grad.swapaxes(2, 3)).sum(axis=1)
    grad_columns = (patches.swapaxes(2, 3) @ grad_strokes).sum(axis=1)
    grad_gain = -(grad_strokes * strokes).sum(axis=(1, 2, 3))
    return grad_patches, _window_grad(rows, columns, grad_rows, grad_columns, grad_gain)


def longest_stride(size: int, height: int, width: int) -> float:
    """δ of a window with δ̃ = 1, which spans the image."""
    return (max(height, width) - 1) / max(size - 1, 1)


class _Filters(NamedTuple):
    """The filters along one axis of A pixels, and what their gradient needs."""

    weights: np.ndarray  # F (N, 1, n, A)
    distance: np.ndarray  # a - μ_i (N, n, A)
    precision: np.ndarray  # 1/σ² (N, 1, 1)
    stride: np.ndarray  # δ (N, 1)


def _filters(window, size, pixels):
    """F_y and F_x, the same for all channels, and γ (N, 1, 1, 1)."""
    x, y, log_variance, log_stride, log_gain = (window[:, i : i + 1] for i in range(5))
    stride = np.exp(log_stride) * longest_stride(size, *pixels)
    precision = np.exp(-log_variance)[:, :, None]
    axes = []
    for centre, length in ((y, pixels[0]), (x, pixels[1])):
        means = (centre + 1) * ((length + 1) / 2) - 1 + _offsets(size, window.dtype) * stride
        distance = np.arange(length, dtype=window.dtype) - means[:, :, None]
        logits = -0.5 * distance**2 * precision
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        axes.append(_Filters(weights[:, None], distance, precision, stride))
    return *axes, np.exp(log_gain)[:, :, None, None]


def _offsets(size, dtype):
    return np.arange(size, dtype=dtype) - dtype.type((size - 1) / 2)


def _window_grad(rows, columns, grad_rows, grad_columns, grad_gain):
    """The gradient of the five numbers, from those of F_y (N, n, H), F_x (N, n, W) and log γ."""
    grad_y, stride_y, variance_y = _filter_grad(rows, grad_rows)
    grad_x, stride_x, variance_x = _filter_grad(columns, grad_columns)
    grads = grad_x, grad_y, variance_x + variance_y, stride_x + stride_y, grad_gain
    return np.stack(grads, axis=1)


def _filter_grad(filters, grad):
    """The gradient of g̃, of log δ̃ and of log σ², (N,) each."""
    weights, distance, precision, stride = filters
    weights = weights[:, 0]
    grad_logits = weights * (grad - (weights * grad).sum(axis=2, keepdims=True))
    by_distance = grad_logits * distance * precision  # of every μ_i, before the sum over pixels
    grad_means = by_distance.sum(axis=2)
    grad_variance = 0.5 * (by_distance * distance).sum(axis=(1, 2))
    grad_stride = (grad_means * _offsets(grad.shape[1], grad.dtype) * stride).sum(axis=1)
    return grad_means.sum(axis=1) * ((grad.shape[2] + 1) / 2), grad_stride, grad_variance
