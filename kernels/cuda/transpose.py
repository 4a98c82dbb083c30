"""Channels to the end of memory, see `transpose.cu`."""

from __future__ import annotations

import math

import cupy
import numpy as np

from .. import layout
from .launch import REALS, Source, blocks, ctype

__all__ = ["channels_last"]

SOURCE = Source("transpose.cu", REAL=REALS)
FEW = 8  # channels: below, a thread writes all channels of a pixel
SIDE, ROWS = 32, 8
MOST_BLOCKS = 2**20


def channels_last(x: cupy.ndarray) -> cupy.ndarray:
    """An (N, C, ...) array with channels-last memory: `x` itself, or a copy."""
    is_planar = x.flags.c_contiguous and x.size and x.dtype in (np.float32, np.float64)
    if layout.is_channels_last(x) or not is_planar:
        return layout.channels_last(x)
    n, channels, *spatial = x.shape
    pixels = math.prod(spatial)
    out = cupy.empty((n * pixels, channels), x.dtype)
    if channels < FEW:
        name, grid, block = "few_channels", blocks(n * pixels, 256, MOST_BLOCKS), 256
    else:
        tiles = n * -(-channels // SIDE) * -(-pixels // SIDE)
        name, grid, block = "transpose", blocks(tiles, 1, MOST_BLOCKS), (SIDE, ROWS)
    SOURCE.kernel(name, REAL=ctype(x))(grid, block, (out, x, n, pixels, channels))
    return layout.from_rows(out, x.shape)
