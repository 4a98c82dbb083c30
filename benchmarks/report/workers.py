"""What the report's worker processes answer: the kernels' cases, one library's training steps.

A kernel that reads out of bounds makes the GPU unusable for its whole process. So the command
itself never touches the GPU; its workers do, and are replaced when they are lost.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from common import Worker

__all__ = ["Contained", "answering", "machine"]


class Contained:
    """A worker that is replaced when it is lost: by a timeout, a crash, a kernel's error."""

    def __init__(self, script: str, name: str) -> None:
        self.script, self.name = script, name
        self.worker: Worker | None = None

    def ask(self, limit: float, /, **request: Any) -> dict[str, Any]:
        """Its answer within `limit` seconds, or {"failed": why}."""
        if self.worker is None:
            self.worker = Worker(self.script, self.name, os.cpu_count() or 1)
        process = self.worker.process
        timer = threading.Timer(limit, process.kill)
        timer.start()
        begin = time.monotonic()
        try:
            answer = self.worker.ask(**request)
        except (RuntimeError, OSError, ValueError):  # it ended, at best between two lines
            late = time.monotonic() - begin >= limit
            why = f"no answer in {limit:.0f} s" if late else f"ended with code {process.wait()}"
            answer = {"failed": f"the worker {self.name!r}: {why}", "lost": True}
        finally:
            timer.cancel()
        if answer.pop("lost", False):
            self.close()
        return answer

    def close(self) -> None:
        """End the process, whatever state it is in."""
        if self.worker is not None:
            self.worker.process.kill()
            self.worker.process.wait()
            self.worker = None


def answering(worker: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that answers a worker's requests: `kernels`, or a provider of steps."""
    answer = Kernels().answer if worker == "kernels" else Steps(worker).answer

    def contained(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return answer(request)
        except Exception as error:  # a row of the report; the others go on
            lines = str(error).strip().splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {lines[0]}"[:300], "lost": not _alive()}

    return contained


def _alive() -> bool:
    """Whether the GPU still works for this process: an error of a kernel stays for good."""
    try:
        import torch

        torch.cuda.synchronize()
    except Exception:  # of any kind: no PyTorch, one without CUDA, a lost GPU
        return False
    return True


class Kernels:
    """Answers for the kernels: the machine, its ceilings, the list of cases, one case."""

    def __init__(self) -> None:
        self._gpu = None
        self._cases: dict[bool, dict] = {}

    @property
    def gpu(self):
        from .measure import Gpu

        if self._gpu is None:
            self._gpu = Gpu()
        return self._gpu

    def cases(self, quick: bool) -> dict:
        """Every case by its key, what is done soonest first."""
        from . import densities, elements, products, recurrences, rows

        if quick not in self._cases:
            families = elements, rows, densities, recurrences, products
            found = [case for family in families for case in family.cases(quick)]
            self._cases[quick] = {case.key: case for case in found}
        return self._cases[quick]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        from . import measure

        if request["ask"] == "machine":
            return machine()
        if request["ask"] == "ceilings":
            return measure.ceilings(self.gpu, quick=request["quick"])
        cases = self.cases(request["quick"])
        if request["ask"] == "cases":
            names = "family", "name", "precision", "bytes", "flops"
            return {key: {n: getattr(c, n) for n in names} for key, c in cases.items()}
        case = cases[request["key"]]
        options = {name: request[name] for name in ("seed", "seconds")}
        return measure.measure(case, self.gpu, **options)


class Steps:
    """Answers for one provider of training steps."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        from . import steps, zoo

        return steps.measure(
            zoo.MODELS[request["model"]],
            self.provider,
            precision=request["precision"],
            seconds=request["seconds"],
            quick=request["quick"],
        )


def machine() -> dict[str, Any]:
    """What a table must name: GPU, driver, versions."""
    import cupy
    import torch

    properties = torch.cuda.get_device_properties(0)
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "driver": _driver(),
        "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "cupy": cupy.__version__,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
    }


def _driver() -> str:
    """The driver's version, which neither library knows."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split()
    return lines[0] if lines else "unknown"
