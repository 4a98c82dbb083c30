"""Table rows and elements picked by integers, and the sums that are their gradients.

`take` counts rows from 0 up only. The other functions are NumPy's indexing: negative numbers count
from the end. A GPU, whose indices the host can't look at without waiting for it, gives NaN instead
of an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_rows", "gather", "getitem_grad", "scatter_add", "take", "take_grad"]


def take(weight: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Row index[m] of weight (K, D) for each of the indices (M,), as (M, D).

    Raises IndexError for an index outside [0, K).
    """
    check_rows(index, len(weight))
    return weight[index]


def take_grad(grad: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    """Row k of the result is the sum of the rows of grad (M, D) with index k, as (rows, D)."""
    out = np.zeros((rows, grad.shape[1]), grad.dtype)
    np.add.at(out, index, grad)
    return out


def gather(x: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """y[i, j, k] = x[index[i, j, k], j, k] for axis 0, and so on; axis >= 0.

    index has x's number of axes and is at most as large along all but `axis`.
    """
    return x[_places(axis, index)]


def scatter_add(
    grad: np.ndarray, axis: int, index: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Zeros of `shape` with each gradient added where `gather` read: its transpose."""
    return getitem_grad(grad, _places(axis, index), shape)


def getitem_grad(grad: np.ndarray, index: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of `shape` with grad added at any index of NumPy's: the gradient of x[index]."""
    out = np.zeros(shape, grad.dtype)
    np.add.at(out, index, grad)
    return out


def check_rows(index: np.ndarray, rows: int) -> None:
    """Raise IndexError if an index names no row of the table."""
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= rows:
            raise IndexError(f"embedding: indices {low}..{high} for a table of {rows} rows")


def _places(axis: int, index: np.ndarray) -> tuple[np.ndarray, ...]:
    places = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    places[axis] = index
    return tuple(places)
