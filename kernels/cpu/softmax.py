"""Softmax and its relatives in as few passes over memory as can be, rows in parallel.

A row is read from memory once: it stays in the cache between the loop that finds its maximum and
the loops that use it. Sums are float64.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ..layout import dense, dense_like, flat
from ..reference.softmax import check_targets
from .jit import CHUNK, kernel, prange, serial_kernel
from .math import exp, log1p, maximum

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


def softmax(x: np.ndarray) -> np.ndarray:
    """softmax of each row of x (rows, classes), see `reference.softmax`."""
    return _softmax(x, log=False)


def softmax_grad(grad: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Gradient of `softmax` from the gradient and the output."""
    return _softmax_grad(grad, output, log=False)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """log softmax of each row of x (rows, classes), see `reference.softmax`."""
    return _softmax(x, log=True)


def log_softmax_grad(grad: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Gradient of `log_softmax` from the gradient and the output."""
    return _softmax_grad(grad, output, log=True)


def logsumexp(x: np.ndarray) -> np.ndarray:
    """log Σ_k exp(x_k) for each row of x (rows, classes), as (rows,)."""
    x = np.ascontiguousarray(x)
    out = np.empty(len(x), x.dtype)
    _run(_logsumexp_rows, _logsumexp_blocks, x, x, out)
    return out


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, ignore_index: int = -100
) -> tuple[np.ndarray, np.ndarray]:
    """(losses, lse), both (rows,), see `reference.softmax.cross_entropy`."""
    logits = np.ascontiguousarray(logits)
    targets = np.ascontiguousarray(targets, dtype=np.int64)
    rows, classes = logits.shape
    # As unsigned numbers negative ones are large, so one comparison finds both kinds of errors.
    if rows and targets.view(np.uint64).max() >= classes:
        check_targets(targets, classes, ignore_index)
    losses, lse = np.empty(rows, logits.dtype), np.empty(rows)
    arguments = logits, targets, ignore_index, losses, lse
    _run(_cross_entropy_rows, _cross_entropy_blocks, logits, *arguments)
    return losses, lse


def cross_entropy_grad(
    grad: np.ndarray,
    logits: np.ndarray,
    targets: np.ndarray,
    lse: np.ndarray,
    *,
    ignore_index: int = -100,
) -> np.ndarray:
    """Gradient of `cross_entropy` for the logits, from the gradient (rows,) of the losses."""
    logits = np.ascontiguousarray(logits)
    targets = np.ascontiguousarray(targets, dtype=np.int64)
    out = np.empty_like(logits)
    arguments = np.ascontiguousarray(grad), logits, targets, lse, ignore_index, out
    _run(_cross_entropy_grad_rows, _cross_entropy_grad_blocks, logits, *arguments)
    return out


def binary_cross_entropy_with_logits(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Loss of each logit, see `reference.softmax.binary_cross_entropy_with_logits`."""
    logits = dense(logits)
    out = np.empty_like(logits)
    arguments = [flat(a) for a in (logits, _like(targets, logits), out)]
    _run(_binary_elements, _binary_blocks, arguments[0], *arguments)
    return out


def binary_cross_entropy_with_logits_grad(
    grad: np.ndarray, logits: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Gradient for the logits from the gradient of each loss."""
    logits = dense(logits)
    out = np.empty_like(logits)
    arguments = [flat(a) for a in (_like(grad, logits), logits, _like(targets, logits), out)]
    _run(_binary_grad_elements, _binary_grad_blocks, arguments[0], *arguments)
    return out


def _like(x: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return dense_like(x.astype(logits.dtype, copy=False), logits)


def _softmax(x: np.ndarray, *, log: bool) -> np.ndarray:
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    _run(_softmax_rows, _softmax_blocks, x, x, log, out)
    return out


def _softmax_grad(grad: np.ndarray, output: np.ndarray, *, log: bool) -> np.ndarray:
    output = np.ascontiguousarray(output)
    out = np.empty_like(output)
    arguments = np.ascontiguousarray(grad), output, log, out
    _run(_softmax_grad_rows, _softmax_grad_blocks, output, *arguments)
    return out


def _run(rows, blocks, x: np.ndarray, *arguments) -> None:
    """Call a kernel for the rows of x (numbers, if it is 1-D), on all threads if it is large."""
    # A parallel launch costs about 12 µs, as much as one thread needs for a chunk.
    if x.size > CHUNK:
        blocks(max(1, CHUNK * len(x) // x.size), len(x), *arguments)
    else:
        rows(0, len(x), *arguments)


# Without reassociation: x - (shift + log_sum) in place of (x - shift) - log_sum would lose the
# digits of log_sum next to a large shift.
_ordered = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})

# For each kernel a loop over rows, and a driver that shares out blocks of rows. Rows are
# independent, so blocks are free of races and their size does not change the result.


@serial_kernel
def _row_maximum(x, n):
    result = x.dtype.type(-np.inf)
    for j in range(x.shape[1]):
        result = maximum(result, x[n, j])
    return result


@serial_kernel
def _exponentials(x, n, shift, e, k):
    """e[k] = exp(x[n] - shift), and its sum (two loops: one that mixes dtypes is slower)."""
    for j in range(x.shape[1]):
        e[k, j] = exp(x[n, j] - shift)
    total = 0.0
    for j in range(x.shape[1]):
        total += e[k, j]
    return total


@_ordered
def _softmax_rows(first, last, x, log, out):
    real = x.dtype.type
    classes = x.shape[1]
    scratch = np.empty((1, classes), x.dtype)
    for n in range(first, last):
        shift = _row_maximum(x, n)
        if log:
            log_sum = real(math.log(_exponentials(x, n, shift, scratch, 0)))
            for j in range(classes):
                out[n, j] = (x[n, j] - shift) - log_sum
        else:
            scale = real(1 / _exponentials(x, n, shift, out, n))
            for j in range(classes):
                out[n, j] *= scale


@kernel
def _softmax_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _softmax_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _softmax_grad_rows(first, last, grad, output, log, out):
    real = output.dtype.type
    classes = output.shape[1]
    for n in range(first, last):
        total = 0.0
        if log:
            for j in range(classes):
                total += grad[n, j]
            sum_grad = real(total)
            for j in range(classes):
                out[n, j] = grad[n, j] - exp(output[n, j]) * sum_grad
        else:
            for j in range(classes):
                total += grad[n, j] * output[n, j]
            mean_grad = real(total)
            for j in range(classes):
                out[n, j] = output[n, j] * (grad[n, j] - mean_grad)


@kernel
def _softmax_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _softmax_grad_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _logsumexp_rows(first, last, x, out):
    scratch = np.empty((1, x.shape[1]), x.dtype)
    for n in range(first, last):
        largest = _row_maximum(x, n)
        shift = largest if abs(largest) < np.inf else x.dtype.type(0)
        out[n] = shift + math.log(_exponentials(x, n, shift, scratch, 0))


@kernel
def _logsumexp_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _logsumexp_rows(block * rows, min(block * rows + rows, total), *arguments)


@_ordered
def _cross_entropy_rows(first, last, logits, targets, ignore_index, losses, lse):
    scratch = np.empty((1, logits.shape[1]), logits.dtype)
    for n in range(first, last):
        shift = _row_maximum(logits, n)
        log_sum = math.log(_exponentials(logits, n, shift, scratch, 0))
        counts = targets[n] != ignore_index
        losses[n] = (shift - logits[n, targets[n]]) + log_sum if counts else 0
        lse[n] = shift + log_sum


@kernel
def _cross_entropy_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _cross_entropy_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _cross_entropy_grad_rows(first, last, grad, logits, targets, lse, ignore_index, out):
    real = logits.dtype.type
    classes = logits.shape[1]
    for n in range(first, last):
        target = targets[n]
        if target == ignore_index:
            out[n] = 0
            continue
        # exp(logit - lse) without rounding lse: by its rounded value, then by the remainder.
        shift = real(lse[n])
        scale = real(grad[n] * math.exp(shift - lse[n]))
        for j in range(classes):
            out[n, j] = scale * exp(logits[n, j] - shift)
        if 0 <= target < classes:
            out[n, target] -= grad[n]


@kernel
def _cross_entropy_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _cross_entropy_grad_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _binary_elements(first, last, logits, targets, out):
    one = logits.dtype.type(1)
    # Indices must be known not to be negative, or the loop does not vectorise: hence the slices.
    logits, targets, out = logits[first:last], targets[first:last], out[first:last]
    for i in range(last - first):
        x = logits[i]
        wrong = one - targets[i] if x > 0 else targets[i]
        out[i] = wrong * abs(x) + log1p(exp(-abs(x)))


@kernel
def _binary_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _binary_elements(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _binary_grad_elements(first, last, grad, logits, targets, out):
    one = logits.dtype.type(1)
    grad, logits = grad[first:last], logits[first:last]
    targets, out = targets[first:last], out[first:last]
    for i in range(last - first):
        x = logits[i]
        e = exp(-abs(x))
        wrong = one - targets[i] if x > 0 else targets[i]
        difference = wrong - e / (one + e)
        out[i] = grad[i] * (difference if x > 0 else -difference)


@kernel
def _binary_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _binary_grad_elements(block * rows, min(block * rows + rows, total), *arguments)
