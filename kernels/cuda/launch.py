"""CUDA sources and their launches, with checked what CuPy leaves unchecked.

CuPy's raw kernels take any argument as it comes: a Python int arrives as 64 bits where the kernel
reads 32, a float64 array is read as floats. A `Kernel` reads the parameter types out of the source
and converts or refuses. Strides it can't see: launchers hand over dense arrays (`..layout`).

    SOURCE = Source("scale.cu", REAL=REALS)
    SOURCE.kernel("scale", REAL=ctype(x))(blocks(x.size, 256), 256, (x, y, 2.0, x.size))

Every kernel is `extern "C"`; macros such as REAL make its variants. The variants that a Source
declares are all that it accepts, so that a test can compile every one that a program may ask for.
Compiling happens at the first launch, through NVRTC, and CuPy caches the result on disk.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np

__all__ = [
    "REALS",
    "CompileError",
    "Kernel",
    "Source",
    "blocks",
    "ctype",
    "in_graph",
    "inside_a_graph",
]

FOLDER = Path(__file__).parent
REALS = ("float", "double")
MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
STATIC_SHARED = 48 * 1024  # bytes that a block may use without asking for more
NULL = np.uint64(0)  # CuPy 13 takes None for no argument at all

_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "bool": np.bool_,
}
_CTYPES = {np.dtype(t): name for name, t in _TYPES.items()}
_SIGNATURE = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s*(?:__launch_bounds__\s*\([^)]*\)\s*)?'
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


class _Graph(threading.local):
    inside = False


_graph = _Graph()


@contextlib.contextmanager
def inside_a_graph() -> Iterator[None]:
    """Inside, launchers take only what a CUDA graph can record: cuBLAS is not among it."""
    before, _graph.inside = _graph.inside, True
    try:
        yield
    finally:
        _graph.inside = before


def in_graph() -> bool:
    """Whether the work of this thread is, or is about to be, recorded in a CUDA graph."""
    return _graph.inside or cupy.cuda.get_current_stream().is_capturing()


class CompileError(RuntimeError):
    """A source that NVRTC refuses; the message names its file and line."""


def ctype(like: Any) -> str:
    """The C name of an array's or a dtype's element type. TypeError for one that has none."""
    dtype = np.dtype(like if isinstance(like, type | np.dtype) else like.dtype)
    if dtype not in _CTYPES:
        raise TypeError(f"there are no CUDA kernels for {dtype}; use float32 or float64")
    return _CTYPES[dtype]


def blocks(n: int, per_block: int, most: int = MAX_GRID[0]) -> int:
    """How many blocks cover n elements; `most` for kernels that stride over the rest."""
    return min(-(-n // per_block), most)


class Source:
    """One `.cu` file, compiled once for each combination of macro values that is used.

    `choices` gives the values that each macro may have; `variants` lists whole combinations where
    their product would be too many.
    """

    all: list[Source] = []  # noqa: RUF012  every source of the package, for the tests that compile

    def __init__(
        self,
        file: str,
        *,
        variants: Sequence[Mapping[str, Any]] | None = None,
        **choices: Sequence[Any],
    ) -> None:
        self.file = file
        products = itertools.product(*choices.values())
        if variants is None:
            variants = [dict(zip(choices, values, strict=True)) for values in products]
        self.variants = [dict(v) for v in variants]
        self._modules: dict[tuple, cupy.RawModule] = {}
        self._kernels: dict[tuple, Kernel] = {}
        Source.all.append(self)

    def __repr__(self) -> str:
        return f"Source({self.file!r})"

    @functools.cached_property
    def text(self) -> str:
        """The file, with a directive that makes compilers report its own lines."""
        path = FOLDER / self.file
        return f'#line 1 "{path.as_posix()}"\n{path.read_text(encoding="utf-8")}'

    @functools.cached_property
    def signatures(self) -> dict[str, list[tuple[str, str]]]:
        """Kernel name -> [(type, parameter name)], macros in the types not yet replaced."""
        code = re.sub(r"//[^\n]*", "", self.text)
        return {
            m["name"]: [_parameter(p) for p in m["parameters"].split(",") if p.strip()]
            for m in _SIGNATURE.finditer(code)
        }

    def options(self, defines: Mapping[str, Any]) -> tuple[str, ...]:
        """What the compiler is told. The hash makes CuPy's disk cache notice a changed header."""
        macros = [f"-D{name}={value}" for name, value in defines.items()]
        return ("-std=c++17", f"-I{FOLDER.as_posix()}", f"-DHEADERS=0x{_headers()}", *macros)

    def kernel(self, name: str, **defines: Any) -> Kernel:
        """The kernel of that name, compiled with these macro values at its first launch."""
        key = name, cupy.cuda.Device().id, *sorted(defines.items())
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = Kernel(self, name, defines)
        return kernel

    def module(self, defines: Mapping[str, Any]) -> cupy.RawModule:
        """The compiled file. Raises ValueError for macro values that were not declared."""
        if dict(defines) not in self.variants:
            raise ValueError(f"{self.file}: no variant {dict(defines)} among {self.variants}")
        key = tuple(sorted(defines.items()))
        module = self._modules.get(key)
        if module is None:
            module = cupy.RawModule(code=self.text, options=self.options(defines))
            try:
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                raise CompileError(_first_error(str(error))) from error
            self._modules[key] = module
        return module


