"""The emulator's global memory: what kernels may touch, and nothing else."""

from __future__ import annotations

import numpy as np

from .toolchain import runtime

__all__ = ["Allocation", "allocate", "allocated"]


class Allocation:
    """Bytes that kernels and NumPy share, from address `ptr` on, each 0xFF at first.

    Kernels lose access with `free` or when nobody refers to the allocation or to a view of
    `buffer` any more. The address is never given to another allocation.
    """

    def __init__(self, nbytes: int) -> None:
        self._block = _Block(nbytes)
        self.ptr = self._block.ptr
        self.buffer = np.asarray(self._block)

    def free(self) -> None:
        """Takes the memory away from kernels; views of `buffer` stay readable."""
        self._block.free()


class _Block:
    """The owner that every view of the memory keeps alive."""

    def __init__(self, nbytes: int) -> None:
        self._library = runtime()
        self.nbytes = nbytes
        self.ptr = self._library.emulator_allocate(nbytes)
        if not self.ptr:
            raise MemoryError(f"the emulator can't allocate {nbytes} bytes")
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self.ptr, False),
            "version": 3,
        }

    def free(self) -> None:
        self._library.emulator_free(self.ptr)

    def __del__(self) -> None:
        if getattr(self, "ptr", None):
            self.free()
            self._library.emulator_unmap(self.ptr, self.nbytes)


def allocate(nbytes: int) -> Allocation:
    """New memory of that many bytes."""
    return Allocation(nbytes)


def allocated() -> int:
    """Bytes that kernels may touch now."""
    return runtime().emulator_allocated()
