"""A training step recorded once as a CUDA graph and replayed without Python.

A small model's step is hundreds of kernels of a few microseconds each; Python takes longer to
launch them than the GPU to run them. A captured step is launched as one:

    @tinygen.capture
    def step(images):
        optimizer.zero_grad()
        loss = loss_of(model(images))
        loss.backward()
        optimizer.step()
        return loss

    for images in loader.batches(device="cuda"):
        loss = step(images)

The first calls run as they are, so that every kernel is compiled and every buffer exists; then one
call is recorded, and from there on each call copies its arguments into the recorded ones and
replays. What changes from step to step is read from device memory: learning rates and step counts
(`Optimizer.step`), and the offset of the random numbers (`Generator`).

A step can't be recorded if it reads a value on the host (`loss.item()`, `if loss > 0`), copies
between host and device, or changes shapes. On the CPU the function is called as it is.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import device as _device
from .tensor import Tensor

__all__ = ["CaptureError", "active", "capture"]


class CaptureError(RuntimeError):
    """A step can't be captured, or not be replayed as asked; the message says why."""


class _Active(threading.local):
    step: CapturedStep | None = None


_active = _Active()


def active() -> CapturedStep | None:
    """The captured step whose function runs now in this thread, in a warm-up or the recording."""
    return _active.step


def capture(
    function: Callable | None = None, *, device: str | None = None, warmup: int = 3
) -> Any:
    """`function`, a training step, so that it is recorded at its call number `warmup` + 1.

    It runs on `device`, by default where its arguments lie. These must be Tensors or arrays of
    the same shapes and dtypes at every call. What the function returns (Tensors, or tuples, lists
    and dictionaries of them) comes back off the tape, and is overwritten by the next call: copy
    what you keep, and read it every few steps only, since reading waits for the GPU. Attributes
    that the function sets, gradients among them, are those of the recording.

    Raises CaptureError, with the line, for what can't be recorded.
    """
    if function is None:
        return functools.partial(capture, device=device, warmup=warmup)
    if warmup < 1:
        raise ValueError(f"capture: warmup={warmup}; at least one call must run before recording")
    return CapturedStep(function, device, warmup)


class Live:
    """A number that the recorded kernels read from device memory at each replay.

    `value()` is what it must be when a step begins; `advance` what the step itself adds to it, so
    that nothing needs to be sent as long as nobody else changes it.
    """

    def __init__(self, value: Callable[[], float], dtype: Any, xp: Any) -> None:
        self.value, self.advance = value, 0
        self.array = xp.empty((), dtype)
        self._held: float | None = None
        self.refresh()

    def refresh(self) -> None:
        """Send the value, if the device does not hold it already."""
        value = self.value()
        if value != self._held:
            self.array.fill(self.array.dtype.type(value))
            self._held = value

    def passed(self) -> None:
        """A step ran on the device."""
        self._held += self.advance


