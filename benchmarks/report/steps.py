"""Time whole training steps, tinygen's and their PyTorch twins'; the models are in `zoo.py`.

Steps are timed as training runs them, ten in a row and nothing read in between; what Python takes
to launch a step is measured beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["PRECISIONS", "PROVIDERS", "Model", "Twin", "measure"]

PRECISIONS = ("tf32", "bf16")
ROW = 10  # steps between two looks at the clock
LEAST = 5  # rows
WARM_UP = 6  # tinygen.capture records at the fourth call

Step = Callable[[], Any]


@dataclass(frozen=True)
class Twin:
    """How PyTorch runs a step: what its users choose among."""

    device: str = "cuda"
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    graph: bool = False

    def net(self, net):
        """The network on the device."""
        import torch

        net = net.to(self.device)
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)
        return torch.compile(net) if self.compiled else net

    def images(self, x):
        """A batch on the device."""
        import torch

        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.to(self.device).contiguous(memory_format=memory)

    def autocast(self):
        """For the forward pass. A new one for each: its copies of the weights live as long."""
        import torch

        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def adam(self, net, lr: float, betas: tuple[float, float]):
        """PyTorch's fastest Adam."""
        import torch

        options = {"fused": True, "capturable": self.graph}
        return torch.optim.Adam(net.parameters(), lr=lr, betas=betas, **options)

    def finish(self, step: Step) -> Step:
        """The step as it is, or as one CUDA graph."""
        import torch

        if not self.graph:
            return step
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


@dataclass(frozen=True)
class Model:
    """`tinygen(sizes, device)` gives (step, its arguments), a step that `tinygen.capture` takes;
    `torch(sizes, twin)` a step without arguments. Both return losses that nobody has read."""

    sizes: Any
    few: Any
    tinygen: Callable[[Any, str], tuple[Callable, tuple]]
    torch: Callable[[Any, Twin], Step]

    def size(self, quick: bool) -> Any:
        """The sizes, or those of a smoke run."""
        return self.few if quick else self.sizes


PROVIDERS: dict[str, Twin | bool] = {
    "tinygen": False,  # whether captured
    "tinygen captured": True,
    "torch": Twin(),
    "torch channels-last": Twin(channels_last=True),
    "torch channels-last, CUDA graph": Twin(channels_last=True, graph=True),
    "torch channels-last, compiled": Twin(channels_last=True, compiled=True),
}


def measure(
    model: Model, provider: str, *, precision: str, seconds: float, quick: bool
) -> dict[str, Any]:
    """A row of the report; `peak_mb` counts what the library holds of the GPU after the steps."""
    how = PROVIDERS[provider]
    library = _Torch if isinstance(how, Twin) else _Tinygen
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
        step, arguments = model.tinygen(model.size(quick), "cuda")
        if captured:
            step = tinygen.capture(step, device="cuda")
        return lambda: step(*arguments)

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
    def step(model: Model, twin: Twin, precision: str, quick: bool) -> Step:
        import torch

        torch.backends.cudnn.allow_tf32 = True  # its default; for products it is not
        torch.backends.cuda.matmul.allow_tf32 = True
        if twin.compiled:
            torch.compiler.reset()  # it stops compiling when it has seen too many networks
        twin = replace(twin, bf16=precision == "bf16")
        return twin.finish(model.torch(model.size(quick), twin))

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
