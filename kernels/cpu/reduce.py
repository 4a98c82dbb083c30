"""Reductions by NumPy, whose loops are compiled and vectorised; floats add in their own dtype."""

from __future__ import annotations

import numpy as np

from ..reference.reduce import argmax, argmin, max, min

__all__ = ["argmax", "argmin", "cumsum", "max", "min", "sum"]


def sum(x: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> np.ndarray:
    """See `reference.reduce`; pairwise along contiguous memory."""
    return x.sum(axes, keepdims=keepdims)


def cumsum(x: np.ndarray, axis: int) -> np.ndarray:
    """See `reference.reduce`."""
    return x.cumsum(axis)
