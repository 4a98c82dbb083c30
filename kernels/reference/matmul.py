"""The matrix product of two matrices."""

from __future__ import annotations

import numpy as np

__all__ = ["matmul"]


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (m, k) times b (k, n) -> (m, n)."""
    return a @ b
