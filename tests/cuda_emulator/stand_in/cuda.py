"""`cupy.cuda`: devices, streams, memory and the runtime's few functions that programs call."""

from __future__ import annotations

import types

import numpy as np

from . import stream as _stream
from .pool import (
    MemoryPointer,
    MemoryPool,
    OutOfMemoryError,
    default_pool,
    malloc,
    using_allocator,
)
from .raw import CompileException
from .stream import CUDARuntimeError, Event, Graph, Stream

__all__ = [
    "Device",
    "Event",
    "Graph",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPool",
    "Stream",
    "alloc",
    "alloc_pinned_memory",
    "compiler",
    "cublas",
    "device",
    "get_current_stream",
    "memory",
    "runtime",
    "using_allocator",
]

NAME = b"emulated GPU"
COMPUTE_CAPABILITY = "90"
MEMORY = 80 * 2**30
settings = types.SimpleNamespace(device_count=1)


class Device:
    """`cupy.cuda.Device`; the emulator has one."""

    def __init__(self, device: int | None = None) -> None:
        self.id = 0 if device is None else device

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error) -> None:
        pass

    def __eq__(self, other) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __int__(self) -> int:
        return self.id

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        get_current_stream().synchronize()

    compute_capability = COMPUTE_CAPABILITY
    pci_bus_id = "0000:00:00.0"
    mem_info = (MEMORY, MEMORY)
    attributes = {  # noqa: RUF012  as an H100's
        "MultiProcessorCount": 132,
        "MaxSharedMemoryPerBlock": 49152,
        "MaxSharedMemoryPerBlockOptin": 232448,
        "MaxSharedMemoryPerMultiprocessor": 233472,
        "MaxThreadsPerBlock": 1024,
        "MaxRegistersPerBlock": 65536,
        "WarpSize": 32,
        "L2CacheSize": 52428800,
        "ComputeCapabilityMajor": 9,
        "ComputeCapabilityMinor": 0,
    }


def get_current_stream(device_id: int | None = None) -> Stream:
    return _stream.current()


def alloc(nbytes: int) -> MemoryPointer:
    return malloc(nbytes)


class PinnedMemory:
    """Page-locked host memory; here any host memory."""

    def __init__(self, nbytes: int) -> None:
        self.array = np.full(nbytes, 0xFF, np.uint8)
        self.ptr = self.array.ctypes.data

    def __buffer__(self, flags):
        return memoryview(self.array)


def alloc_pinned_memory(nbytes: int):
    return np.full(nbytes, 0xFF, np.uint8).data


class PinnedMemoryPool:
    """`cupy.cuda.PinnedMemoryPool`, in name only."""

    def free_all_blocks(self) -> None:
        pass

    def n_free_blocks(self) -> int:
        return 0


def empty_pinned(shape, dtype=float, order="C") -> np.ndarray:
    """`cupyx.empty_pinned`, poisoned as all fresh memory."""
    array = np.empty(shape, dtype, order)
    array.view(np.uint8).fill(0xFF) if array.flags.c_contiguous and array.ndim else None
    return array


def get_default_memory_pool() -> MemoryPool:
    return default_pool


def get_default_pinned_memory_pool() -> PinnedMemoryPool:
    return PinnedMemoryPool()


def get_elapsed_time(start: Event, end: Event) -> float:
    """Nothing takes time here."""
    return 0.0


def is_available() -> bool:
    return settings.device_count > 0


def _device_count() -> int:
    return settings.device_count


def _properties(device: int) -> dict:
    return {
        "name": NAME,
        "totalGlobalMem": MEMORY,
        "multiProcessorCount": 132,
        "major": 9,
        "minor": 0,
    }


runtime = types.ModuleType("cupy.cuda.runtime")
runtime.CUDARuntimeError = CUDARuntimeError
runtime.getDeviceCount = _device_count
runtime.getDeviceProperties = _properties
runtime.deviceSynchronize = lambda: Stream.null.synchronize()
runtime.driverGetVersion = lambda: 13000
runtime.runtimeGetVersion = lambda: 13000
runtime.memGetInfo = lambda: (MEMORY, MEMORY)
runtime.streamCaptureModeGlobal = 0
runtime.streamCaptureModeThreadLocal = 1
runtime.streamCaptureModeRelaxed = 2

compiler = types.ModuleType("cupy.cuda.compiler")
compiler.CompileException = CompileException
memory = types.ModuleType("cupy.cuda.memory")
memory.OutOfMemoryError = OutOfMemoryError
stream = types.ModuleType("cupy.cuda.stream")
stream.get_current_stream = get_current_stream
device = types.ModuleType("cupy.cuda.device")
device.get_cublas_handle = lambda: 1
cublas = types.ModuleType("cupy.cuda.cublas")
cublas.math_mode = 0
cublas.setMathMode = lambda handle, mode: setattr(cublas, "math_mode", mode)
cublas.getMathMode = lambda handle: cublas.math_mode
