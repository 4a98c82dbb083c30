"""Streams, events and captured graphs: in which order, and how late, device work happens.

Every piece of device work is a closure over memory. The default stream runs it at once; another
stream keeps it until somebody synchronises with that stream; a capturing stream hands it to the
graph, which runs it at every launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

__all__ = ["Event", "Graph", "Stream", "current", "enqueue", "statistics", "synchronize"]

statistics = SimpleNamespace(synchronizations=0, launches=0, replays=0)
Work = Callable[[], None]
RELAXED = 2  # cudaStreamCaptureModeRelaxed


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error of the CUDA runtime."""


class Stream:
    """A queue of device work (`cupy.cuda.Stream`)."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.queue: list[Work] | None = None if null else []
        self.graph: Graph | None = None
        self.ptr = 0 if null else id(self)
        self._outer: list[Stream] = []

    def __enter__(self) -> Stream:
        self._outer.append(current())
        _state.current = self
        return self

    def __exit__(self, *error) -> None:
        _state.current = self._outer.pop()

    def use(self) -> Stream:
        _state.current = self
        return self

    def add(self, work: Work) -> None:
        if self.graph is not None:
            self.graph.work.append(work)
        elif self.queue is None:
            work()
        else:
            self.queue.append(work)

    def flush(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def synchronize(self) -> None:
        if self.is_capturing():
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: synchronize in a capture")
        statistics.synchronizations += 1
        self.flush()

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.add(event.wait)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.queue is None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream")
        self.flush()
        self.graph = Graph()
        self.graph.is_relaxed = mode in (None, RELAXED)

    def end_capture(self) -> Graph:
        graph, self.graph = self.graph, None
        if graph is None:
            raise CUDARuntimeError("cudaErrorIllegalState: this stream captures nothing")
        if graph.broken:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureInvalidated: {graph.broken}")
        return graph

    def is_capturing(self) -> bool:
        return self.graph is not None

    @property
    def done(self) -> bool:
        return not self.queue


class Event:
    """A mark in a stream: waiting for it runs the work that was queued before it."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.stream: Stream | None = None
        self.reached = True

    def record(self, stream: Stream | None = None) -> None:
        self.stream = current() if stream is None else stream
        self.reached = False
        self.stream.add(self._reach)

    def _reach(self) -> None:
        self.reached = True

    def wait(self) -> None:
        while not self.reached:
            self.stream.queue.pop(0)()

    def synchronize(self) -> None:
        statistics.synchronizations += 1
        self.wait()

    @property
    def done(self) -> bool:
        return self.reached


class Graph:
    """Recorded work (`cupy.cuda.Graph`)."""

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.memory: list = []  # what was allocated for it
        self.broken = ""
        self.is_relaxed = True  # while it is captured, cudaMalloc is allowed

    def launch(self, stream: Stream | None = None) -> None:
        statistics.replays += 1
        for work in self.work:
            (stream or current()).add(work)

    def upload(self, stream: Stream | None = None) -> None:
        pass


Stream.null = Stream(null=True)
_state = threading.local()


def current() -> Stream:
    """The stream that takes this thread's work."""
    return getattr(_state, "current", Stream.null)


def enqueue(work: Work) -> None:
    """Give a piece of device work to the current stream."""
    current().add(work)


def synchronize(what: str) -> None:
    """The host waits to read device memory: counted, and refused inside a capture."""
    stream = current()
    if stream.is_capturing():
        stream.graph.broken = what
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} in a capture")
    statistics.synchronizations += 1
    stream.flush()


def refuse_in_capture(what: str, error: type[Exception] = CUDARuntimeError) -> None:
    """Raise if the current stream is being captured, which `what` does not survive."""
    stream = current()
    if stream.is_capturing():
        stream.graph.broken = what
        raise error(f"{what} is not supported while a stream is captured")
