"""Device memory: CuPy's pool, in the accounts that matter to a program.

Blocks are freed into the pool, by stream, and serve later requests of the same rounded size. What
an array holds is always fresh memory of the emulator, so that its bounds are the array's own.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

from .. import memory as emulator
from .stream import CUDARuntimeError, current

__all__ = ["MemoryPointer", "MemoryPool", "OutOfMemoryError", "malloc", "using_allocator"]

ROUND = 512  # bytes, CuPy's unit of allocation


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""

    def __init__(self, size: int, total: int, limit: int) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, "
            f"limit set to: {limit:,} bytes)."
        )


class MemoryPointer:
    """A block and an offset into it (`cupy.cuda.MemoryPointer`)."""

    def __init__(self, block: Block | None, offset: int) -> None:
        self.mem = block
        self.ptr = (block.allocation.ptr if block else 0) + offset


class Block:
    """A piece of device memory, given back to its pool when nothing refers to it.

    Work that was queued before may still use it, and so may a graph at every replay.
    """

    def __init__(self, pool: MemoryPool, nbytes: int) -> None:
        self.pool, self.size = pool, -(-nbytes // ROUND) * ROUND
        self.stream = current()
        self.key = self.stream.ptr, self.size
        pool.take(self.key, nbytes)
        self.allocation = emulator.allocate(nbytes)
        self.of_graph = self.stream.is_capturing()
        if self.of_graph:
            self.stream.graph.memory.append(self.allocation)

    def __del__(self) -> None:
        if hasattr(self, "of_graph"):
            if not self.of_graph:
                self.stream.add(self.allocation.free)
            self.pool.free[self.key] += 1


class MemoryPool:
    """`cupy.cuda.MemoryPool`."""

    def __init__(self) -> None:
        self.free: Counter = Counter()  # (stream, size) -> blocks
        self.total = 0
        self.limit = 0

    def malloc(self, nbytes: int) -> MemoryPointer:
        return MemoryPointer(Block(self, nbytes) if nbytes else None, 0)

    def take(self, key: tuple[int, int], nbytes: int) -> None:
        if self.free[key]:
            self.free[key] -= 1
            return
        stream = current()
        if stream.is_capturing() and not stream.graph.is_relaxed:
            stream.graph.broken = "an allocation that the memory pool could not serve"
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {stream.graph.broken}")
        if self.limit and self.total + key[1] > self.limit:
            raise OutOfMemoryError(nbytes, self.total, self.limit)
        self.total += key[1]

    def used_bytes(self) -> int:
        return self.total - self.free_bytes()

    def free_bytes(self) -> int:
        return sum(size * count for (_, size), count in self.free.items())

    def total_bytes(self) -> int:
        return self.total

    def n_free_blocks(self) -> int:
        return sum(self.free.values())

    def free_all_blocks(self, stream=None) -> None:
        self.total -= self.free_bytes()
        self.free.clear()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size or 0

    def get_limit(self) -> int:
        return self.limit


default_pool = MemoryPool()
_state = threading.local()


def malloc(nbytes: int) -> MemoryPointer:
    """Memory from the allocator in force."""
    allocator = getattr(_state, "allocator", default_pool.malloc)
    stream = current()
    if nbytes and stream.is_capturing() and allocator == default_pool.malloc:
        # The pool would hand the block to somebody else after the capture, while the graph
        # still writes to it.
        stream.graph.broken = "memory of the default pool in a captured graph"
        raise MemoryError(stream.graph.broken)
    return allocator(nbytes)


@contextlib.contextmanager
def using_allocator(allocator=None):
    """As `cupy.cuda.using_allocator`: for this thread, inside the block."""
    before = getattr(_state, "allocator", default_pool.malloc)
    _state.allocator = allocator or default_pool.malloc
    try:
        yield
    finally:
        _state.allocator = before