class Kernel:
    """A compiled kernel that converts its arguments to the types in its signature."""

    def __init__(self, source: Source, name: str, defines: Mapping[str, Any]) -> None:
        if name not in source.signatures:
            raise ValueError(f"{source.file}: no kernel {name!r} among {[*source.signatures]}")
        self.source, self.name = source, name
        self.parameters = [
            (_resolve(type_, defines), parameter) for type_, parameter in source.signatures[name]
        ]
        self._function = source.module(defines).get_function(name)
        self._shared = STATIC_SHARED

    def __repr__(self) -> str:
        return f"Kernel({self.source.file}: {self.name})"

    def __call__(
        self,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        arguments: Sequence[Any],
        *,
        shared: int = 0,
    ) -> None:
        """Launch on the current stream; nothing happens for a grid without blocks.

        `shared` is the dynamic shared memory in bytes. None stands for a null pointer.
        """
        grid = (grid,) if isinstance(grid, int) else grid
        block = (block,) if isinstance(block, int) else block
        if 0 in grid:
            return
        self._check(grid, block)
        if len(arguments) != len(self.parameters):
            raise TypeError(
                f"{self}: {len(arguments)} arguments for {len(self.parameters)} parameters"
            )
        if shared > self._shared:
            self._function.max_dynamic_shared_size_bytes = self._shared = shared
        values = tuple(map(self._convert, self.parameters, arguments))
        self._function(grid, block, values, shared_mem=shared)

    def _check(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        threads = 1
        for n in block:
            threads *= n
        if not 0 < threads <= MAX_THREADS:
            raise ValueError(f"{self}: {threads} threads in a block, at most {MAX_THREADS}")
        for n, most in zip(grid, MAX_GRID, strict=False):
            if not 0 < n <= most:
                raise ValueError(f"{self}: a grid of {grid} blocks, at most {MAX_GRID}")

    def _convert(self, parameter: tuple[np.dtype | str, str], value: Any) -> Any:
        type_, name = parameter
        if isinstance(type_, np.dtype):  # a pointer to such elements
            if value is None:
                return NULL
            if isinstance(value, np.ndarray):  # CuPy would pass its contents, as a struct
                raise TypeError(f"{self}: {name} is a NumPy array; move it to the GPU first")
            if value.dtype != type_:
                raise TypeError(f"{self}: {name} is {value.dtype}, the kernel reads {type_}")
            return value
        if type_ == "struct":  # by value CuPy passes arrays of one element, and no others
            return value.reshape(-1).view(f"V{value.nbytes}")
        try:
            return type_(value)
        except OverflowError:
            limit = np.iinfo(type_)
            raise ValueError(
                f"{self}: {name} = {value} does not fit {limit.dtype} (at most {limit.max})"
            ) from None


def _parameter(text: str) -> tuple[str, str]:
    """`const REAL* __restrict__ x` -> ("REAL*", "x")."""
    words = re.findall(r"\w+|\*", re.sub(r"\b(const|__restrict__|__grid_constant__)\b", " ", text))
    return " ".join(words[:-1]).replace(" *", "*"), words[-1]


def _resolve(type_: str, defines: Mapping[str, Any]) -> Any:
    """A NumPy dtype for a pointer, a scalar type for a number, "struct" for anything else."""
    plain = type_.rstrip("*")
    plain = str(defines.get(plain, plain))
    if type_.endswith("*"):
        return np.dtype(_TYPES.get(plain, np.uint8))
    return _TYPES.get(plain, "struct")


@functools.cache
def _headers() -> str:
    text = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))
    return hashlib.blake2b(text, digest_size=7).hexdigest()


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if "error" in line]
    return lines[0] if lines else log.strip().splitlines()[0]
