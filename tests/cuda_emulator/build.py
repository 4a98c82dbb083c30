"""CUDA sources compiled as C++ with every memory access instrumented.

library = build.compile(source, ("-DREAL=float", "-Ikernels/cuda"), "scale.cu")
library.launch("scale", (4, 1, 1), (256, 1, 1), [struct.pack("P", x.ptr), struct.pack("i", n)])
"""

from __future__ import annotations

import functools
from pathlib import Path

from . import translate
from .library import KernelFault, Library
from .toolchain import CompileError, available, cached, gcc_version, run, runtime
from .translate import HEADERS, to_cpp

__all__ = ["CompileError", "KernelFault", "Library", "available", "compile"]

COMPILE = [
    "g++",
    *("-x", "c++", "-fpreprocessed", "-std=c++17", "-O1", "-gdwarf-4", "-w", "-fPIC", "-shared"),
    # __shared__ variables are local to the library, whatever others of the same name exist
    *("-fvisibility=hidden", "-fno-gnu-unique", "-nostdlib", "-fno-exceptions"),
    *("-fmax-errors=5", "-fno-strict-aliasing", "-fno-var-tracking-assignments"),
    *("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"),
    "-fsanitize=bounds-strict,alignment,signed-integer-overflow,shift,integer-divide-by-zero",
    "-fsanitize=float-cast-overflow,unreachable,return",
]
# A variable that nobody initialised holds neither zero nor what the last thread left there.
PATTERN = "-ftrivial-auto-var-init=pattern"  # since GCC 12


@functools.cache
def compile(source: str, options: tuple[str, ...], name: str) -> Library:
    """The kernels of a CUDA source. Of CuPy's `options` -D, -I and the architecture count.

    Raises CompileError with the compiler's text. Results are kept on disk, to be used again while
    the source, the options and the headers in the -I folders are the same.
    """
    runtime()
    key = _key(source, options, name)

    def make(file: Path) -> None:
        text = to_cpp(source, options, name)
        if _key(source, options, name) != key:
            raise CompileError(f"{name}: a header was changed while it was compiled; run again")
        flags = [PATTERN] if gcc_version() >= 12 else []
        run([*COMPILE, *flags, "-", "-o", str(file), "-lm"], text)

    return Library(name, cached(key, ".so", make))


def _key(source: str, options: tuple[str, ...], name: str) -> str:
    folders = [HEADERS, *(Path(o[2:]) for o in options if o.startswith("-I"))]
    files = [p for folder in folders for p in sorted(folder.glob("*.*h")) if p.is_file()]
    files.append(Path(translate.__file__))
    texts = [path.read_text(encoding="utf-8") for path in files]
    return "\0".join([*COMPILE, PATTERN, source, *options, name, *texts])
