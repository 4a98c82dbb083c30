"""How many bits convolutions and products in float32 may use on a GPU.

    "fp32"   float32 throughout
    "tf32"   tensor cores: factors rounded to 10 bits of mantissa, sums in float32 (the default, as
             PyTorch's for convolutions)
    "bf16"   tensor cores: factors rounded to bfloat16, 7 bits of mantissa, sums in float32

The mode governs convolutions and matrix products; everything else, and all arithmetic in float64,
is exact as ever. Arrays stay float32 in memory. A GPU before sm_80 has no such tensor cores and
computes in float32 whatever the mode.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import cupy

__all__ = ["MODES", "arithmetic", "capability", "get", "precision", "set"]

MODES = ("fp32", "tf32", "bf16")
FIRST_WITH_TENSOR_CORES = 80

_mode = "tf32"


def get() -> str:
    """The mode in force."""
    return _mode


def set(mode: str) -> None:
    """Compute in that mode from now on. ValueError for a name that is none."""
    global _mode
    if mode not in MODES:
        raise ValueError(f"precision: {mode!r} is no mode, choose one of {', '.join(MODES)}")
    _mode = mode


@contextlib.contextmanager
def precision(mode: str) -> Iterator[None]:
    """Compute in a mode within a `with` block."""
    before = get()
    set(mode)
    try:
        yield
    finally:
        set(before)


def arithmetic() -> str:
    """The mode that the current GPU can do."""
    return _mode if capability() >= FIRST_WITH_TENSOR_CORES else "fp32"


def capability() -> int:
    """The current GPU's architecture: 90 for sm_90."""
    return _capability(cupy.cuda.Device().id)


@functools.cache
def _capability(device: int) -> int:
    return int(cupy.cuda.Device(device).compute_capability)
