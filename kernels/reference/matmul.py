"""Matrix products: the definition."""

from __future__ import annotations

import numpy as np

__all__ = ["linear", "matmul"]


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., m, k) times b (..., k, n) -> (..., m, n), the axes before the last two broadcast."""
    return a @ b


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y = x Wᵀ + b: x (M, in), weight (out, in), bias (out,) -> (M, out)."""
    y = x @ weight.T
    return y if bias is None else y + bias
