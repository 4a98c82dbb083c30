"""The C++ compiler behind the emulator, its cache on disk, and the runtime library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["CompileError", "available", "cache_folder", "cached", "gcc_version", "run", "runtime"]

FOLDER = Path(__file__).parent
OLDEST_GCC = 11
RUNTIME = [
    "g++",
    *("-std=c++17", "-O2", "-flto", "-fPIC", "-shared", "-fvisibility=hidden"),
    "-U_FORTIFY_SOURCE",  # its longjmp refuses to leave a fiber's stack
]


class CompileError(RuntimeError):
    """Source that the compiler refuses; the message is the compiler's."""


def available() -> str | None:
    """None where the emulator can run, else the reason why it can't."""
    if sys.platform != "linux":
        return f"the CUDA emulator needs Linux, this is {sys.platform}"
    for program in ("g++", "nm", "c++filt", "addr2line"):
        if shutil.which(program) is None:
            return f"the CUDA emulator needs {program} on the PATH"
    if gcc_version() < OLDEST_GCC:
        return f"the CUDA emulator needs g++ {OLDEST_GCC} or newer, this is {gcc_version()}"
    return None


@functools.cache
def gcc_version() -> int:
    """The major version of g++."""
    return int(run(["g++", "-dumpversion"]).split(".")[0])


def cache_folder() -> Path:
    """$TINYGEN_EMULATOR_CACHE, else a folder in the user's cache directory."""
    chosen = os.environ.get("TINYGEN_EMULATOR_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        chosen = Path(base) / "tinygen-cuda-emulator"
    folder = Path(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command: Sequence[str], text: str | None = None) -> str:
    """The standard output of a program. Raises CompileError with what it says when it fails."""
    done = subprocess.run(  # in a folder without headers that a quoted #include could find
        command, input=text, capture_output=True, text=True, cwd=cache_folder(), check=False
    )
    if done.returncode:
        raise CompileError(done.stderr.strip() or f"{command[0]}: exit status {done.returncode}")
    return done.stdout


@functools.cache
def _version() -> str:
    return run(["g++", "--version"])


def cached(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` wrote for this key, now or earlier.

    Several processes may make the same file: each writes its own and moves it into place.
    """
    digest = hashlib.blake2b(f"{_version()}\0{key}".encode(), digest_size=12).hexdigest()
    path = cache_folder() / f"{digest}{suffix}"
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            make(Path(temporary))
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path


@functools.cache
def runtime() -> ctypes.PyDLL:
    """The emulator itself; its symbols are visible to the kernels' libraries loaded later.

    PyDLL keeps Python's lock: no other thread can free memory under a running kernel.
    """
    reason = available()
    if reason:
        raise RuntimeError(reason)
    files = sorted((FOLDER / "runtime").iterdir())
    sources = [str(path) for path in files if path.suffix == ".cpp"]
    key = "\0".join([*RUNTIME, *(path.read_text(encoding="utf-8") for path in files)])
    path = cached(key, ".so", lambda file: run([*RUNTIME, *sources, "-o", str(file)]))
    library = ctypes.PyDLL(str(path), ctypes.RTLD_GLOBAL)
    library.emulator_allocate.restype = ctypes.c_void_p
    library.emulator_allocate.argtypes = [ctypes.c_size_t]
    library.emulator_free.restype = None
    library.emulator_free.argtypes = [ctypes.c_void_p]
    library.emulator_unmap.restype = None
    library.emulator_unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.emulator_allocated.restype = ctypes.c_size_t
    return library