class CapturedStep:
    """What `capture` returns: call it as the function."""

    def __init__(self, function: Callable, device: str | None, warmup: int) -> None:
        self.function, self.device, self.warmup = function, device, warmup
        functools.update_wrapper(self, function)
        self.calls = 0
        self.recording = False
        self._graph: Any = None
        self._live: dict[Any, Live] = {}
        self._host: list[Callable[[], None]] = []
        self._kept: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        arrays = [_array(self.function, a) for a in arguments]
        if self.calls == 0 and not self._prepare(arrays):
            return _detached(self.function(*arguments))
        with self._on_own_stream():
            self._take(arrays)
            for live in self._live.values():
                live.refresh()
            if self.calls < self.warmup:
                outputs = self._run()
            else:
                if self._graph is None:
                    self._outputs = self._record()
                else:
                    for effect in self._host:
                        effect()
                self._graph.launch(self._stream)
                outputs = self._outputs
            for live in self._live.values():
                live.passed()
        self.calls += 1
        return outputs

    # ---------------------------------------------------------- for optimizers and generators

    def live(self, key: Any, value: Callable[[], float], dtype: Any) -> Live:
        """The live number of that key, made at its first use."""
        if key not in self._live:
            if self.recording:
                raise CaptureError(
                    "capture: the step uses an optimizer or a generator while it is recorded "
                    "that it did not use before: every call must do the same"
                )
            self._live[key] = Live(value, dtype, self._xp)
        return self._live[key]

    def count(self, key: Any, value: Callable[[], int], go_on: Callable[[], None]) -> Any:
        """A live number that the step itself moves on: the array in which its kernels count.

        `value()` is the host's count, and `go_on` moves that on at each replay.
        """
        count = self.live(key, value, np.int64)

        def end(begin: int) -> None:
            count.advance = value() - begin

        self.begun(key, value(), end)
        self.on_replay(go_on)
        return count.array

    def on_replay(self, effect: Callable[[], None]) -> None:
        """Have the host's part of the step done at each replay, where no Python of it runs."""
        if self.recording:
            self._host.append(effect)

    def keep(self, thing: Any) -> None:
        """Hold what the recorded kernels know by address only, as long as there is the graph."""
        if self.recording:
            self._kept.append(thing)

    def begun(self, key: Any, value: Any, end: Callable[[Any], None]) -> Any:
        """The value given at the key's first use in this call; `end(value)` runs at its end."""
        return self._begun.setdefault(key, (value, end))[0]

    # ---------------------------------------------------------------------------------- inside

    def _prepare(self, arrays: list) -> bool:
        """Choose the device and the memory; whether it is a GPU."""
        if self.device is None:
            self.device = max((_device.device_of(a) for a in arrays), default="cpu")
        if self.device == "cpu":
            return False
        self._xp = _device.use(self.device)
        cuda = self._xp.cuda
        self._stream = cuda.Stream(non_blocking=True)  # the default stream can't be captured
        # A pool of its own: what the graph writes to must never be handed to anybody else.
        self._pool = cuda.MemoryPool()
        with self._on_own_stream():
            self._inputs = [self._xp.empty(a.shape, a.dtype) for a in arrays]
        return True

    @contextlib.contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """Work goes to the step's stream, in order with the work around it."""
        cuda = _device.use(self.device).cuda
        outer = cuda.get_current_stream()
        self._stream.wait_event(outer.record())
        with self._stream, cuda.using_allocator(self._pool.malloc):
            yield
        outer.wait_event(self._stream.record())

    def _take(self, arrays: list) -> None:
        if [(a.shape, a.dtype) for a in arrays] != [(a.shape, a.dtype) for a in self._inputs]:
            raise CaptureError(
                f"capture: {self.__name__} was captured for arguments "
                f"{', '.join(_describe(a) for a in self._inputs)}, got "
                f"{', '.join(_describe(a) for a in arrays)}: keep the shapes, for instance with "
                "drop_last=True in the loader"
            )
        for fixed, array in zip(self._inputs, arrays, strict=True):
            if isinstance(array, np.ndarray):
                fixed.set(array)
            else:
                fixed[...] = array

    def _run(self) -> Any:
        """The function on the fixed inputs, and what was left for the end of the step."""
        from tinygen_kernels.cuda.launch import inside_a_graph

        self._begun: dict[Any, tuple[Any, Callable]] = {}
        _active.step = self
        try:
            with inside_a_graph():
                outputs = _detached(self.function(*map(Tensor, self._inputs)))
                if not self.recording:
                    # Whoever keeps them must not keep the blocks that the recording will need.
                    outputs = _map(lambda x: Tensor(x.data.copy()), outputs)
                for value, end in self._begun.values():
                    end(value)
        finally:
            _active.step = None
        return outputs

    def _record(self) -> Any:
        # Relaxed: the pool may still have to grow, and what Python frees meanwhile to go.
        self._stream.begin_capture(self._xp.cuda.runtime.streamCaptureModeRelaxed)
        self.recording = True
        try:
            outputs = self._run()
        except Exception as error:
            with contextlib.suppress(self._xp.cuda.runtime.CUDARuntimeError):
                self._stream.end_capture()  # the capture is spoilt; the stream must leave it
            raise CaptureError(f"capture: {self.__name__} {_why(error, self._xp)}") from error
        finally:
            self.recording = False
        self._graph = self._stream.end_capture()
        return outputs


def _array(function: Callable, argument: Any) -> Any:
    array = argument.data if isinstance(argument, Tensor) else argument
    if type(array) not in _device._modules:
        raise TypeError(
            f"capture: {function.__name__} was called with {type(argument).__name__}; "
            "a captured step takes Tensors and arrays"
        )
    return array


def _describe(array: Any) -> str:
    return f"{array.dtype} {array.shape}"


def _detached(outputs: Any) -> Any:
    return _map(Tensor.detach, outputs)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same tuples, lists and dictionaries of other Tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(function, v) for v in value)
    if isinstance(value, dict):
        return {key: _map(function, v) for key, v in value.items()}
    if value is None:
        return None
    raise CaptureError(
        f"capture: the step returns {type(value).__name__}, which a replay can't make anew; "
        "return Tensors"
    )


def _why(error: Exception, xp: Any) -> str:
    """The reason in the user's terms, and the innermost line of the user's."""
    where, trace = "", error.__traceback__
    cupy = {"cupy", "cupyx", "cupy_backends", _package(xp.__name__)}
    not_the_users = {"tinygen", "tinygen_kernels", "numpy", *cupy}
    while trace is not None:
        frame = trace.tb_frame
        if _package(frame.f_globals.get("__name__", "")) not in not_the_users:
            where = f" at {frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    text = _device.first_line(error)
    if isinstance(error, CaptureError):
        return text.removeprefix("capture: ")
    if "apture" in text:
        return (
            f"reads a value on the host, or copies between host and device,{where}: return the "
            f"Tensor and read it outside; draw random numbers with device='cuda' ({text})"
        )
    return f"failed while it was recorded{where}: {type(error).__name__}: {text}"


def _package(module: str) -> str:
    return module.partition(".")[0]
