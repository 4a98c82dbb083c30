"""Reductions along any axes, positions of extremes, running sums (reduce.cu, arg.cu, cumsum.cu).

The axes are put in the order of memory, where neighbours that are both kept or both reduced make
one: what is left is one launch over (B, N, G, S) memory with N and S reduced, or, for alternating
axes, a few in turn. Blocks that share a result join theirs in a second launch, in a fixed order.
Integers and bools are computed with 64 bits.
"""

from __future__ import annotations

import functools
import math

import cupy
import numpy as np

from ..layout import contiguous, dense
from .launch import REALS, Source, blocks, ctype
from .walk import PACK, THREADS, pack_of, plan

__all__ = ["argmax", "argmin", "cumsum", "max", "min", "sum"]

_TYPES = (*REALS, "long long")
_REDUCE = Source("reduce.cu", REAL=_TYPES, PACK=(1, PACK))
_ARG = Source("arg.cu", REAL=_TYPES, PACK=(1, PACK))
_CUMSUM = Source("cumsum.cu", REAL=_TYPES)


def sum(x: cupy.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> cupy.ndarray:
    """See `reference.reduce`; floats add in trees of their own dtype."""
    return _reduce("reduce_sum", x, axes, keepdims).astype(_sum_dtype(x.dtype), copy=False)


def max(x: cupy.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> cupy.ndarray:
    """See `reference.reduce`."""
    return _reduce("reduce_max", x, axes, keepdims).astype(x.dtype, copy=False)


def min(x: cupy.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False) -> cupy.ndarray:
    """See `reference.reduce`."""
    return _reduce("reduce_min", x, axes, keepdims).astype(x.dtype, copy=False)


def argmax(x: cupy.ndarray, axis: int | None, keepdims: bool = False) -> cupy.ndarray:
    """See `reference.reduce`."""
    return _arg("argmax", x, axis, keepdims)


def argmin(x: cupy.ndarray, axis: int | None, keepdims: bool = False) -> cupy.ndarray:
    """See `reference.reduce`."""
    return _arg("argmin", x, axis, keepdims)


def cumsum(x: cupy.ndarray, axis: int) -> cupy.ndarray:
    """See `reference.reduce`; one line adds up in its dtype, in order or in blocks of 256."""
    data, order = _in_memory_order(_computable(x))
    shape = [x.shape[a] for a in order]
    at = order.index(axis % x.ndim)
    outer, n, inner = math.prod(shape[:at]), shape[at], math.prod(shape[at + 1 :])
    y = cupy.empty(data.shape, data.dtype)
    if x.size:
        lines = outer * inner
        kernel = _CUMSUM.kernel(_cumsum_version(n, inner), REAL=ctype(data))
        grid = blocks(lines, THREADS) if kernel.name == "cumsum_lines" else lines
        kernel(grid, THREADS, (outer, n, inner, data, y))
    y = y.reshape(shape).transpose(np.argsort(order).tolist())
    return y.astype(_sum_dtype(x.dtype), copy=False)


def _cumsum_version(n: int, inner: int) -> str:
    """Threads of a warp should touch neighbours, unless there is little to add."""
    return "cumsum_lines" if inner >= 32 or n < 64 else "cumsum_block"


@functools.cache
def _sum_dtype(dtype: np.dtype) -> np.dtype:
    return np.zeros(0, dtype).sum().dtype


def _computable(x):
    """`x` in one of the kernels' dtypes. Raises TypeError for one that has no kernel."""
    if x.dtype.char in "fd":
        return x
    if x.dtype.kind not in "biu" or x.dtype == np.uint64:
        raise TypeError(f"reduce: no kernel for {x.dtype}; use float32, float64, bool or integers")
    return x.astype(np.int64, copy=False)


def _in_memory_order(x):
    """The values of `x` as they lie in memory, and its axes from the slowest to the fastest."""
    x = dense(x)
    order = sorted(range(x.ndim), key=x.strides.__getitem__, reverse=True)
    return x.transpose(order).reshape(-1), order


def _runs(sizes, reduced) -> list[int]:
    """The sizes of kept and reduced runs of axes in turn, from a kept one to a reduced one."""
    runs = [1]
    for size, is_reduced in zip(sizes, reduced, strict=True):
        if size == 1:
            continue
        if is_reduced == (len(runs) % 2 == 0):
            runs[-1] *= size
        else:
            runs.append(size)
    return runs if len(runs) % 2 == 0 else [*runs, 1]


def _reduce(kernel: str, x, axes, keepdims: bool):
    axes = range(x.ndim) if axes is None else {a % x.ndim for a in axes}
    kept_shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    shape = kept_shape if keepdims else tuple(n for a, n in enumerate(x.shape) if a not in axes)
    if not x.size:
        if kernel != "reduce_sum" and math.prod(shape):
            raise ValueError(f"{kernel[7:]}: nothing to reduce in shape {x.shape}")
        return cupy.zeros(shape, _computable(x).dtype)
    data, order = _in_memory_order(_computable(x))
    runs = _runs([x.shape[a] for a in order], [a in axes for a in order])
    if runs[1:] == [1]:
        data = data.copy()  # the result is never a view
    while runs[1:] != [1]:
        *outer, n, groups, inner = runs if len(runs) > 2 else [1, 1, *runs]
        data = _reduce_once(kernel, data, math.prod(outer), n, groups, inner)
        runs = [*outer[:-1], outer[-1] * groups, 1]
    data = data.reshape([kept_shape[a] for a in order]).transpose(np.argsort(order).tolist())
    return data if keepdims else data.reshape(shape)


def _as_walk(batch: int, outer: int, groups: int, inner: int) -> tuple[int, int, int, int]:
    """The same reduction with as few axes as it takes."""
    if groups == 1:
        outer, inner = 1, outer * inner
    if outer == 1:
        batch, groups = 1, batch * groups
    return batch, outer, groups, inner


def _reduce_once(kernel: str, x, *sizes: int):
    """Memory (batch, outer, groups, inner) without the second and the last axis."""
    batch, outer, groups, inner = _as_walk(*sizes)
    pack = pack_of(groups, inner, x)
    walk = plan(batch, outer, groups, inner, pack=pack)
    out = cupy.empty(batch * groups * walk.chunks, x.dtype)
    run = _REDUCE.kernel(kernel, REAL=ctype(x), PACK=pack)
    run(walk.grid, THREADS, (walk.struct, x, out))
    if walk.chunks > 1:
        return _reduce_once(kernel, out, 1, 1, batch * groups, walk.chunks)
    return out


def _arg(kernel: str, x, axis: int | None, keepdims: bool):
    ndim = x.ndim
    if axis is None:  # the places count in C order
        x = contiguous(x).reshape(-1)
        shape = (1,) * ndim if keepdims else ()
        axis = 0
    else:
        axis %= ndim
        kept = (1,) if keepdims else ()
        shape = (*x.shape[:axis], *kept, *x.shape[axis + 1 :])
    if not x.size:
        if not x.shape[axis]:
            raise ValueError(f"{kernel}: nothing to reduce in shape {x.shape} along axis {axis}")
        return cupy.empty(shape, np.int64)
    data, order = _in_memory_order(_computable(x))
    sizes = [x.shape[a] for a in order]
    at = order.index(axis)
    batch, n, groups = math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])
    sizes[at] = 1
    index = _arg_once(kernel, data, None, batch, n, groups, 1)
    return index.reshape(sizes).transpose(np.argsort(order).tolist()).reshape(shape)


def _arg_once(kernel: str, x, places, *sizes: int):
    batch, outer, groups, inner = _as_walk(*sizes)
    pack = 1 if places is not None else pack_of(groups, inner, x)
    walk = plan(batch, outer, groups, inner, pack=pack)
    several = walk.chunks > 1
    index = cupy.empty(batch * groups * walk.chunks, np.int64)
    values = cupy.empty(index.shape, x.dtype) if several else None
    run = _ARG.kernel(kernel, REAL=ctype(x), PACK=pack)
    run(walk.grid, THREADS, (walk.struct, x, places, values, index))
    if several:
        return _arg_once(kernel, values, index, 1, 1, batch * groups, walk.chunks)
    return index


# ------------------------------------------------ version 1 of each, for reading and for the tests


def _plain(kernel: str, x, *sizes: int):
    """A thread a result: memory (batch, outer, groups, inner) without the second and last axis."""
    source, dtype = (_ARG, np.int64) if kernel.startswith("arg") else (_REDUCE, x.dtype)
    out = cupy.empty(sizes[0] * sizes[2], dtype)
    run = source.kernel(f"{kernel}_plain", REAL=ctype(x), PACK=1)
    run(blocks(out.size, 64), 64, (*sizes, x, out))
    return out
