"""Runs a kernel of a source text on NumPy arrays, for the emulator's own tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import build, memory

__all__ = ["run"]


def run(
    source: str,
    name: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    *args: np.ndarray | np.generic,
    options: tuple[str, ...] = (),
    **launch: Any,
) -> None:
    """Arrays are copied to the emulator's memory and back; NumPy scalars are passed by value."""
    library = build.compile(source, options, "test.cu")
    arrays = [(arg, _on_device(arg)) for arg in args if isinstance(arg, np.ndarray)]
    pointers = iter(arrays)
    raw = [
        struct.pack("P", next(pointers)[1].ptr) if isinstance(arg, np.ndarray) else arg.tobytes()
        for arg in args
    ]
    library.launch(name, _three(grid), _three(block), raw, **launch)
    for array, allocation in arrays:
        array[...] = allocation.buffer.view(array.dtype).reshape(array.shape)


def _on_device(array: np.ndarray) -> memory.Allocation:
    allocation = memory.allocate(array.nbytes)
    allocation.buffer[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return allocation


def _three(extent: int | Sequence[int]) -> tuple[int, ...]:
    given = (extent,) if isinstance(extent, int) else tuple(extent)
    return given + (1,) * (3 - len(given))
