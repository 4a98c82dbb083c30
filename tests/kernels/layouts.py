"""The same values in the memory orders that kernels meet."""

from __future__ import annotations

import numpy as np

LAYOUTS = ("contiguous", "channels_last", "strided", "reversed")


def arrange(x: np.ndarray, layout: str) -> np.ndarray:
    """A copy of the (N, C, ...) array `x`; "strided" has gaps, "reversed" negative strides."""
    if x.ndim < 2 or layout == "contiguous":
        return x.copy()
    if layout == "channels_last":
        return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)
    if layout == "reversed":
        return x[..., ::-1].copy()[..., ::-1]
    gaps = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    gaps[..., ::2] = x
    return gaps[..., ::2]
