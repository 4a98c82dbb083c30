"""Reductions along axes, positions of extremes, and running sums.

Bool and integer inputs sum to 64-bit integers, floats keep their dtype; NaN is larger and smaller
than every number. `axes` is a tuple of axes, or None for all.
"""

from __future__ import annotations

import numpy as np

__all__ = ["argmax", "argmin", "cumsum", "max", "min", "sum"]


def _wide(x: np.ndarray) -> np.dtype | None:
    """What to add in: float64 for floats, what NumPy takes for the others."""
    return np.dtype(np.float64) if x.dtype.kind == "f" else None


def sum(x: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> np.ndarray:
    """Σ x along the axes; of nothing, 0."""
    total = x.sum(axes, dtype=_wide(x), keepdims=keepdims)
    return total.astype(x.dtype) if x.dtype.kind == "f" else total


def max(x: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> np.ndarray:
    """The largest value along the axes. Raises ValueError where there is none."""
    return x.max(axes, keepdims=keepdims)


def min(x: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> np.ndarray:
    """The smallest value along the axes. Raises ValueError where there is none."""
    return x.min(axes, keepdims=keepdims)


def argmax(x: np.ndarray, axis: int | None, keepdims: bool = False) -> np.ndarray:
    """Index (int64) of the first largest value, or of the first NaN, along an axis; None: in the
    flattened array. Raises ValueError where there is none."""
    return x.argmax(axis, keepdims=keepdims)


def argmin(x: np.ndarray, axis: int | None, keepdims: bool = False) -> np.ndarray:
    """Index (int64) of the first smallest value, or of the first NaN; otherwise as `argmax`."""
    return x.argmin(axis, keepdims=keepdims)


def cumsum(x: np.ndarray, axis: int) -> np.ndarray:
    """Running sum: y_i = Σ_{j<=i} x_j along an axis."""
    total = x.cumsum(axis, dtype=_wide(x))
    return total.astype(x.dtype) if x.dtype.kind == "f" else total
