"""Two sets of vectors, and the squared Euclidean distances between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["squared_distances", "two_sets"]

BLOCK = 512  # rows; with 10,000 columns a block is 40 MB of float64


def two_sets(what: str, a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, ...) and (M, ...) of any number type as (N, D) and (M, D) in float64, checked."""
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
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{what}: NaN or infinity among the values")
    return x


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, |a_i - b_j|² for i in rows and all j), for a (N, D) and b (M, D).

    |a - b|² = |a|² + |b|² - 2 a·b makes it one matrix product; float64, because for near
    neighbours the three terms cancel.
    """
    b_norms = np.einsum("ij,ij->i", b, b)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        block = a[rows] @ b.T
        block *= -2
        block += np.einsum("ij,ij->i", a[rows], a[rows])[:, None]
        block += b_norms
        yield rows, np.maximum(block, 0, out=block)
