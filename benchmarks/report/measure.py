"""Time kernels on a GPU: device events around replayed graphs, with a cold L2 cache.

A call is recorded in a CUDA graph, ours by CuPy and PyTorch's by PyTorch, so that the time is the
kernels' and not Python's; what Python takes to launch them is measured apart. Where one of a
case's calls can't be recorded, all of them are timed as they are, and the row says so. The time of
an empty graph is part of every time and is reported beside them.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cupy
import numpy as np
import torch
from tinygen_kernels.cuda import launch, precision

from .cases import Case, as_tuple, cast
from .verify import Exchange, check, check_ours

__all__ = ["Gpu", "ceilings", "measure"]

LEAST, MOST = 10, 500  # samples
LAUNCHES = 20  # that the host's time is the mean of


class Recorded(NamedTuple):
    """A call in a graph, its results, and what must live as long."""

    launch: Callable[[], None]
    results: tuple
    keep: Any


class Gpu(Exchange):
    """The current GPU: one stream that CuPy and PyTorch share, and a buffer larger than L2."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self.stream = cupy.cuda.Stream(non_blocking=True)  # the default one can't be captured
        self.torch_stream = torch.cuda.ExternalStream(self.stream.ptr)
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        with self.current():
            self.scrap = torch.empty(max(4 * cache, 2**28), dtype=torch.uint8, device=self.device)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Work of both libraries goes to the one stream."""
        with self.stream, torch.cuda.stream(self.torch_stream):
            yield

    def record_ours(self, call: Callable[[], Any]) -> Recorded:
        """The call as a CuPy graph, after two that compile, tune and fill the memory pool."""
        pool = cupy.cuda.MemoryPool()  # of its own: the graph's memory must not be handed out
        with cupy.cuda.using_allocator(pool.malloc):
            call()
            call()
            self.stream.begin_capture(cupy.cuda.runtime.streamCaptureModeRelaxed)
            try:
                results = as_tuple(call())
            except Exception:
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
                    self.stream.end_capture()  # it is spoilt; the stream must leave it
                raise
            graph = self.stream.end_capture()
        return Recorded(lambda: graph.launch(self.stream), results, pool)

    def record_theirs(self, call: Callable[[], Any]) -> Recorded:
        """The call as a PyTorch graph."""
        call()
        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            results = as_tuple(call())
        finally:
            graph.capture_end()
        return Recorded(graph.replay, results, graph)

    def time(self, call: Callable[[], Any], seconds: float) -> dict[str, float]:
        """Median, 20th and 80th percentile of single calls, in ms between events on the device.

        Before each, a buffer larger than L2 is written; the host has launched the call by the time
        that is done, unless Python is in it.
        """
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        samples: list[float] = []
        begin = time.perf_counter()
        while len(samples) < LEAST or (
            time.perf_counter() - begin < seconds and len(samples) < MOST
        ):
            self.scrap.zero_()
            start.record(self.torch_stream)
            call()
            end.record(self.torch_stream)
            end.synchronize()
            samples.append(start.elapsed_time(end))
        p20, median, p80 = np.percentile(samples, [20, 50, 80])
        return {"median": median, "p20": p20, "p80": p80, "calls": len(samples)}

    def host_time(self, call: Callable[[], Any]) -> float:
        """Milliseconds that Python takes to launch the call, not waiting for the GPU."""
        call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(LAUNCHES):
            call()
        passed = time.perf_counter() - begin
        torch.cuda.synchronize()
        return 1e3 * passed / LAUNCHES

    def free(self) -> None:
        """Give the memory of a case back, so that neither library starves the other."""
        cupy.get_default_memory_pool().free_all_blocks()
        torch.cuda.empty_cache()


def kernels(family: str) -> Any:
    """The module with the CUDA kernels of a family."""
    return importlib.import_module(f"tinygen_kernels.cuda.{family}")


def measure(case: Case, gpu: Gpu, *, seed: int, seconds: float) -> dict[str, Any]:
    """A row of the report: errors first, then times. Raises what goes wrong on our side."""
    precision.set(case.precision)
    torch.backends.cudnn.allow_tf32 = case.precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = case.precision != "fp32"
    try:
        with gpu.current(), launch.inside_a_graph():  # ... where cuBLAS is not ours to call
            return _measure(case, gpu, seed, seconds)
    finally:
        gpu.free()


def _measure(case: Case, gpu: Gpu, seed: int, seconds: float) -> dict[str, Any]:
    tensors = case.draw(torch.Generator(gpu.device).manual_seed(seed))
    torch.backends.cudnn.benchmark = False  # trying out algorithms in float64 takes seconds
    expected = case.reference(tensors)
    torch.backends.cudnn.benchmark = True  # the fastest for the peers
    ours, error = check_ours(case, kernels, tensors, expected, gpu)
    row: dict[str, Any] = {"error": error, "peers": {}}
    peers = {}
    for name, peer in case.peers.items():
        try:
            peers[name] = _peer(case, peer, tensors, expected)
        except Exception as failure:  # a peer that can't do this is no fault of ours, but is shown
            row["peers"][name] = {"failed": _line(failure)}
    try:
        recorded = gpu.record_ours(ours)
        launches = {name: gpu.record_theirs(call) for name, call in peers.items()}
        row["timed"] = "graph"
    except Exception as failure:
        row["timed"], row["why"] = "eager", _line(failure)
        recorded = Recorded(ours, (), None)
        launches = {name: Recorded(call, (), None) for name, call in peers.items()}
    if recorded.results and not case.in_place:
        row["error"] = max(error, _check_replay(recorded, expected, case, gpu))
    row["ours"] = gpu.time(recorded.launch, seconds) | {"host": gpu.host_time(ours)}
    for name, call in peers.items():
        row["peers"][name] = gpu.time(launches[name].launch, seconds) | {
            "host": gpu.host_time(call)
        }
    return row


def _peer(case: Case, peer: Callable, tensors: dict, expected: tuple) -> Callable[[], Any]:
    """A peer's call, checked as ours is, if it computes the same numbers."""
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    call = peer(cast(tensors, dtype))
    results = as_tuple(call())
    if case.expected is None:
        check(results, expected, case.precision)
    return call


