"""The gated step of an inverse autoregressive flow on the GPU, in one launch; see `flow.cu`."""

from __future__ import annotations

from typing import Any

import cupy

from ..layout import contiguous
from .launch import REALS, Source, blocks, ctype

__all__ = ["iaf_gate", "iaf_gate_grad"]

SOURCE = Source("flow.cu", REAL=REALS)
THREADS = 256
VECTOR_BYTES = 16
KEPT = 8  # numbers of a row that a lane keeps in registers, as in softmax.cuh
WARP = 32


def iaf_gate(z: cupy.ndarray, ms: cupy.ndarray, *, bias: float) -> tuple[cupy.ndarray, ...]:
    """(output, log_det), see `reference.flow.iaf_gate`."""
    return _iaf_gate(z, ms, bias)


def iaf_gate_grad(
    grad_output: cupy.ndarray,
    grad_log_det: cupy.ndarray,
    z: cupy.ndarray,
    ms: cupy.ndarray,
    *,
    bias: float,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of `iaf_gate` for z and ms."""
    return _iaf_gate_grad(grad_output, grad_log_det, z, ms, bias)


def _iaf_gate(
    z: cupy.ndarray, ms: cupy.ndarray, bias: float, *, plain: bool = False
) -> tuple[cupy.ndarray, cupy.ndarray]:
    z, ms = contiguous(z), contiguous(ms)
    out = cupy.empty_like(z), cupy.empty(len(z), z.dtype)
    _run("iaf_gate", plain, [z, ms, out[0]], [z, ms, bias], *out)
    return out


def _iaf_gate_grad(
    grad_output: cupy.ndarray,
    grad_log_det: cupy.ndarray,
    z: cupy.ndarray,
    ms: cupy.ndarray,
    bias: float,
    *,
    plain: bool = False,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    grad, z, ms = contiguous(grad_output), contiguous(z), contiguous(ms)
    out = cupy.empty_like(z), cupy.empty_like(ms)
    inputs = [grad, contiguous(grad_log_det), z, ms, bias]
    _run("iaf_gate_grad", plain, [z, grad, ms, *out], inputs, *out)
    return out


def _run(name: str, plain: bool, matrices: list[cupy.ndarray], inputs: list, *out: Any) -> None:
    """A thread per row, or up to 32 lanes, or a block; vectors if all `matrices` allow them."""
    z = matrices[0]
    rows, columns = z.shape
    if plain:
        kernel = SOURCE.kernel(f"{name}_plain", REAL=ctype(z))
        kernel(blocks(rows, THREADS), THREADS, (*inputs, rows, columns, *out))
        return
    lanes, threads, grid = 0, THREADS, rows
    if columns <= WARP * KEPT:
        lanes = 1 << (blocks(max(columns, 1), KEPT) - 1).bit_length()
        grid = blocks(rows, THREADS // lanes)
    elif columns < THREADS * KEPT:
        threads = WARP * blocks(columns, WARP * KEPT)
    vectors = columns * z.itemsize % VECTOR_BYTES == 0 and all(
        a.data.ptr % VECTOR_BYTES == 0 for a in matrices
    )
    kernel = SOURCE.kernel(name, REAL=ctype(z))
    kernel(grid, threads, (*inputs, rows, columns, lanes, vectors, *out))
