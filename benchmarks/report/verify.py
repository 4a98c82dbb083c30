"""Whether a kernel computes what it should; nothing is timed that does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import cupy
import numpy as np
import torch

from .cases import Case, as_tuple, cast

__all__ = ["BOUND", "Exchange", "Wrong", "check", "check_ours", "poisoned", "relative_error"]

BOUND = {"fp32": 2e-5, "tf32": 2e-3, "bf16": 1e-2}
"""Largest ‖result - reference‖ / ‖reference‖. Rounding factors to 10 bits of mantissa gives 3e-4
in a product and more in a chain of them, to 7 bits 2e-3; a sum of 10⁵ float32s may lose 1e-5."""


class Wrong(RuntimeError):
    """A result is not what the reference says."""


class Exchange:
    """The same memory as a PyTorch tensor and as a CuPy array."""

    def to_array(self, tensor: torch.Tensor) -> cupy.ndarray:
        return cupy.from_dlpack(tensor)

    def to_tensor(self, array: cupy.ndarray) -> torch.Tensor:
        return torch.from_dlpack(array)


def relative_error(results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """‖result - expected‖ / ‖expected‖, the largest of all results. NaN if a result holds one."""
    if [tuple(r.shape) for r in results] != [tuple(e.shape) for e in expected]:
        shapes = [[tuple(x.shape) for x in several] for several in (results, expected)]
        raise Wrong(f"wrong: shapes {shapes[0]}, expected {shapes[1]}")
    errors = []
    for result, value in zip(results, expected, strict=True):
        size = value.double().norm()
        error = (result.double() - value.double()).norm()
        errors.append(float(error / size if size > 0 else error))
    return float(np.max(errors))


def check(results: Sequence[torch.Tensor], expected: Sequence, precision: str) -> float:
    """The relative error. Raises Wrong if it is beyond the bound, or NaN."""
    error = relative_error(results, expected)
    if not error <= BOUND[precision]:
        raise Wrong(f"wrong: relative error {error:.1e}, rounding is below {BOUND[precision]}")
    return error


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, memory that CuPy hands out is full of NaN: what a kernel leaves unwritten shows."""
    pool = cupy.cuda.MemoryPool()

    def allocate(nbytes: int) -> Any:
        pointer = pool.malloc(nbytes)
        if nbytes:
            cupy.ndarray(nbytes, np.uint8, pointer).fill(0xFF)
        return pointer

    with cupy.cuda.using_allocator(allocate):
        yield


def check_ours(case: Case, kernels, tensors: dict, expected: tuple, exchange: Exchange):
    """Our call on copies of the inputs, its results compared once: (call, relative error)."""
    copies = cast(tensors, torch.float32)
    arrays = {name: exchange.to_array(t) for name, t in copies.items()}
    with poisoned():
        call = case.ours(kernels, arrays)
        results = [exchange.to_tensor(r) for r in as_tuple(call())]
        return call, check(results, expected, case.precision)
