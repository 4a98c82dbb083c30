"""The LSTM's cell, through all steps or a single one.

    i, f, o = σ(z_i), σ(z_f), σ(z_o)    g = tanh(z_g)    z = W x + U h_before + bias
    c = f c_before + i g                h = o tanh(c)

`gates` (T, N, 4, H) holds W x before a scan, and i, f, g, o after it.

A cell goes over a row several times, with few arrays in each loop: LLVM vectorises only loops that
need few run-time checks for overlap of what they read and write; the row stays in the L1 cache.
"""

from __future__ import annotations

import numpy as np

from .blas import multiply
from .jit import CHUNK, kernel, prange, serial_kernel
from .math import sigmoid, tanh

__all__ = [
    "cell",
    "cell_blocks",
    "cell_grad",
    "cell_grad_blocks",
    "scan",
    "scan_blocks",
    "scan_grad",
    "scan_grad_blocks",
]


@serial_kernel
def scan(first, last, address, weight, gates, bias, states, cells, reverse):
    """Take the sequences from `first` to `last` through all steps; see `recurrent.lstm`."""
    steps, batch, count, hidden = gates.shape
    flat = gates.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before, after = (t + 1, t) if reverse else (t, t + 1)
        multiply(address, states[before, first:last], weight, True, True, flat[t, first:last])
        cell(
            gates[t, first:last], bias, cells[before, first:last],
            cells[after, first:last], states[after, first:last],
        )  # fmt: skip


@kernel
def scan_blocks(rows, batch, *arguments):
    """`scan` of the whole batch, blocks of `rows` sequences side by side.

    The same lines stand below every scan: Numba can't keep a kernel on disk that takes the one to
    call as an argument, and would compile it anew in each process.
    """
    for block in prange(-(-batch // rows)):
        scan(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def cell(gates, bias, c_before, c, h):
    """A single step; `gates` (N, 4, H) holds both products before it, the gates after it."""
    rows, _, hidden = gates.shape
    for n in range(rows):
        for k in range(4):
            if k == 2:
                for j in range(hidden):
                    gates[n, k, j] = tanh(gates[n, k, j] + bias[k, j])
            else:
                for j in range(hidden):
                    gates[n, k, j] = sigmoid(gates[n, k, j] + bias[k, j])
        for j in range(hidden):
            c[n, j] = gates[n, 1, j] * c_before[n, j] + gates[n, 0, j] * gates[n, 2, j]
        for j in range(hidden):
            h[n, j] = gates[n, 3, j] * tanh(c[n, j])


@kernel
def cell_blocks(gates, bias, c_before, c, h):
    """`cell` on all threads."""
    for task in prange(-(-gates.size // CHUNK)):
        rows = _rows_of(task, gates)
        cell(gates[rows], bias, c_before[rows], c[rows], h[rows])


@serial_kernel
def scan_grad(
    first, last, address, weight, gates, c_before, c, grad_output, grad_h, grad_c, grad_z, reverse
):
    """Take the gradients of these sequences through all steps, the last first.

    grad_h and grad_c (N, H) hold those of the last states before and of the initial ones after.
    """
    steps, batch, count, hidden = gates.shape
    flat = grad_z.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        grad_h[first:last] += grad_output[t, first:last]
        cell_grad(
            grad_h[first:last], grad_c[first:last], gates[t, first:last],
            c_before[t, first:last], c[t, first:last], grad_z[t, first:last],
        )  # fmt: skip
        multiply(address, flat[t, first:last], weight, False, False, grad_h[first:last])


@kernel
def scan_grad_blocks(rows, batch, *arguments):
    """`scan_grad` of the whole batch, blocks of `rows` sequences side by side."""
    for block in prange(-(-batch // rows)):
        scan_grad(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def cell_grad(grad_h, grad_c, gates, c_before, c, grad_z):
    """The gradients of `cell`: turns grad_c into that of c_before, and fills grad_z."""
    rows, _, hidden = gates.shape
    one = gates.dtype.type(1)
    for n in range(rows):
        for j in range(hidden):
            o = gates[n, 3, j]
            tanh_c = tanh(c[n, j])
            grad_c[n, j] += grad_h[n, j] * o * (one - tanh_c * tanh_c)
            grad_z[n, 3, j] = grad_h[n, j] * tanh_c * o * (one - o)
        for j in range(hidden):
            i = gates[n, 0, j]
            f = gates[n, 1, j]
            g = gates[n, 2, j]
            grad_z[n, 0, j] = grad_c[n, j] * g * i * (one - i)
            grad_z[n, 1, j] = grad_c[n, j] * c_before[n, j] * f * (one - f)
            grad_z[n, 2, j] = grad_c[n, j] * i * (one - g * g)
        for j in range(hidden):
            grad_c[n, j] *= gates[n, 1, j]


@kernel
def cell_grad_blocks(grad_h, grad_c, gates, c_before, c, grad_z):
    """`cell_grad` on all threads."""
    for task in prange(-(-gates.size // CHUNK)):
        rows = _rows_of(task, gates)
        cell_grad(grad_h[rows], grad_c[rows], gates[rows], c_before[rows], c[rows], grad_z[rows])


@serial_kernel
def _rows_of(task, gates):
    """The share of a task: about CHUNK numbers of the gates (N, gates, H)."""
    tasks = -(-gates.size // CHUNK)
    n = len(gates)
    return slice(np.int64(task) * n // tasks, np.int64(task + 1) * n // tasks)
