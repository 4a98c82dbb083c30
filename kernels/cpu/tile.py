"""Small matrix products by tiles that stay in registers, their left factor read where it lies.

BLAS copies both factors of a product into an order of its own, which pays when each number is then
used hundreds of times. PixelRNN's products are thin, 16 to 64 columns, and the left factor of many
is a window on a map: the pixels under a mask's taps, the states beside a pixel. So here a tile of
4 rows and 16 columns of the result is kept in vector registers while k runs, and

    out[i, j] = start[i, j] + Σ_r Σ_k a[rows[i] + runs[r] + k step] b[(r, k), j]

reads `a` through two tables: where each row begins, and where each run of neighbouring k lies in
it. A convolution has pixels for its rows and its taps for runs; for the gradient of the weight the
two change places.

FLOPs: 2 for each row, k and column. Per k a tile loads 16 numbers of `b` and 4 of `a` for 8 vector
multiplications (of 8 float32 each), so that it is bound by the multiplications.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import serial_kernel

__all__ = ["COLUMNS", "panels", "product"]

COLUMNS = 16
"""Columns of a tile: two vectors of 8 float32, so that 4 rows take 8 of a CPU's 16 registers."""

_VECTOR = 32  # bytes


def panels(matrix: np.ndarray) -> np.ndarray:
    """The right factor (K, J) in the order of reading: (panels, K, COLUMNS), filled up with 0."""
    k, j = matrix.shape
    count = -(-j // COLUMNS)
    filled = np.zeros((k, count * COLUMNS), matrix.dtype)
    filled[:, :j] = matrix
    return np.ascontiguousarray(filled.reshape(k, count, COLUMNS).swapaxes(0, 1))


def _tile(height: int):
    """A function for a tile of so many rows, which Numba puts into its caller's code."""

    @intrinsic
    def tile(
        typingctx, a, at, rows, row, runs, run, step, b, b_at, b_row,
        start, start_at, start_row, out, out_at, out_row,
    ):  # fmt: skip
        arguments = (
            a, at, rows, row, runs, run, step, b, b_at, b_row,
            start, start_at, start_row, out, out_at, out_row,
        )  # fmt: skip

        def codegen(context, builder, signature, args):
            _emit(height, a.dtype, builder, _plain(context, builder, arguments, args))
            return context.get_dummy_value()

        return types.void(*arguments), codegen

    return tile


def _plain(context, builder, kinds, args):
    """Arrays as the addresses of their numbers, integers in 64 bits."""
    return [
        context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.Array)
        else context.cast(builder, value, kind, types.int64)
        for kind, value in zip(kinds, args, strict=True)
    ]


def _emit(height: int, dtype, builder, args) -> None:
    """The tile as LLVM code. Slots on the stack that are vectors become registers."""
    (a, at, rows, row, runs, run, step, b, b_at, b_row,
     start, start_at, start_row, out, out_at, out_row) = args  # fmt: skip
    size = dtype.bitwidth // 8
    lanes = _VECTOR // size
    vector = ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    to_all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
    integer = ir.IntType(64)
    contract = {"flags": ("contract",)}  # one instruction multiplies and adds

    def element(base, *indices):
        for index in indices:
            base = builder.gep(base, [index])
        return base

    def vectors(base):
        """The addresses of a row's vectors."""
        places = (element(base, integer(v)) for v in range(0, COLUMNS, lanes))
        return [builder.bitcast(place, vector.as_pointer()) for place in places]

    def all_lanes(x):
        first = builder.insert_element(undefined, x, ir.IntType(32)(0))
        return builder.shuffle_vector(first, undefined, to_all_lanes)

    numbers = range(height)
    lines = [element(a, at, builder.load(element(rows, row, integer(i)))) for i in numbers]
    sums = []
    for i in numbers:
        base = element(start, start_at, builder.mul(integer(i), start_row))
        sums.append([
            cgutils.alloca_once_value(builder, builder.load(v, align=size)) for v in vectors(base)
        ])  # fmt: skip
    b_line = cgutils.alloca_once_value(builder, element(b, b_at))
    with cgutils.for_range(builder, run) as each_run:
        where = element(runs, builder.mul(each_run.index, integer(2)))
        count = builder.load(element(where, integer(1)))
        begins = [element(line, builder.load(where)) for line in lines]
        with cgutils.for_range(builder, count) as each_k:
            k = builder.mul(each_k.index, step)
            right = [builder.load(v, align=size) for v in vectors(builder.load(b_line))]
            for begin, of_row in zip(begins, sums, strict=True):
                left = all_lanes(builder.load(element(begin, k)))
                for slot, x in zip(of_row, right, strict=True):
                    term = builder.fmul(left, x, **contract)
                    builder.store(builder.fadd(builder.load(slot), term, **contract), slot)
            builder.store(element(builder.load(b_line), b_row), b_line)
    for i in numbers:
        base = element(out, out_at, builder.mul(integer(i), out_row))
        for slot, place in zip(sums[i], vectors(base), strict=True):
            builder.store(builder.load(slot), place, align=size)


_tile_4, _tile_2, _tile_1 = _tile(4), _tile(2), _tile(1)


@serial_kernel
def product(
    a, at, rows, count, runs, run, step, b, b_at, b_row,
    start, start_at, start_row, out, out_at, out_row, columns,
):  # fmt: skip
    """out[i, j] = start[i, j] + Σ_r Σ_k a[at + rows[i] + runs[r] + k step] b[(r, k), j].

    For i < count and j < columns <= COLUMNS. All arrays are flat but `runs`, whose first `run`
    rows (where, how many k) count. `*_at` is where a matrix begins and `*_row` the way from a
    row to the next, in numbers; b has COLUMNS columns.
    """
    if columns < COLUMNS:
        part = np.empty(count * COLUMNS, out.dtype)
        for i in range(count):
            for j in range(columns):
                part[i * COLUMNS + j] = start[start_at + i * start_row + j]
        _tiles(
            a, at, rows, count, runs, run, step, b, b_at, b_row,
            part, 0, COLUMNS, part, 0, COLUMNS,
        )  # fmt: skip
        for i in range(count):
            for j in range(columns):
                out[out_at + i * out_row + j] = part[i * COLUMNS + j]
    else:
        _tiles(
            a, at, rows, count, runs, run, step, b, b_at, b_row,
            start, start_at, start_row, out, out_at, out_row,
        )  # fmt: skip


@serial_kernel
def _tiles(
    a, at, rows, count, runs, run, step, b, b_at, b_row,
    start, start_at, start_row, out, out_at, out_row,
):  # fmt: skip
    row = 0
    while row + 4 <= count:
        _tile_4(
            a, at, rows, row, runs, run, step, b, b_at, b_row,
            start, start_at + row * start_row, start_row, out, out_at + row * out_row, out_row,
        )  # fmt: skip
        row += 4
    if row + 2 <= count:
        _tile_2(
            a, at, rows, row, runs, run, step, b, b_at, b_row,
            start, start_at + row * start_row, start_row, out, out_at + row * out_row, out_row,
        )  # fmt: skip
        row += 2
    if row < count:
        _tile_1(
            a, at, rows, row, runs, run, step, b, b_at, b_row,
            start, start_at + row * start_row, start_row, out, out_at + row * out_row, out_row,
        )  # fmt: skip
