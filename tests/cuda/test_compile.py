"""Every kernel source compiles for every architecture, in every variant, without spilling.

nvcc reports registers, shared memory and spills, which the end of the test run prints as a table;
NVRTC, which compiles the sources in use and knows no standard headers, must accept them too.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tinygen_kernels.cuda

ARCHITECTURES = (75, 80, 90)
FOLDER = Path(tinygen_kernels.cuda.__file__).parent
NVCC = shutil.which("nvcc")
# Teaching versions may spill: nobody runs them for their speed.
MAY_SPILL = re.compile("plain")
_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def sources(cupy) -> list:
    """Every `Source` that the launchers declare."""
    for path in FOLDER.glob("*.py"):
        importlib.import_module(f"tinygen_kernels.cuda.{path.stem}")
    return importlib.import_module("tinygen_kernels.cuda.launch").Source.all


def variants(cupy) -> Iterator[tuple]:
    return ((source, variant) for source in sources(cupy) for variant in source.variants)


def nvcc(source, variant: dict, folder: Path) -> list[dict]:
    """One row for each kernel and architecture. Raises AssertionError with nvcc's words."""
    macros = [f"-D{name}={value}" for name, value in variant.items()]
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    out = folder / f"{source.file}-{'-'.join(map(str, variant.values()))}.fatbin"
    command = [NVCC, "-fatbin", "-std=c++17", "-Xptxas", "-v", *targets, *macros]
    done = subprocess.run(
        [*command, "-o", str(out), str(FOLDER / source.file)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = []
    for entry in _ENTRY.finditer(done.stderr):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        rows.append(
            {
                "file": source.file,
                "kernel": entry["name"],
                "variant": " ".join(f"{k}={v}" for k, v in variant.items()),
                "sm": int(entry["arch"]),
                "registers": int(entry["registers"]),
                "shared": int(shared[1]) if shared else 0,
                "spills": int(entry["stores"]) + int(entry["loads"]),
            }
        )
    return rows


@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")
def test_nvcc_compiles_every_variant_without_spills(cupy, tmp_path, resource_table):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda v: nvcc(*v, tmp_path), list(variants(cupy)))
        rows = [row for rows in compiled for row in rows]
    resource_table.extend(rows)
    declared = {(s.file, name) for s in sources(cupy) for name in s.signatures}
    assert {(row["file"], row["kernel"]) for row in rows} == declared
    spilling = [r for r in rows if r["spills"] and not MAY_SPILL.search(r["kernel"] + r["file"])]
    assert not spilling, "\n".join(map(str, spilling))


def test_every_source_file_is_launched_by_something(cupy):
    assert {path.name for path in FOLDER.glob("*.cu")} == {s.file for s in sources(cupy)}


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """The library where the pip packages for CUDA or the system have it."""
    folders = [Path(p) / "nvidia" for p in sys.path]
    found = [str(f) for d in folders for f in d.glob("*/lib/libnvrtc.so.*") if "alt" not in f.name]
    for name in [*found, "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def nvrtc_log(source, variant: dict, architecture: int) -> str:
    """What NVRTC says against a source; nothing if it compiles."""
    library, program = nvrtc(), ctypes.c_void_p()
    options = [*source.options(variant), f"-arch=compute_{architecture}", "-ftz=true"]
    encoded = [option.encode() for option in options]
    library.nvrtcCreateProgram(
        ctypes.byref(program), source.text.encode(), source.file.encode(), 0, None, None
    )
    table = (ctypes.c_char_p * len(encoded))(*encoded)
    failed = library.nvrtcCompileProgram(program, len(encoded), table)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() if failed else ""


@pytest.mark.skipif(nvrtc() is None, reason="the NVRTC library is not installed")
@pytest.mark.parametrize("architecture", [75, 90])
def test_nvrtc_accepts_every_source(cupy, architecture):
    for source in sources(cupy):
        log = nvrtc_log(source, source.variants[0], architecture)
        assert not log, log
