"""A compiled source in memory, and launches of its kernels."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path

from .toolchain import cached, run, runtime
from .translate import HEADERS, MOST_THREADS

__all__ = ["KernelFault", "Library"]

_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
_MOST_BLOCKS = 2**26  # not CUDA's limit: nobody would wait for more
_MOST_SHARED = 227 * 1024
_ORDERS = ("forward", "reversed", "shuffled")


class KernelFault(RuntimeError):
    """A kernel or a launch did what CUDA forbids."""


class _Index(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


class _Symbol(ctypes.Structure):
    _fields_ = [
        ("address", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", _Index),
        ("block", _Index),
        ("shared_bytes", ctypes.c_size_t),
        ("max_dynamic_shared", ctypes.c_size_t),
        ("order", ctypes.c_int),
        ("shared", ctypes.POINTER(_Symbol)),
        ("shared_count", ctypes.c_size_t),
        ("image_begin", ctypes.c_size_t),
        ("image_end", ctypes.c_size_t),
    ]


class _Report(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_char * 1024),
        ("file", ctypes.c_char * 512),
        ("pc", ctypes.c_uint64),
        ("line", ctypes.c_uint),
        ("block", _Index),
        ("thread", _Index),
    ]


class _Parameter(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("size", ctypes.c_ulong),
        ("is_struct", ctypes.c_bool),
    ]


class Library:
    """A compiled source; `kernels` maps each kernel's name to its parameter types."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self._library = ctypes.PyDLL(str(path))
        image = (ctypes.c_ulong * 2)()
        self._library.emulator_image(image)
        self._begin, self._end = image
        symbols = [_Symbol(self._begin + at, size, text) for at, size, text in _shared(path)]
        self._shared = (_Symbol * len(symbols))(*symbols)
        kernels = ctypes.c_char.in_dll(self._library, "emulator_kernels")
        names = ctypes.string_at(ctypes.addressof(kernels)).decode().split()
        parameters = {kernel: self._describe(kernel) for kernel in names}
        self.kernels = {k: tuple(type_ for type_, _ in v) for k, v in parameters.items()}
        self._sizes = {k: tuple(size for _, size in v) for k, v in parameters.items()}

    def __repr__(self) -> str:
        return f"Library({self.name!r}: {', '.join(self.kernels)})"

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[bytes],
        *,
        shared_bytes: int = 0,
        max_dynamic_shared: int = 49152,
        order: str = "shuffled",
    ) -> None:
        """Runs a grid to its end. `args` are the bytes of each argument.

        `order` is that of blocks, warps and lanes: "forward", "reversed", or "shuffled" (the same
        way each time). Raises KernelFault at the first thing that CUDA forbids.
        """
        if name not in self.kernels:
            raise KernelFault(f"{self.name}: no kernel {name!r} among {[*self.kernels]}")
        self._check_launch(name, grid, block, args, shared_bytes, max_dynamic_shared)
        buffers = [ctypes.create_string_buffer(bytes(arg), max(1, len(arg))) for arg in args]
        table = (ctypes.c_void_p * (len(args) + 1))(*map(ctypes.addressof, buffers))
        request = _Launch(
            entry=ctypes.cast(self._library[f"emulator_entry_{name}"], ctypes.c_void_p),
            arguments=table,
            grid=_Index(*grid),
            block=_Index(*block),
            shared_bytes=shared_bytes,
            max_dynamic_shared=max_dynamic_shared,
            order=_ORDERS.index(order),
            shared=self._shared,
            shared_count=len(self._shared),
            image_begin=self._begin,
            image_end=self._end,
        )
        report = _Report()
        if runtime().emulator_launch(ctypes.byref(request), ctypes.byref(report)):
            raise KernelFault(
                f"{report.text.decode()}, at {self._place(report)}, in {name}, "
                f"block {report.block}, thread {report.thread}"
            )

    def _check_launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[bytes],
        shared_bytes: int,
        max_dynamic_shared: int,
    ) -> None:
        for what, given in (("grid", grid), ("block", block)):
            most = _LIMITS[what]
            if len(given) != 3 or any(not 0 < n <= m for n, m in zip(given, most, strict=True)):
                raise KernelFault(f"{name}: a {what} of {tuple(given)}, each from 1 to {most}")
        if grid[0] * grid[1] * grid[2] > _MOST_BLOCKS:
            raise KernelFault(f"{name}: a grid of {tuple(grid)} is too large for the emulator")
        threads = block[0] * block[1] * block[2]
        bound = self._library[f"emulator_bounds_{name}"]()
        if threads > min(bound, MOST_THREADS):
            raise KernelFault(f"{name}: {threads} threads in a block, at most {bound}")
        if not 0 <= shared_bytes <= max_dynamic_shared <= _MOST_SHARED:
            raise KernelFault(
                f"{name}: too much shared memory: {shared_bytes} bytes dynamic, at most "
                f"{max_dynamic_shared} were asked for, of at most {_MOST_SHARED}"
            )
        given, expected = tuple(map(len, args)), self._sizes[name]
        if given != expected:
            raise KernelFault(
                f"{name}: arguments of {given} bytes for parameters {self.kernels[name]} of "
                f"{expected} bytes"
            )

    def _describe(self, kernel: str) -> list[tuple[str, int]]:
        table = (_Parameter * 128)()
        self._library[f"emulator_describe_{kernel}"](table)
        parameters = []
        for parameter in table:
            if parameter.type is None:
                return parameters
            type_ = _type_name(parameter.type.decode())
            type_ = f"struct:{parameter.size}" if parameter.is_struct else type_
            parameters.append((type_, parameter.size))
        raise KernelFault(f"{self.name}: {kernel} has more than {len(table) - 1} parameters")

    def _place(self, report: _Report) -> str:
        """file:line of a fault; inside the emulator's headers, the line that called them."""
        if report.file:
            return f"{report.file.decode()}:{report.line}"
        if not self._begin <= report.pc < self._end:
            return self.name
        address = hex(report.pc - 1 - self._begin)
        lines = run(["addr2line", "-i", "-e", str(self.path), address]).splitlines()
        ours = [line for line in lines if str(HEADERS) not in line]
        place = (ours or lines)[0].split(" (discriminator")[0]
        return place.removeprefix(f"{self.path.parent}/")


