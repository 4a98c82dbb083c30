"""How every benchmark measures: one worker process per library, the same cases in turn.

A worker prepares a case from the same seeded inputs, hands back its result for verification, and
then times it: after two calls to warm up (which compile), single calls until a second has passed,
as median and 20th and 80th percentile of wall time. Workers take turns on each case, so that a
machine that slows down slows all of them; the idle ones sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def time_call(
    call: Callable[[], Any], *, seconds: float, warm_up: int = 2, least: int = 5
) -> dict[str, float]:
    """Median, 20th and 80th percentile of single calls, in seconds; and the CPU time of one."""
    for _ in range(warm_up):
        call()
    samples: list[float] = []
    cpu = time.process_time()
    begin = time.perf_counter()
    while len(samples) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(samples)
    p20, median, p80 = np.percentile(samples, [20, 50, 80])
    return {"median": median, "p20": p20, "p80": p80, "cpu": cpu, "calls": len(samples)}


class Worker:
    """A process that runs this same script with `--worker LIBRARY` and answers JSON lines."""

    def __init__(self, script: str, library: str, threads: int):
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "NUMBA_NUM_THREADS": str(threads),
        }
        self.library = library
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", library],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.library} worker ended at {request}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The worker's loop: requests on standard input, answers on what was standard output."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks share."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--quick", action="store_true", help="a smoke run: few calls, small shapes")
    p.add_argument("--only", default="", help="run only the cases whose name contains this")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="threads per library")
    p.add_argument("--json", type=Path, help="also write the results to this file")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    return p


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest expected value."""
    scale = float(np.abs(expected).max()) if expected.size else 1.0
    return float(np.abs(result - expected).max()) / (scale or 1.0) if expected.size else 0.0


def machine() -> dict[str, Any]:
    """What a table must name: processor, cores, library versions."""
    versions = {}
    for name in ("numpy", "numba", "scipy", "torch"):
        try:
            versions[name] = __import__("importlib.metadata").metadata.version(name)
        except ModuleNotFoundError:
            versions[name] = "not installed"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(),
            **versions}  # fmt: skip


def ceilings(seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of a large float32 product and GB/s of a large copy (read + written), all cores."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2048, 2048), dtype=np.float32) for _ in range(2))
    source = rng.standard_normal(1 << 24, dtype=np.float32)
    target = np.empty_like(source)

    from tinygen_kernels.cpu.jit import CHUNK, kernel, prange

    @kernel
    def copy(x, y):
        for c in prange((x.size + CHUNK - 1) // CHUNK):
            y[c * CHUNK : (c + 1) * CHUNK] = x[c * CHUNK : (c + 1) * CHUNK]

    gemm = time_call(lambda: a @ b, seconds=seconds)["p20"]
    move = time_call(lambda: copy(source, target), seconds=seconds)["p20"]
    return {"gflops": 2 * 2048**3 / gemm / 1e9, "gbps": 2 * source.nbytes / move / 1e9}


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A Markdown table with aligned columns, so that it reads as well in a terminal."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    line = lambda r: "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |"  # noqa: E731
    print(line(header))
    print("| " + " | ".join("-" * w for w in widths) + " |")
    for row in rows:
        print(line(row))


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """The results beside the machine they were taken on, written atomically."""
    if path is None:
        return
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as file:
        json.dump(results, file, indent=1)
    os.replace(file.name, path)
    print(f"\nwritten to {path}")
