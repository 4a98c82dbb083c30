"""Batch norm with its activation fused, and layer norm, in as few passes over memory as can be.

Batch norm reads its input as a (rows, channels) matrix, which is what channels-last memory holds
(other memory is copied to it), and vectorises along the channels. Forward passes over it twice
(statistics; normalise and activate), backward twice (the two sums that the gradient needs; the
gradient); z, the value before the activation, is computed anew from x instead of being kept.

Sums run over blocks of rows in the arrays' dtype, and the blocks join in float64. Values are
taken from an origin near the block's mean, so that a mean far from zero cancels nothing. Blocks
have a fixed size: the result does not depend on the number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from ..layout import from_rows, rows
from ..reference.norm import leaky_slope, update_running
from .jit import CHUNK, inline, kernel, prange

__all__ = [
    "batch_norm",
    "batch_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "scale_shift",
    "scale_shift_grad",
    "update_running",
]

_WIDTH = 256
"""Columns to which matrices with fewer channels are folded: starting an inner loop takes time."""


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `reference.norm`; y is channels-last."""
    slope = leaky_slope(activation, param)
    values = rows(x)
    mean, var = _moments(values)
    affine = (mean, _gain(weight, var, eps), _or_zeros(bias, mean))
    y = from_rows(_apply(values, affine, slope), x.shape)
    return y, mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm_grad(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """See `reference.norm`; grad_x is channels-last."""
    slope = leaky_slope(activation, param)
    grads, values = rows(grad), rows(x)
    affine = (mean, _gain(weight, var, eps), _or_zeros(bias, mean))
    total, product = _gradient_sums(grads, values, affine, slope)
    count = max(len(values), 1)
    rstd = _gain(None, var, eps)
    correction = (total / count, product * rstd * rstd / count)
    grad_x = _input_gradient(grads, values, affine, slope, correction)
    return (
        from_rows(grad_x, x.shape),
        None if weight is None else (product * rstd).astype(x.dtype),
        None if bias is None else total.astype(x.dtype),
    )


def scale_shift(
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> np.ndarray:
    """See `reference.norm`; y is channels-last."""
    affine = (np.zeros_like(scale), scale, shift)
    return from_rows(_apply(rows(x), affine, leaky_slope(activation, param)), x.shape)


def scale_shift_grad(
    grad: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `reference.norm`; grad_x is channels-last."""
    slope = leaky_slope(activation, param)
    grads, values = rows(grad), rows(x)
    zeros = np.zeros_like(scale)
    affine = (zeros, scale, shift)
    total, product = _gradient_sums(grads, values, affine, slope)
    grad_x = _input_gradient(grads, values, affine, slope, (zeros, zeros))
    return from_rows(grad_x, x.shape), product.astype(x.dtype), total.astype(x.dtype)


def _gain(weight: np.ndarray | None, var: np.ndarray, eps: float) -> np.ndarray:
    """weight / sqrt(var + eps) in float64."""
    rstd = 1 / np.sqrt(var.astype(np.float64) + eps)
    return rstd if weight is None else weight * rstd


def _or_zeros(vector: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if vector is None else vector


def _fold(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """View (M, C) as (M / k, k C), k a power of two: column j has channel j mod C."""
    size, channels = matrix.shape
    wanted = max(_WIDTH // max(channels, 1), 1)
    k = math.gcd(size, 1 << (wanted.bit_length() - 1))
    return matrix.reshape(size // k, k * channels), k


def _block(matrix: np.ndarray) -> int:
    """Rows of a block: 4 chunks of elements, which a core's own cache can hold.

    At least 64, so that the partial sums are small beside the matrix; at most 512, since they are
    added up one after the other in the arrays' dtype.
    """
    return min(512, max(64, 4 * CHUNK // max(matrix.shape[1], 1)))


def _by_channel(partial: np.ndarray, k: int) -> np.ndarray:
    """(blocks, k C) as (blocks · k, C)."""
    return partial.reshape(partial.shape[0] * k, partial.shape[1] // k)


def _columns(vectors: tuple[np.ndarray, ...], k: int, dtype: np.dtype) -> list[np.ndarray]:
    """Vectors with an entry per channel as vectors with an entry per column of a folded matrix."""
    return [np.tile(vector.astype(dtype, copy=False), k) for vector in vectors]


def _partial_sums(matrix: np.ndarray, number: int = 2) -> tuple[np.ndarray, ...]:
    """Zeros for sums per block and column."""
    blocks = -(-len(matrix) // _block(matrix))
    return tuple(np.zeros((number, blocks, matrix.shape[1]), matrix.dtype))


def _moments(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each column of (M, C), (C,) in float64.

    A block of n values with origin o has the sums s1 = Σ (x - o) and s2 = Σ (x - o)²: its mean is
    o + s1 / n, its squared deviations sum to s2 - s1² / n. With every 16th row averaged for o,
    s2 is at most 16 times that sum whatever the data are: the difference keeps s2's digits but
    for a factor of 16, and cannot fall below zero. Blocks join as in Chan et al. 1979.
    """
    folded, k = _fold(matrix)
    block = _block(folded)
    origin, s1, s2 = _partial_sums(folded, 3)
    _block_moments(folded, block, origin, s1, s2)
    starts = np.arange(0, len(folded), block)
    counts = np.minimum(block, len(folded) - starts)[:, None].astype(np.float64)
    means = origin + s1 / counts
    deviations = _by_channel(s2 - s1 * (s1 / counts), k).sum(0)
    means = _by_channel(means, k)
    counts = counts.repeat(k, axis=0)
    size = max(len(matrix), 1)
    mean = (counts * means).sum(0) / size
    return mean, (deviations + (counts * np.square(means - mean)).sum(0)) / size


def _apply(matrix: np.ndarray, affine: tuple[np.ndarray, ...], slope: float) -> np.ndarray:
    folded, k = _fold(matrix)
    y = np.empty_like(folded)
    columns = _columns(affine, k, matrix.dtype)
    _normalise(folded, _block(folded), *columns, matrix.dtype.type(slope), y)
    return y.reshape(matrix.shape)


def _gradient_sums(
    grad: np.ndarray, matrix: np.ndarray, affine: tuple[np.ndarray, ...], slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Σ g and Σ g · (x - center) over the rows, (C,) in float64, where g is the gradient for z."""
    folded, k = _fold(matrix)
    s0, s1 = _partial_sums(folded)
    columns = _columns(affine, k, matrix.dtype)
    real = matrix.dtype.type
    _block_gradients(
        grad.reshape(folded.shape), folded, _block(folded), *columns, real(slope), s0, s1
    )
    return tuple(_by_channel(s, k).sum(0, dtype=np.float64) for s in (s0, s1))


def _input_gradient(
    grad: np.ndarray,
    matrix: np.ndarray,
    affine: tuple[np.ndarray, ...],
    slope: float,
    correction: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    folded, k = _fold(matrix)
    grad_x = np.empty_like(folded)
    columns = _columns((*affine, *correction), k, matrix.dtype)
    real = matrix.dtype.type
    _correct(grad.reshape(folded.shape), folded, _block(folded), *columns, real(slope), grad_x)
    return grad_x.reshape(matrix.shape)


@inline
def _damp(v, z, slope):
    """v where z is positive (or NaN), slope · v elsewhere; slope 0 gives 0 even for infinite v."""
    if z <= 0:
        return slope * v if slope != 0 else slope
    return v


@kernel
def _block_moments(x, block, origin, s1, s2):
    for b in prange(s1.shape[0]):
        start = b * block
        stop = min(start + block, x.shape[0])
        samples = (stop - start + 15) // 16
        for r in range(start, stop, 16):
            for c in range(x.shape[1]):
                origin[b, c] += x[r, c] / samples
        for r in range(start, stop):
            for c in range(x.shape[1]):
                d = x[r, c] - origin[b, c]
                s1[b, c] += d
                s2[b, c] += d * d


@kernel
def _normalise(x, block, center, scale, shift, slope, y):
    for b in prange(-(-x.shape[0] // block)):
        for r in range(b * block, min((b + 1) * block, x.shape[0])):
            for c in range(x.shape[1]):
                z = (x[r, c] - center[c]) * scale[c] + shift[c]
                y[r, c] = _damp(z, z, slope)


@kernel
def _block_gradients(grad, x, block, center, scale, shift, slope, s0, s1):
    for b in prange(s0.shape[0]):
        for r in range(b * block, min((b + 1) * block, x.shape[0])):
            for c in range(x.shape[1]):
                d = x[r, c] - center[c]
                g = _damp(grad[r, c], d * scale[c] + shift[c], slope)
                s0[b, c] += g
                s1[b, c] += g * d


@kernel
def _correct(grad, x, block, center, scale, shift, mean0, mean1, slope, grad_x):
    """grad_x = scale · (g - mean0 - (x - center) · mean1), the gradient of batch norm."""
    for b in prange(-(-x.shape[0] // block)):
        for r in range(b * block, min((b + 1) * block, x.shape[0])):
            for c in range(x.shape[1]):
                d = x[r, c] - center[c]
                g = _damp(grad[r, c], d * scale[c] + shift[c], slope)
                grad_x[r, c] = scale[c] * (g - mean0[c] - d * mean1[c])


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, *, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `reference.norm`."""
    x = np.ascontiguousarray(x)
    ones = np.ones(x.shape[1], x.dtype)
    gain = ones if weight is None else weight
    y = np.empty_like(x)
    mean, rstd = np.empty((2, len(x)), x.dtype)
    _layer_norm_rows(x, _block(x), gain, _or_zeros(bias, ones), eps, y, mean, rstd)
    return y, mean, rstd


def layer_norm_grad(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    weight: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `reference.norm`."""
    x = np.ascontiguousarray(x)
    gain = np.ones(x.shape[1], x.dtype) if weight is None else weight
    grad_x = np.empty_like(x)
    s0, s1 = _partial_sums(x)
    _layer_norm_gradients(
        np.ascontiguousarray(grad), x, _block(x), mean, rstd, gain, grad_x, s0, s1
    )
    grad_bias, grad_weight = (s.sum(0, dtype=np.float64).astype(x.dtype) for s in (s0, s1))
    return grad_x, grad_weight, grad_bias


@kernel
def _layer_norm_rows(x, block, weight, bias, eps, y, mean, rstd):
    """The sums of a row are in float64: conversions are cheap beside reading the memory."""
    size, width = x.shape
    count = max(width, 1)
    for b in prange(-(-size // block)):
        for r in range(b * block, min((b + 1) * block, size)):
            total = 0.0
            for i in range(width):
                total += x[r, i]
            center = total / count
            squares = 0.0
            for i in range(width):
                squares += (x[r, i] - center) ** 2
            inverse = 1 / math.sqrt(squares / count + eps)
            for i in range(width):
                y[r, i] = (x[r, i] - center) * inverse * weight[i] + bias[i]
            mean[r] = center
            rstd[r] = inverse


@kernel
def _layer_norm_gradients(grad, x, block, mean, rstd, weight, grad_x, s0, s1):
    size, width = x.shape
    count = max(width, 1)
    for b in prange(s0.shape[0]):
        for r in range(b * block, min((b + 1) * block, size)):
            total = 0.0
            product = 0.0
            for i in range(width):
                normal = (x[r, i] - mean[r]) * rstd[r]
                s0[b, i] += grad[r, i]
                s1[b, i] += grad[r, i] * normal
                total += grad[r, i] * weight[i]
                product += grad[r, i] * weight[i] * normal
            mean0 = total / count
            mean1 = product / count
            for i in range(width):
                normal = (x[r, i] - mean[r]) * rstd[r]
                grad_x[r, i] = rstd[r] * (grad[r, i] * weight[i] - mean0 - normal * mean1)
