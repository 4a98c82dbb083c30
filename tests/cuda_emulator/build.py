"""CUDA sources compiled as C++ with every memory access instrumented, and their launches.

library = build.compile(source, ("-DREAL=float", "-Ikernels/cuda"), "scale.cu")
library.launch("scale", (4, 1, 1), (256, 1, 1), [struct.pack("P", x.ptr), struct.pack("i", n)])
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from .toolchain import FOLDER, CompileError, available, build, run, runtime

__all__ = ["CompileError", "KernelFault", "Library", "available", "compile"]

HEADERS = FOLDER / "include"
PREPROCESS = ["-E", "-x", "c++", "-std=c++17", "-nostdinc"]
COMPILE = [
    *("-x", "c++", "-fpreprocessed", "-std=c++17", "-O1", "-gdwarf-4", "-w", "-fPIC", "-shared"),
    # __shared__ variables are local to the library, whatever others of the same name exist
    *("-fvisibility=hidden", "-fno-gnu-unique", "-nostdlib", "-fno-exceptions"),
    *("-fmax-errors=5", "-fno-strict-aliasing", "-fno-var-tracking-assignments"),
    # a variable that nobody initialised holds neither zero nor what the last thread left there
    "-ftrivial-auto-var-init=pattern",
    *("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"),
    "-fsanitize=bounds-strict,alignment,signed-integer-overflow,shift,integer-divide-by-zero",
    "-fsanitize=float-cast-overflow,unreachable,return",
]

_BOUNDS = r"__launch_bounds__\s*\((?P<bounds>(?:[^()]|\([^()]*\))*)\)"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+(?:{_BOUNDS}\s*)?void\s+'
    rf"(?:{_BOUNDS.replace('bounds>', 'bounds_after>')}\s*)?(?P<name>\w+)\s*\("
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?P<type>[^;{}]*?)\b(?P<name>\w+)\s*\[\s*\]\s*;")
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
_MOST_THREADS = 1024
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


def compile(source: str, options: tuple[str, ...], name: str) -> Library:
    """The kernels of a CUDA source. `options` are CuPy's: -D, -I and the architecture count.

    Raises CompileError with the compiler's text.
    """
    return _compile(source, tuple(options), name)


@functools.cache
def _compile(source: str, options: tuple[str, ...], name: str) -> Library:
    runtime()
    folders = [option for option in options if option.startswith("-I")]
    source = f'{_prelude(options)}#line 1 "{name}"\n{source}'
    text = run(["g++", *PREPROCESS, f"-I{HEADERS}", *folders, "-"], source)
    kernels = {m["name"]: m["bounds"] or m["bounds_after"] for m in _KERNEL.finditer(text)}
    text = _plain_cpp(text) + "".join(map(_entry, kernels, kernels.values())) + _IMAGE
    path = build(COMPILE, ["-"], text, text)
    return Library(name, path, tuple(kernels))


def _prelude(options: Sequence[str]) -> str:
    """What stands before a source: the macros last, so that they can't change our own headers."""
    chosen = [re.fullmatch(r"-.*arch\w*=(?:sm|compute)_(\d+)\w*", option) for option in options]
    arch = next((int(m[1]) * 10 for m in chosen if m), 900)
    macros = [option[2:].partition("=") for option in options if option.startswith("-D")]
    lines = [f"#define {name} {value if equals else 1}\n" for name, equals, value in macros]
    return f'#define __CUDA_ARCH__ {arch}\n#include "emulator.h"\n{"".join(lines)}'


def _plain_cpp(text: str) -> str:
    """What macros can't express: kernels' attributes, static and dynamic shared memory."""

    def blank(match: re.Match) -> str:
        return "\n" * match[0].count("\n") or " "

    text = re.sub(rf"\b__global__\b|{_BOUNDS}", blank, text)
    text = _DYNAMIC.sub(
        r"\g<type>* const \g<name> = reinterpret_cast<\g<type>*>(emulator_dynamic_shared());", text
    )
    # `used`: the compiler must not conclude that a variable nobody writes is zero.
    return re.sub(r"\b__shared__\b", "static __attribute__((used))", text)


_IMAGE = """
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];
extern "C" __attribute__((visibility("default"), no_sanitize("thread")))
void emulator_image(unsigned long* out) {
    out[0] = (unsigned long)__ehdr_start;
    out[1] = (unsigned long)_end;
}
"""


def _entry(kernel: str, bounds: str | None) -> str:
    """Functions beside a kernel: the call, the description, the most threads of a block."""
    most = f"emulator::first({bounds})" if bounds else str(_MOST_THREADS)
    attributes = 'extern "C" __attribute__((visibility("default")))'
    return f"""
{attributes} void emulator_entry_{kernel}(void** arguments) {{
    emulator::call({kernel}, arguments);
}}
{attributes} void emulator_describe_{kernel}(emulator::Parameter* out) {{
    emulator::describe({kernel}, out);
}}
{attributes} int emulator_bounds_{kernel}() {{ return {most}; }}
"""


class Library:
    """A compiled source; `kernels` maps each kernel's name to its parameter types."""

    def __init__(self, name: str, path: Path, kernels: tuple[str, ...]) -> None:
        self.name, self.path = name, path
        self._library = ctypes.PyDLL(str(path))
        image = (ctypes.c_ulong * 2)()
        self._library.emulator_image(image)
        self._begin, self._end = image
        symbols = [_Symbol(self._begin + at, size, text) for at, size, text in _shared(path)]
        self._shared = (_Symbol * len(symbols))(*symbols)
        parameters = {kernel: self._describe(kernel) for kernel in kernels}
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
        if threads > min(bound, _MOST_THREADS):
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
    lines = run(["nm", "-S", "--defined-only", str(path)]).splitlines()
    rows = [line.split(maxsplit=3) for line in lines]
    rows = [row for row in rows if len(row) == 4 and row[3].startswith("_ZZ") and row[2] in "bBdD"]
    names = run(["c++filt"], "\n".join(row[3] for row in rows)).splitlines()
    return [
        (int(row[0], 16), int(row[1], 16), name.encode())
        for row, name in zip(rows, names, strict=True)
    ]