_SPELLING = {
    "long long unsigned int": "unsigned long long",
    "long long int": "long long",
    "long unsigned int": "unsigned long",
    "long int": "long",
    "short unsigned int": "unsigned short",
    "short int": "short",
}


def _type_name(signature: str) -> str:
    """The type in the compiler's name of `spell<T>`, spelled as CUDA sources do."""
    text = re.search(r"with T = (.*)\]$", signature)[1]
    for ours, usual in _SPELLING.items():
        text = re.sub(rf"\b{ours}\b", usual, text)
    return re.sub(r"\s*__restrict__", "", text)


def _shared(path: Path) -> list[tuple[int, int, bytes]]:
    """(offset, size, name) of the writable local statics: the __shared__ variables."""
    table = cached(path.name, ".symbols", lambda file: _list_statics(path, file))
    rows = [line.split(maxsplit=2) for line in table.read_text().splitlines()]
    return [(int(offset, 16), int(size, 16), name.encode()) for offset, size, name in rows]


def _list_statics(library: Path, file: Path) -> None:
    lines = run(["nm", "-S", "--defined-only", str(library)]).splitlines()
    rows = [line.split(maxsplit=3) for line in lines]
    rows = [row for row in rows if len(row) == 4 and row[3].startswith("_ZZ") and row[2] in "bBdD"]
    names = run(["c++filt"], "\n".join(row[3] for row in rows)).splitlines()
    file.write_text(
        "".join(f"{row[0]} {row[1]} {name}\n" for row, name in zip(rows, names, strict=True))
    )
