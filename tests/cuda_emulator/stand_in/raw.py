"""Raw kernels: compiled and run by the emulator, with their arguments checked one by one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from .. import build
from .array import ndarray
from .pool import MemoryPointer
from .stream import enqueue, refuse_in_capture, statistics

__all__ = ["CompileException", "RawKernel", "RawModule"]

_NUMPY = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "bool": np.bool_,
}


class CompileException(Exception):
    """As `cupy.cuda.compiler.CompileException`."""


class RawModule:
    """`cupy.RawModule` of C++ source with `extern "C"` kernels."""

    def __init__(
        self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc"
    ) -> None:
        _check_tuples(options=options)
        self.code, self.options = code, options
        self._library = None

    def compile(self) -> None:
        refuse_in_capture("loading a module")
        if self._library is None:
            try:
                self._library = build.compile(self.code, self.options, "module")
            except build.CompileError as error:
                raise CompileException(str(error)) from error

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        return RawKernel(self._library, name)


class RawKernel:
    """One kernel of a module."""

    def __init__(self, library, name: str) -> None:
        self._library, self.name = library, name
        self.types = library.kernels[name]
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence,
        *,
        shared_mem: int = 0,
        stream=None,
    ) -> None:
        _check_tuples(grid=grid, block=block)
        if len(args) != len(self.types):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self.types)}")
        packed = [
            _pack(f"{self.name}, argument {i}", type_, value)
            for i, (type_, value) in enumerate(zip(self.types, args, strict=True))
        ]
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        most = self.max_dynamic_shared_size_bytes
        keep = tuple(args)  # the memory that the kernel uses lives as long as the work is queued

        def launch(_keep=keep) -> None:
            self._library.launch(
                self.name, grid, block, packed, shared_bytes=shared_mem, max_dynamic_shared=most
            )

        statistics.launches += 1
        (enqueue if stream is None else stream.add)(launch)


def _check_tuples(**values) -> None:
    """CuPy's Cython signatures take nothing else, not even a list or a named tuple."""
    for name, value in values.items():
        if type(value) is not tuple:
            raise TypeError(f"Argument {name!r} has incorrect type: {type(value).__name__}")


def _pack(where: str, type_: str, value) -> bytes:
    """An argument's bytes, if its type is exactly the parameter's."""
    if type_.endswith("*"):
        return _pack_pointer(where, type_.removeprefix("const ").rstrip("*").strip(), value)
    if type_.startswith("struct:"):
        if not isinstance(value, np.ndarray) or value.nbytes != int(type_[7:]):
            raise TypeError(f"{where}: {value!r} is not a NumPy array of {type_[7:]} bytes")
        if value.size != 1:
            raise TypeError(
                f"{where}: only NumPy arrays of size one can be passed by value, "
                f"not of shape {value.shape}"
            )
        return value.tobytes()
    if type(value) is not _NUMPY[type_]:
        raise TypeError(f"{where}: {type(value).__name__} where the kernel takes {type_}")
    return value.tobytes()


def _pack_pointer(where: str, element: str, value) -> bytes:
    if type(value) is np.uint64:  # None is null from CuPy 14 on; 13 crashes
        address = int(value)
    elif isinstance(value, MemoryPointer):
        address = value.ptr
    elif isinstance(value, ndarray):
        # Vector types and structs are read from arrays of any element type.
        if element in _NUMPY and value.dtype != _NUMPY[element]:
            raise TypeError(
                f"{where}: an array of {value.dtype} where the kernel takes {element}*"
            )
        address = value.data.ptr
    else:
        raise TypeError(f"{where}: {type(value).__name__} where the kernel takes {element}*")
    return bytes(ctypes.c_uint64(address))
