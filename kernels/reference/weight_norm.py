"""Weights of given lengths, w = g · v / |v|, and the gradient (Salimans & Kingma 2016)."""

from __future__ import annotations

import numpy as np

__all__ = ["weight_norm", "weight_norm_grad"]


def weight_norm(
    v: np.ndarray, g: np.ndarray, mask: np.ndarray | None = None, *, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """w = g · v / |v| for each slice of v along the axis `dim`: returns (w, lengths |v|).

    v of any shape; g and the lengths have its size along `dim` and 1 elsewhere. Where the `mask`
    (of zeros and ones, v's shape) is 0, v counts as 0. A slice of zeros gives zeros, not NaN.
    """
    v = v if mask is None else v * mask
    length = np.sqrt((v * v).sum(_others(v, dim), keepdims=True))
    return v * _ratio(g, length), length


def weight_norm_grad(
    grad_w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    length: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    dim: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `weight_norm` for v and g, from that of w. With v̂ = v / |v|, in each slice

    dg = Σ dw ⊙ v̂,  dv = g / |v| (dw - v̂ dg);  both are 0 for a slice of zeros.
    """
    grad_w, v = (x if mask is None else x * mask for x in (grad_w, v))
    unit = v * _ratio(1, length)
    grad_g = (grad_w * unit).sum(_others(v, dim), keepdims=True)
    return _ratio(g, length) * (grad_w - unit * grad_g), grad_g


def _others(v: np.ndarray, dim: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(v.ndim) if axis != dim)


def _ratio(g, length: np.ndarray) -> np.ndarray:
    """g / length, and 0 where the length is 0."""
    return np.where(length == 0, 0, g / np.where(length == 0, 1, length)).astype(length.dtype)
