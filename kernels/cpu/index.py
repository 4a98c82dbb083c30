"""Table rows and elements picked by integers: NumPy's indexing, but for the sums by rows."""

from __future__ import annotations

import numpy as np

from ..reference.index import gather, getitem_grad, scatter_add, take

__all__ = ["gather", "getitem_grad", "scatter_add", "take", "take_grad"]


def take_grad(grad: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    """See `reference.index`. Equal indices side by side, summed run by run: faster than add.at."""
    out = np.zeros((rows, grad.shape[1]), grad.dtype)
    if index.size:
        order = np.argsort(index, kind="stable")
        keys = index[order]
        starts = np.flatnonzero(np.concatenate([np.ones(1, bool), keys[1:] != keys[:-1]]))
        out[keys[starts]] = np.add.reduceat(grad[order], starts, axis=0)
    return out
