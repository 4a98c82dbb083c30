"""Batches on their way to a GPU: copied from page-locked memory while the GPU works on others.

The loader's thread writes each batch into one of a few page-locked buffers, from which the copy
engine takes it on a stream of its own. Batch k + 1 travels while step k computes; the host waits
for neither.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import device as _device

__all__ = ["Sender"]


class _Slot:
    """Page-locked memory for one batch."""

    def __init__(self, sent: Any) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self.sent = sent  # the event after which the memory may be written again

    def take(self, arrays: tuple) -> list[np.ndarray | None]:
        """The arrays' values, in this memory."""
        return [None if a is None else self._copy(i, a) for i, a in enumerate(arrays)]

    def _copy(self, i: int, array: np.ndarray) -> np.ndarray:
        import cupyx

        buffer = self.buffers.get(i)
        if buffer is None or len(buffer) < len(array):
            buffer = self.buffers[i] = cupyx.empty_pinned(array.shape, array.dtype)
        buffer[: len(array)] = array
        return buffer[: len(array)]


class Sender:
    """Copies batches (named tuples of arrays and Nones) to a GPU."""

    def __init__(self, device: str, slots: int) -> None:
        self.device, self.cupy = device, _device.use(device)
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.free: queue.Queue[_Slot] = queue.Queue()
        for _ in range(slots):
            self.free.put(_Slot(self.cupy.cuda.Event(disable_timing=True)))

    def stage(self, batch: tuple) -> tuple:
        """In the loader's thread: the batch in page-locked memory, with its slot."""
        slot = self.free.get()
        slot.sent.synchronize()  # its last copy; this thread has the time
        return type(batch), slot, slot.take(batch)

    def batches(self, staged: Iterator[tuple]) -> Iterator[Any]:
        """In the training loop's thread: the batches on the GPU, one of them always under way."""
        coming = None
        try:
            _device.use(self.device)  # in this thread
            for kind, slot, arrays in staged:
                following = kind, slot.sent, self._send(slot, arrays)
                if coming is not None:
                    yield self._arrived(*coming)
                coming = following
            if coming is not None:
                yield self._arrived(*coming)
                coming = None
        finally:
            if coming is not None:  # its memory must not be reused before the copy is done
                self._arrived(*coming)

    def _send(self, slot: _Slot, arrays: list) -> list:
        # The memory comes from the current stream's pool, where earlier work may still use it.
        targets = [None if a is None else self.cupy.empty(a.shape, a.dtype) for a in arrays]
        self.stream.wait_event(self.cupy.cuda.get_current_stream().record())
        for target, array in zip(targets, arrays, strict=True):
            if array is not None:
                target.set(array, stream=self.stream)
        self.stream.record(slot.sent)
        self.free.put(slot)
        return targets

    def _arrived(self, kind: type, sent: Any, arrays: list) -> Any:
        self.cupy.cuda.get_current_stream().wait_event(sent)
        return kind(*arrays)
