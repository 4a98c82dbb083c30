"""How the threads of a grid share an array that is reduced along some of its axes (`walk.cuh`)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PACK", "THREADS", "Walk", "pack_of", "plan"]

THREADS = 256  # of a block, as in walk.cuh
PACK = 4  # values that one load takes where sizes and addresses allow
_UNROLL = 4  # loads that a thread should at least have to do
_COLUMNS = 32  # packs side by side that fill whole memory transactions
_BLOCKS = (
    1024  # enough for every SM several times over; fixed, so that results are the same on all
)


class Walk(NamedTuple):
    """The struct of the same name in walk.cuh, and the grid that takes it."""

    groups: int
    inner: int
    positions: int
    chunk: int
    chunks: int
    spans: int
    width: int
    depth: int
    across: int
    grid: int

    @property
    def struct(self) -> np.ndarray:
        """The bytes of the C struct, as an argument."""
        return np.array(self[:-1], np.int64)


def pack_of(groups: int, inner: int, *arrays: Any) -> int:
    """How many values one load may take from memory (..., groups, inner) of these arrays."""
    along = groups if inner == 1 else inner
    return PACK if along % PACK == 0 and all(a.data.ptr % 16 == 0 for a in arrays) else 1


@functools.lru_cache(4096)  # a model asks for the same few sizes in every step
def plan(
    batch: int, outer: int, groups: int, inner: int, *, pack: int = 1, split: bool = True
) -> Walk:
    """A walk over memory (batch, outer, groups, inner), none of them 0; outer, inner are reduced.

    Each thread gets at least a few loads, each block whole memory transactions. With `split`
    several blocks may share a group, where the groups alone are too few to fill the GPU.
    """
    across = inner == 1
    groups, inner = (groups // pack, inner) if across else (groups, inner // pack)
    positions = outer * inner
    loads = -(-positions // _UNROLL)
    if inner == 1:  # groups lie side by side
        depth = min(loads, THREADS // min(groups, _COLUMNS))
    else:
        depth = min(max(loads, min(positions, _COLUMNS)), THREADS)
    spans = -(-groups // (THREADS // depth))
    width = -(-groups // spans)
    chunks = 1
    if split:
        chunks = max(1, min(_BLOCKS // (batch * spans), loads // depth))
    chunk = -(-positions // chunks)
    chunks = -(-positions // chunk)
    grid = batch * chunks * spans
    return Walk(groups, inner, positions, chunk, chunks, spans, width, depth, int(across), grid)
