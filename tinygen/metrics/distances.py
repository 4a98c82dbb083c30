"""Two sets of vectors, and the squared Euclidean distances between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["squared_distances", "two_sets"]

BLOCK = 512  # rows; with 10,000 columns a block is 40 MB of float64


def two_sets(what: str, a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, ...) and (M, ...), numbers of any type, as (N, D) and (M, D), checked."""
    a, b = _vectors(what, a), _vectors(what, b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{what}: vectors of {a.shape[1]} and {b.shape[1]} numbers")
    return a, b


def _vectors(what: str, x: Any) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"{what}: expected a vector or image for each of N samples, got {x.shape}"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{what}: NaN or infinity among the values")
    return x.reshape(len(x), -1)


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, |a_i - b_j|² for i in rows and all j), for a (N, D) and b (M, D).

    |a - b|² = |a|² + |b|² - 2 a·b makes it one matrix product; float64, because for near
    neighbours the three terms cancel. `a` may be bytes larger than memory would hold as float64.
    """
    b = b.astype(np.float64, copy=False)
    b_norms = np.einsum("ij,ij->i", b, b)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        block = a[rows].astype(np.float64, copy=False)
        distances = block @ b.T
        distances *= -2
        distances += np.einsum("ij,ij->i", block, block)[:, None]
        distances += b_norms
        yield rows, np.maximum(distances, 0, out=distances)