def _check_replay(recorded: Recorded, expected: tuple, case: Case, gpu: Gpu) -> float:
    """The graph must write the results too, every element of them."""
    for array in recorded.results:
        array.fill(np.nan)
    recorded.launch()
    return check([gpu.to_tensor(r) for r in recorded.results], expected, case.precision)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def ceilings(gpu: Gpu, *, quick: bool) -> dict[str, float]:
    """What this GPU reaches.

    Bytes/s of a large copy (read + written), FLOP/s of products of random 8192² matrices in each
    precision, and the milliseconds of an empty graph.
    """
    seconds, n = (0.1, 1024) if quick else (0.5, 8192)
    found = {}
    with gpu.current():
        source = torch.randn(2**22 if quick else 2**28, device=gpu.device)
        target = torch.empty_like(source)
        copy = gpu.time(lambda: target.copy_(source), seconds)
        found["memory"] = 2 * source.nbytes / copy["median"] * 1e3
        for name, dtype, tf32 in [
            ("fp32", torch.float32, False), ("tf32", torch.float32, True),
            ("bf16", torch.bfloat16, False),
        ]:  # fmt: skip
            torch.backends.cuda.matmul.allow_tf32 = tf32
            a, b = (torch.randn(n, n, device=gpu.device, dtype=dtype) for _ in range(2))
            product = gpu.time(lambda a=a, b=b: a @ b, seconds)
            found[name] = 2 * n**3 / product["median"] * 1e3
        one = torch.zeros(1, device=gpu.device)
        empty = gpu.record_theirs(lambda: one.zero_())
        found["empty_graph_ms"] = gpu.time(empty.launch, seconds)["median"]
    gpu.free()
    return found
