"""Runs of neighbouring numbers, copied and filled inside kernels."""

from __future__ import annotations

import numpy as np

from .jit import serial_kernel

__all__ = ["copy", "fill"]


@serial_kernel
def copy(target, at, source, start, count):
    """target[at:][:count] = source[start:][:count]; unsigned, so that Numba need not test every
    index for being negative and the loop becomes a block copy."""
    for c in range(count):
        target[np.uintp(at + c)] = source[np.uintp(start + c)]


@serial_kernel
def fill(target, at, count, value):
    for c in range(count):
        target[np.uintp(at + c)] = value
