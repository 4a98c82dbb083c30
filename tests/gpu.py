"""Which GPU the tests use: a real one through CuPy, or the emulator."""

from __future__ import annotations

import functools
import os
import sys

import numpy as np

__all__ = ["missing", "mode", "to_cpu", "to_gpu"]


@functools.cache
def mode() -> str:
    """ "cuda" where a GPU is usable, else "emulated", whose stand-in then takes CuPy's place."""
    chosen = os.environ.get("TINYGEN_TEST_GPU") or ("cuda" if _gpu_is_usable() else "emulated")
    if chosen == "emulated" and missing_emulator() is None:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("cupy", "cupyx")]:
            del sys.modules[name]
        from cuda_emulator import stand_in

        stand_in.install()
        os.environ["TINYGEN_AUTOTUNE"] = "0"  # nothing takes time there
    return chosen


def missing() -> str | None:
    """Why CUDA tests can't run here; None if they can."""
    return missing_emulator() if mode() == "emulated" else None


@functools.cache
def missing_emulator() -> str | None:
    """Why the emulator can't run here; None if it can."""
    from cuda_emulator import build

    return build.available()


def _gpu_is_usable() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def to_gpu(array: np.ndarray):
    """A copy on the GPU with the same strides, in memory that ends where the array ends."""
    import cupy

    array = np.asarray(array)
    if array.size == 0:
        return cupy.empty(array.shape, array.dtype)
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    low = sum(s for s in steps if s < 0)
    span = (sum(abs(s) for s in steps) + array.itemsize) // array.itemsize
    lowest = array[tuple(slice(-1, None) if s < 0 else slice(1) for s in array.strides)]
    values = np.lib.stride_tricks.as_strided(lowest, (span,), (array.itemsize,)).copy()
    memory = cupy.asarray(values)
    first = memory[-low // array.itemsize :]
    return cupy.lib.stride_tricks.as_strided(first, array.shape, array.strides)


def to_cpu(array) -> np.ndarray:
    """A copy on the host."""
    import cupy

    return cupy.asnumpy(array)
