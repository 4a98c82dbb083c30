"""Time whole training steps, tinygen's and their PyTorch twins'; the models are in `zoo.py`.

Steps are timed as training runs them, ten in a row and nothing read in between; what Python takes
to launch a step is measured beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from twins.common import Step, Torch

__all__ = ["PRECISIONS", "PROVIDERS", "Model", "measure"]

PRECISIONS = ("tf32", "bf16")
ROW = 10  # steps between two looks at the clock
LEAST = 5  # rows
WARM_UP = 6  # tinygen.capture records at the fourth call

PROVIDERS: dict[str, Torch | bool] = {
    "tinygen": False,  # whether captured
    "tinygen captured": True,
    "torch": Torch(device="cuda"),
    "torch channels-last": Torch(device="cuda", channels_last=True),
    "torch channels-last, CUDA graph": Torch(device="cuda", channels_last=True, graph=True),
    "torch channels-last, compiled": Torch(device="cuda", channels_last=True, compiled=True),
}


@dataclass(frozen=True)
class Model:
    """A module of `twins`, the sizes, those of a smoke run, and what its step is timed with."""

    module: ModuleType
    sizes: Any
    few: Any
    providers: tuple[str, ...] = tuple(PROVIDERS)
    precisions: tuple[str, ...] = PRECISIONS

    def size(self, quick: bool) -> Any:
        """The sizes, or those of a smoke run."""
        return self.few if quick else self.sizes


def measure(
    model: Model, provider: str, *, precision: str, seconds: float, quick: bool
) -> dict[str, Any]:
    """A row of the report; `peak_mb` counts what the library holds of the GPU after the steps."""
    how = PROVIDERS[provider]
    library = _Torch if isinstance(how, Torch) else _Tinygen
    gc.collect()  # the step of the case before, and its graph
    library.free()
    before = library.used_bytes()
    begin = time.perf_counter()
    step = library.step(model, how, precision, quick)
    for _ in range(WARM_UP):
        step()
    library.synchronize()
    started = time.perf_counter() - begin
    row = time_steps(step, library.synchronize, seconds)
    row["images_per_second"] = 1e3 * model.size(quick).batch_size / row["median"]
    return row | {"start_s": started, "peak_mb": (library.used_bytes() - before) / 2**20}


def time_steps(step: Step, synchronize: Callable[[], None], seconds: float) -> dict[str, float]:
    """Milliseconds of a step: median, 20th and 80th percentile of rows of steps; the host's."""
    whole, host = [], []
    begin = time.perf_counter()
    while len(whole) < LEAST or time.perf_counter() - begin < seconds:
        synchronize()
        start = time.perf_counter()
        for _ in range(ROW):
            step()
        host.append(time.perf_counter() - start)
        synchronize()
        whole.append(time.perf_counter() - start)
    p20, median, p80 = 1e3 * np.percentile(whole, [20, 50, 80]) / ROW
    host_ms = 1e3 * float(np.median(host)) / ROW
    return {"median": median, "p20": p20, "p80": p80, "host": host_ms, "steps": ROW * len(whole)}


class _Tinygen:
    """The GPU through tinygen."""

    @staticmethod
    def step(model: Model, captured: bool, precision: str, quick: bool) -> Step:
        import tinygen

        tinygen.device.set_precision(precision)
        step = model.module.tinygen_step(model.size(quick), "cuda")
        return tinygen.capture(step, device="cuda") if captured else step

    @staticmethod
    def synchronize() -> None:
        import cupy

        cupy.cuda.runtime.deviceSynchronize()

    @staticmethod
    def free() -> None:
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()

    @staticmethod
    def used_bytes() -> int:
        import cupy

        free, total = cupy.cuda.runtime.memGetInfo()
        return total - free


class _Torch:
    """The GPU through PyTorch."""

    @staticmethod
    def step(model: Model, how: Torch, precision: str, quick: bool) -> Step:
        import torch

        torch.backends.cudnn.allow_tf32 = True  # its default; for products it is not
        torch.backends.cuda.matmul.allow_tf32 = True
        if how.compiled:
            torch.compiler.reset()  # it stops compiling when it has seen too many networks
        how = replace(how, bf16=precision == "bf16")
        step = model.module.torch_step(model.size(quick), how)
        return _recorded(step) if how.graph else step

    @staticmethod
    def synchronize() -> None:
        import torch

        torch.cuda.synchronize()

    @staticmethod
    def free() -> None:
        import torch

        torch.cuda.empty_cache()

    @staticmethod
    def used_bytes() -> int:
        import torch

        free, total = torch.cuda.mem_get_info()
        return total - free


def _recorded(step: Step) -> Step:
    """PyTorch's step as one CUDA graph."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
