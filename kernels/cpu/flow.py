"""The gated step of an inverse autoregressive flow in one pass over memory, rows in parallel.

Bytes for each latent number in float32: 16 forward (z, m, s, output), 28 for the gradient. Nothing
is saved for it: σ is computed again from s, which is cheaper than writing and reading it.
"""

from __future__ import annotations

import numpy as np

from .jit import CHUNK, kernel, prange, serial_kernel
from .math import exp, log1p

__all__ = ["iaf_gate", "iaf_gate_grad"]


def iaf_gate(z: np.ndarray, ms: np.ndarray, *, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """(output, log_det), see `reference.flow.iaf_gate`."""
    z, ms = np.ascontiguousarray(z), np.ascontiguousarray(ms)
    output, log_det = np.empty_like(z), np.empty(len(z), z.dtype)
    _run(_gate_rows, _gate_blocks, z, z, ms, z.dtype.type(bias), output, log_det)
    return output, log_det


def iaf_gate_grad(
    grad_output: np.ndarray,
    grad_log_det: np.ndarray,
    z: np.ndarray,
    ms: np.ndarray,
    *,
    bias: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `iaf_gate` for z and ms."""
    grads = np.ascontiguousarray(grad_output), np.ascontiguousarray(grad_log_det)
    z, ms = np.ascontiguousarray(z), np.ascontiguousarray(ms)
    out = np.empty_like(z), np.empty_like(ms)
    _run(_gate_grad_rows, _gate_grad_blocks, z, *grads, z, ms, z.dtype.type(bias), *out)
    return out


def _run(rows, blocks, z: np.ndarray, *arguments) -> None:
    """Call a kernel for the rows of z, on all threads if it is large."""
    if z.size > CHUNK:
        blocks(max(1, CHUNK * len(z) // z.size), len(z), *arguments)
    else:
        rows(0, len(z), *arguments)


# For each kernel a loop over rows, and a driver that shares out blocks of rows. Rows are
# independent, so blocks are free of races and their size does not change the result.


@serial_kernel
def _gate_rows(first, last, z, ms, bias, output, log_det):
    one, zero = z.dtype.type(1), z.dtype.type(0)
    width = z.shape[1]
    log_keep = np.empty(width, z.dtype)
    for n in range(first, last):
        m, s = ms[n, :width], ms[n, width:]
        for i in range(width):
            x = s[i] + bias
            e = exp(-abs(x))
            large = one / (one + e)
            keep, replace = (large, e * large) if x > zero else (e * large, large)
            output[n, i] = keep * z[n, i] + replace * m[i]
            log_keep[i] = (zero if x > zero else x) - log1p(e)
        total = 0.0  # a loop of its own: one that mixes float32 and float64 is slower
        for i in range(width):
            total += log_keep[i]
        log_det[n] = total


@kernel
def _gate_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _gate_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _gate_grad_rows(first, last, grad, grad_log_det, z, ms, bias, grad_z, grad_ms):
    one, zero = z.dtype.type(1), z.dtype.type(0)
    width = z.shape[1]
    for n in range(first, last):
        m, s = ms[n, :width], ms[n, width:]
        grad_m, grad_s = grad_ms[n, :width], grad_ms[n, width:]
        of_log_det = grad_log_det[n]
        for i in range(width):
            x = s[i] + bias
            e = exp(-abs(x))
            large = one / (one + e)
            keep, replace = (large, e * large) if x > zero else (e * large, large)
            g = grad[n, i]
            grad_z[n, i] = g * keep
            grad_m[i] = g * replace
            grad_s[i] = (g * (z[n, i] - m[i]) * keep + of_log_det) * replace


@kernel
def _gate_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _gate_grad_rows(block * rows, min(block * rows + rows, total), *arguments)
