"""Weight normalisation, each slice in one visit: its length, then its scaling, from the cache.

Bytes for each weight in float32: 8 forward (v, w), 12 for the gradient (dw, v, dv), 4 more with a
mask. Built from single operations they would be 24 and 60, in a dozen arrays.
"""

from __future__ import annotations

import math

import numpy as np

from ..layout import around, dense, dense_like
from ..reference import weight_norm as reference
from .jit import CHUNK, kernel, prange, serial_kernel

__all__ = ["weight_norm", "weight_norm_grad"]


def weight_norm(
    v: np.ndarray, g: np.ndarray, mask: np.ndarray | None = None, *, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """(w, lengths), see `reference.weight_norm`; w lies in memory as v does."""
    v = dense(v)
    memory = around(v, dim)
    if _is_across(memory):
        return reference.weight_norm(v, g, mask, dim=dim)
    w, length = np.empty_like(v), np.empty(g.shape, v.dtype)
    arrays = (None if x is None else around(dense_like(x, v), dim) for x in (mask, w))
    _run(_scale, _scale_blocks, memory, *arrays, g.reshape(-1), length.reshape(-1))
    return w, length


def weight_norm_grad(
    grad_w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    length: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    dim: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `weight_norm` for v and g, see `reference.weight_norm_grad`."""
    v = dense(v)
    memory = around(v, dim)
    if _is_across(memory):
        return reference.weight_norm_grad(grad_w, v, g, length, mask, dim=dim)
    grad_v, grad_g = np.empty_like(v), np.empty(g.shape, v.dtype)
    arrays = [mask, grad_w, grad_v]
    arrays = (None if x is None else around(dense_like(x, v), dim) for x in arrays)
    vectors = (x.reshape(-1) for x in (g, length, grad_g))
    _run(_gradient, _gradient_blocks, memory, *arrays, *vectors)
    return grad_v, grad_g


def _is_across(memory: np.ndarray) -> bool:
    """Whether a slice's elements lie apart, as in transposed convolutions: NumPy adds such up well
    enough, beside products that take a hundred times longer. Also for no elements at all."""
    return memory.shape[2] == 1 or memory.size == 0


def _run(slices, blocks, v: np.ndarray, *arguments) -> None:
    """Call a kernel for all slices of v, on all threads if it is large."""
    if v.size > 2 * CHUNK:
        blocks(max(1, CHUNK * v.shape[1] // v.size), v, *arguments)
    else:
        slices(0, v.shape[1], v, *arguments)


# For each kernel a loop over slices, and a driver that shares out blocks of them. Slices are
# independent, so blocks are free of races and their size does not change the result. Runs are
# summed in the arrays' dtype, which vectorises, and the runs of a slice in float64.


@serial_kernel
def _scale(first, last, v, mask, w, g, length):
    zero = v.dtype.type(0)
    for s in range(first, last):
        total = 0.0
        for o in range(len(v)):
            x = v[o, s]
            squares = zero
            for i in range(x.size):
                value = x[i] if mask is None else x[i] * mask[o, s, i]
                squares += value * value
            total += squares
        norm = v.dtype.type(math.sqrt(total))
        length[s] = norm
        scale = zero if norm == zero else g[s] / norm
        for o in range(len(v)):
            x, out = v[o, s], w[o, s]
            for i in range(x.size):
                out[i] = scale * x[i] if mask is None else scale * x[i] * mask[o, s, i]


@kernel
def _scale_blocks(slices, v, *arguments):
    for block in prange(-(-v.shape[1] // slices)):
        first = block * slices
        _scale(first, min(first + slices, v.shape[1]), v, *arguments)


@serial_kernel
def _gradient(first, last, v, mask, grad_w, grad_v, g, length, grad_g):
    zero, one = v.dtype.type(0), v.dtype.type(1)
    for s in range(first, last):
        total = 0.0
        for o in range(len(v)):
            grad, x = grad_w[o, s], v[o, s]
            products = zero
            for i in range(x.size):
                products += grad[i] * (x[i] if mask is None else x[i] * mask[o, s, i])
            total += products
        inverse = zero if length[s] == zero else one / length[s]
        along = v.dtype.type(total) * inverse
        grad_g[s] = along
        scale, pull = g[s] * inverse, along * inverse
        for o in range(len(v)):
            grad, x, out = grad_w[o, s], v[o, s], grad_v[o, s]
            for i in range(x.size):
                across = scale * (grad[i] - x[i] * pull)
                out[i] = across if mask is None else across * mask[o, s, i]


@kernel
def _gradient_blocks(slices, v, *arguments):
    for block in prange(-(-v.shape[1] // slices)):
        first = block * slices
        _gradient(first, min(first + slices, v.shape[1]), v, *arguments)
