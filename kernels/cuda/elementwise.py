"""Activation functions and chains of element-wise operations on a GPU, one pass over memory each.

The kernels and the reasons for their form are in `elementwise.cu`. Results lie in memory in the
order of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import cupy
import numpy as np

from ..layout import contiguous, dense, dense_like, flat
from ..reference.elementwise import STEPS, Step, axis_of, check_activation, read_chain
from .launch import REALS, Source, blocks, ctype

__all__ = ["activation", "activation_grad", "chain"]

SOURCE = Source("elementwise.cu", REAL=REALS)

_THREADS = 256
_MOST_BLOCKS = 1 << 20  # threads stride over what is left; a test lowers it
_VECTOR = 16  # bytes of the widest load

_KINDS = {name: number for number, name in enumerate(STEPS)}


def activation(x: cupy.ndarray, name: str, param: float = 0.0) -> cupy.ndarray:
    """See the table in `reference.elementwise`."""
    return _activation(x, name, param)


def _activation(x: cupy.ndarray, name: str, param: float, *, plain: bool = False) -> cupy.ndarray:
    check_activation(name, param)
    x = dense(x)
    y = cupy.empty_like(x)
    _launch("activation", (x, y), (_KINDS[name], param), plain=plain)
    return y


def activation_grad(
    grad: cupy.ndarray, saved: cupy.ndarray, name: str, param: float = 0.0
) -> cupy.ndarray:
    """See the table in `reference.elementwise`."""
    return _activation_grad(grad, saved, name, param)


def _activation_grad(
    grad: cupy.ndarray, saved: cupy.ndarray, name: str, param: float, *, plain: bool = False
) -> cupy.ndarray:
    check_activation(name, param)
    saved = dense(saved)
    grad_x = cupy.empty_like(saved)
    arrays = dense_like(grad, saved), saved, grad_x
    _launch("activation_grad", arrays, (_KINDS[name], param), plain=plain)
    return grad_x


def chain(x: cupy.ndarray, steps: Sequence[Step]) -> cupy.ndarray:
    """See `reference.elementwise`; one launch whatever the number of steps."""
    return _chain(x, steps)


def _chain(x: cupy.ndarray, steps: Sequence[Step], *, plain: bool = False) -> cupy.ndarray:
    read = read_chain(x, steps)
    x = dense(x)
    y = cupy.empty_like(x)
    # The arrays among the operands must live until the launch: it has their addresses only.
    operands = [_as_read(operand, x) for _, operand in read]
    # As the structs in `elementwise.cu`.
    step = np.dtype(
        [("array", "u8"), ("size", "i8"), ("inner", "i8"), ("number", x.dtype), ("kind", "i4")],
        align=True,
    )
    program = np.zeros(1, np.dtype([("steps", step, 8), ("count", "i4")], align=True))
    program["count"] = len(read)
    vectors = []
    for entry, (name, _), operand in zip(program["steps"][0], read, operands, strict=False):
        entry["kind"] = _KINDS[name]
        if not isinstance(operand, cupy.ndarray):
            entry["number"] = operand or 0.0
            continue
        entry["array"] = operand.data.ptr
        if operand.shape == x.shape:
            vectors.append(operand)
        else:
            entry["size"] = operand.size
            one = operand.size == 1
            entry["inner"] = 1 if one else x.strides[axis_of(operand, x)] // x.itemsize
    _launch("chain", (x, y), (program,), plain=plain, vectors=vectors)
    return y


def _as_read(operand: float | cupy.ndarray | None, x: cupy.ndarray) -> float | cupy.ndarray | None:
    """An operand as the kernel walks it: in the memory order of x, or a line along one axis."""
    if not isinstance(operand, cupy.ndarray):
        return operand
    if operand.size and not any(operand.strides):  # one number, as of a mean's gradient
        operand = operand[(slice(1),) * operand.ndim]
    return dense_like(operand, x) if operand.shape == x.shape else contiguous(operand)


def _launch(
    name: str,
    arrays: tuple[cupy.ndarray, ...],
    arguments: tuple,
    *,
    plain: bool,
    vectors: Sequence[cupy.ndarray] = (),
) -> None:
    """Run a kernel or its plain form over dense arrays of one size."""
    flats = [flat(a) for a in arrays]
    n = flats[0].size
    defines = {"REAL": ctype(flats[0])}
    if plain:
        kernel = SOURCE.kernel(f"{name}_plain", **defines)
        kernel(blocks(n, _THREADS), _THREADS, (*flats, n, *arguments))
        return
    aligned = all(a.data.ptr % _VECTOR == 0 for a in (*flats, *vectors))
    per_block = _THREADS * (_VECTOR // flats[0].itemsize if aligned else 1)
    grid = blocks(n, per_block, _MOST_BLOCKS)
    SOURCE.kernel(name, **defines)(grid, _THREADS, (*flats, n, *arguments, aligned))
