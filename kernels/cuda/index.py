"""Table rows and elements picked by integers on the GPU, and their gradients; see `index.cu`.

An index that is out of range can't be an error here: to look at it, the host would have to wait
for the GPU. It picks NaN, and its gradient goes nowhere. All sums are deterministic.
"""

from __future__ import annotations

import math
from typing import Any

import cupy

from ..layout import contiguous
from .launch import REALS, Kernel, Source, blocks, ctype

__all__ = ["gather", "getitem_grad", "scatter_add", "take", "take_grad"]

SOURCE = Source("index.cu", REAL=REALS)
THREADS = 256
VECTOR_BYTES = 16
WARP = 32
TILE_BYTES = 32 * 1024  # of shared memory for a tile of a table: 256 rows of 32 floats


def take(weight: cupy.ndarray, index: cupy.ndarray) -> cupy.ndarray:
    """Row index[m] of weight (K, D) for each of the indices (M,), as (M, D); else NaN."""
    weight, index = contiguous(weight), _integers(index)
    rows, columns = weight.shape
    out = cupy.empty((index.size, columns), weight.dtype)
    width = VECTOR_BYTES // weight.itemsize
    aligned = all(a.data.ptr % VECTOR_BYTES == 0 for a in (weight, out))
    vectors = columns % width == 0 and aligned
    threads = out.size // (width if vectors else 1)
    arguments = (weight, index, index.size, rows, columns, vectors, out)
    _kernel("take", weight)(blocks(threads, THREADS), THREADS, arguments)
    return out


def take_grad(grad: cupy.ndarray, index: cupy.ndarray, rows: int) -> cupy.ndarray:
    """Row k of the result is the sum of the rows of grad (M, D) with index k, as (rows, D)."""
    return _take_grad(grad, index, rows)


def gather(x: cupy.ndarray, axis: int, index: cupy.ndarray) -> cupy.ndarray:
    """See `reference.index.gather`. For integers, which have no NaN, this is CuPy's function."""
    index = _integers(index)
    x = contiguous(x[_cut(axis, index.shape)])
    if x.dtype.kind != "f":
        return cupy.take_along_axis(x, index, axis)
    out = cupy.empty(index.shape, x.dtype)
    sizes = x.shape[axis], index.shape[axis], math.prod(x.shape[axis + 1 :])
    arguments = (x, index, out.size, *sizes, out)
    _kernel("gather", x)(blocks(out.size, THREADS), THREADS, arguments)
    return out


def scatter_add(
    grad: cupy.ndarray, axis: int, index: cupy.ndarray, shape: tuple[int, ...]
) -> cupy.ndarray:
    """See `reference.index.scatter_add`. A thread adds up a column: a long axis is slow."""
    grad, index = contiguous(grad), _integers(index)
    out = cupy.zeros(shape, grad.dtype)
    cut = tuple(shape[i] if i == axis else n for i, n in enumerate(index.shape))
    part = out if cut == tuple(shape) else cupy.zeros(cut, grad.dtype)
    inner = math.prod(cut[axis + 1 :])
    columns = math.prod(cut[:axis]) * inner
    arguments = (grad, index, columns, shape[axis], index.shape[axis], inner, part)
    _kernel("scatter_add", grad)(blocks(columns, THREADS), THREADS, arguments)
    if part is not out:
        out[_cut(axis, index.shape)] = part
    return out


def getitem_grad(grad: cupy.ndarray, index: Any, shape: tuple[int, ...]) -> cupy.ndarray:
    """See `reference.index.getitem_grad`.

    A single integer array picks rows. Any other index is turned into the places of the elements
    that it picks, by applying it to an array of them; with a mask CuPy waits for their number.
    """
    rows = isinstance(index, cupy.ndarray) and index.dtype.kind in "iu"
    count = shape[0] if rows else math.prod(shape)
    places = cupy.arange(count).reshape(shape[:1] if rows else shape)[index].reshape(-1)
    width = math.prod(shape[1:]) if rows else 1
    return take_grad(grad.reshape(places.size, width), places, count).reshape(shape)


def _take_grad(
    grad: cupy.ndarray, index: cupy.ndarray, rows: int, *, plain: bool = False
) -> cupy.ndarray:
    grad, index = contiguous(grad), _integers(index)
    count, columns = grad.shape
    out = cupy.empty((rows, columns), grad.dtype)
    if out.size == 0:
        return out
    if plain:
        kernel = _kernel("take_grad_plain", grad)
        arguments = (grad, index, count, rows, columns, out)
        kernel(blocks(out.size, THREADS), THREADS, arguments)
        return out
    tile_rows = min(rows, TILE_BYTES // (WARP * grad.itemsize))
    tiles = blocks(rows, tile_rows)
    chunk = max(8 * rows, 256)
    chunks = max(blocks(count, chunk), 1)
    tables = out if chunks == 1 else cupy.empty((chunks, rows, columns), grad.dtype)
    _kernel("take_grad", grad)(
        (chunks * tiles, blocks(columns, WARP)),
        WARP,
        (grad, index, count, rows, columns, tile_rows, tiles, chunk, tables),
        shared=tile_rows * WARP * grad.itemsize,
    )
    if chunks > 1:
        kernel = _kernel("sum_tables", grad)
        kernel(blocks(out.size, THREADS), THREADS, (tables, chunks, out.size, out))
    return out


def _kernel(name: str, values: cupy.ndarray) -> Kernel:
    return SOURCE.kernel(name, REAL=ctype(values))


def _integers(index: Any) -> cupy.ndarray:
    """An index, which may lie on the host, as dense int64 on the GPU."""
    if index.dtype.kind not in "iu":
        raise TypeError(f"expected integer indices, got {index.dtype}")
    return contiguous(cupy.asarray(index).astype("int64", copy=False))


def _cut(axis: int, sizes: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of an array that an index of these sizes reaches."""
    return tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(sizes))
