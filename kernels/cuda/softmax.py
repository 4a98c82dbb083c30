"""Softmax and its relatives on the GPU, one pass over memory each; see `softmax.cu`.

A target that is no class can't be an error here: to look at it, the host would have to wait for
the GPU. Its row's loss is NaN, and its gradient.
"""

from __future__ import annotations

from typing import Any

import cupy

from ..layout import contiguous, dense, dense_like, flat
from .launch import REALS, Source, blocks, ctype

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "log_softmax",
    "log_softmax_grad",
    "logsumexp",
    "softmax",
    "softmax_grad",
]

SOURCE = Source("softmax.cu", REAL=REALS)
THREADS = 256
VECTOR_BYTES = 16
KEPT = 8  # values of a row that a lane keeps in registers, as in softmax.cuh
WARP = 32


def softmax(x: cupy.ndarray) -> cupy.ndarray:
    """softmax of each row of x (rows, classes), see `reference.softmax`."""
    return _softmax(x, log_space=False)


def softmax_grad(grad: cupy.ndarray, output: cupy.ndarray) -> cupy.ndarray:
    """Gradient of `softmax` from the gradient and the output."""
    return _softmax_grad(grad, output, log_space=False)


def log_softmax(x: cupy.ndarray) -> cupy.ndarray:
    """log softmax of each row of x (rows, classes), see `reference.softmax`."""
    return _softmax(x, log_space=True)


def log_softmax_grad(grad: cupy.ndarray, output: cupy.ndarray) -> cupy.ndarray:
    """Gradient of `log_softmax` from the gradient and the output."""
    return _softmax_grad(grad, output, log_space=True)


def logsumexp(x: cupy.ndarray) -> cupy.ndarray:
    """log Σ_k exp(x_k) for each row of x (rows, classes), as (rows,)."""
    x = contiguous(x)
    out = cupy.empty(len(x), x.dtype)
    _by_groups("logsumexp", [x], [x], out)
    return out


def cross_entropy(
    logits: cupy.ndarray, targets: cupy.ndarray, *, ignore_index: int = -100
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """(losses, lse), both (rows,), see `reference.softmax.cross_entropy`.

    The loss of a target that is neither a class nor `ignore_index` is NaN.
    """
    return _cross_entropy(logits, targets, ignore_index)


def cross_entropy_grad(
    grad: cupy.ndarray,
    logits: cupy.ndarray,
    targets: cupy.ndarray,
    lse: cupy.ndarray,
    *,
    ignore_index: int = -100,
) -> cupy.ndarray:
    """Gradient of `cross_entropy` for the logits, from the gradient (rows,) of the losses."""
    return _cross_entropy_grad(grad, logits, targets, lse, ignore_index)


def binary_cross_entropy_with_logits(logits: cupy.ndarray, targets: cupy.ndarray) -> cupy.ndarray:
    """Loss of each logit, see `reference.softmax.binary_cross_entropy_with_logits`."""
    logits = dense(logits)
    return _each_value("binary_cross_entropy", logits, [logits, _like(targets, logits)])


def binary_cross_entropy_with_logits_grad(
    grad: cupy.ndarray, logits: cupy.ndarray, targets: cupy.ndarray
) -> cupy.ndarray:
    """Gradient for the logits from the gradient of each loss."""
    logits = dense(logits)
    inputs = [_like(grad, logits), logits, _like(targets, logits)]
    return _each_value("binary_cross_entropy_grad", logits, inputs)


def _softmax(x: cupy.ndarray, *, log_space: bool, plain: bool = False) -> cupy.ndarray:
    x = contiguous(x)
    out = cupy.empty_like(x)
    run = _by_threads if plain else _by_groups
    run("softmax", [x, out], [x], log_space, out)
    return out


def _softmax_grad(
    grad: cupy.ndarray, output: cupy.ndarray, *, log_space: bool, plain: bool = False
) -> cupy.ndarray:
    grad, output = contiguous(grad), contiguous(output)
    out = cupy.empty_like(output)
    run = _by_threads if plain else _by_groups
    run("softmax_grad", [output, grad, out], [grad, output], log_space, out)
    return out


def _cross_entropy(
    logits: cupy.ndarray, targets: cupy.ndarray, ignore_index: int, *, plain: bool = False
) -> tuple[cupy.ndarray, cupy.ndarray]:
    logits, targets = contiguous(logits), _integers(targets)
    losses, lse = cupy.empty(len(logits), logits.dtype), cupy.empty(len(logits), "float64")
    run = _by_threads if plain else _by_groups
    run("cross_entropy", [logits], [logits, targets], ignore_index, losses, lse)
    return losses, lse


def _cross_entropy_grad(
    grad: cupy.ndarray,
    logits: cupy.ndarray,
    targets: cupy.ndarray,
    lse: cupy.ndarray,
    ignore_index: int,
    *,
    plain: bool = False,
) -> cupy.ndarray:
    logits = contiguous(logits)
    out = cupy.empty_like(logits)
    inputs = [contiguous(grad), logits, _integers(targets), contiguous(lse)]
    run = _by_threads if plain else _by_groups
    run("cross_entropy_grad", [logits, out], inputs, ignore_index, out)
    return out


def _by_threads(name: str, matrices: list[cupy.ndarray], inputs: list, *options: Any) -> None:
    """Version 1: a thread per row."""
    rows, columns = matrices[0].shape
    kernel = SOURCE.kernel(f"{name}_plain", REAL=ctype(matrices[0]))
    kernel(blocks(rows, THREADS), THREADS, (*inputs, rows, columns, *options))


def _by_groups(name: str, matrices: list[cupy.ndarray], inputs: list, *options: Any) -> None:
    """Versions 2 and 3: up to 32 lanes for a row, or a block; vectors if all `matrices` allow."""
    rows, columns = matrices[0].shape
    lanes, threads, grid = 0, THREADS, rows
    if columns <= WARP * KEPT:
        lanes = 1 << (blocks(max(columns, 1), KEPT) - 1).bit_length()
        grid = blocks(rows, THREADS // lanes)
    elif columns < THREADS * KEPT:
        threads = WARP * blocks(columns, WARP * KEPT)
    vectors = columns * matrices[0].itemsize % VECTOR_BYTES == 0 and _aligned(*matrices)
    kernel = SOURCE.kernel(name, REAL=ctype(matrices[0]))
    kernel(grid, threads, (*inputs, rows, columns, lanes, vectors, *options))


def _each_value(name: str, logits: cupy.ndarray, inputs: list[cupy.ndarray]) -> cupy.ndarray:
    out = cupy.empty_like(logits)
    values = [flat(a) for a in (*inputs, out)]
    size, width = logits.size, VECTOR_BYTES // logits.itemsize
    vectors = _aligned(*values)
    threads = size // width + size % width if vectors else size
    kernel = SOURCE.kernel(name, REAL=ctype(logits))
    kernel(blocks(threads, THREADS), THREADS, (*values[:-1], size, vectors, values[-1]))
    return out


def _aligned(*arrays: cupy.ndarray) -> bool:
    return all(a.data.ptr % VECTOR_BYTES == 0 for a in arrays)


def _integers(targets: cupy.ndarray) -> cupy.ndarray:
    return contiguous(targets.astype("int64", copy=False))


def _like(x: cupy.ndarray, logits: cupy.ndarray) -> cupy.ndarray:
    return dense_like(x.astype(logits.dtype, copy=False), logits)
