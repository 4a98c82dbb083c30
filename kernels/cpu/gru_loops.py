"""The GRU's cell, through all steps.

    r, z = σ(a_r + b_r), σ(a_z + b_z)    a = W x + bias_ih
    n = tanh(a_n + r b_n)                b = U h_before + bias_hh
    h = (1 - z) n + z h_before

`gates` (T, N, 3, H) holds W x before a scan, and r, z, n after it. On the loops see `lstm_loops`.
"""

from __future__ import annotations

from .blas import multiply
from .jit import kernel, prange, serial_kernel
from .math import sigmoid, tanh

__all__ = ["scan", "scan_blocks", "scan_grad", "scan_grad_blocks"]


@serial_kernel
def scan(first, last, address, weight, gates, bias_ih, bias_hh, states, b_n, reverse):
    """Take the sequences from `first` to `last` through all steps; see `recurrent.gru`."""
    steps, batch, count, hidden = gates.shape
    flat = gates.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before, after = (t + 1, t) if reverse else (t, t + 1)
        h = states[before, first:last]
        # The candidate's product stays by itself, since the reset gate multiplies it.
        r_z = flat[t, first:last, : 2 * hidden]
        multiply(address, h, weight[: 2 * hidden], True, True, r_z)
        multiply(address, h, weight[2 * hidden :], True, False, b_n[t, first:last])
        _cell(
            gates[t, first:last], bias_ih, bias_hh, h, b_n[t, first:last],
            states[after, first:last],
        )  # fmt: skip


@kernel
def scan_blocks(rows, batch, *arguments):
    """`scan` of the whole batch, blocks of `rows` sequences side by side."""
    for block in prange(-(-batch // rows)):
        scan(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _cell(gates, bias_ih, bias_hh, h_before, b_n, h):
    rows, _, hidden = gates.shape
    for n in range(rows):
        for k in range(2):
            for j in range(hidden):
                gates[n, k, j] = sigmoid(gates[n, k, j] + bias_ih[k, j] + bias_hh[k, j])
        for j in range(hidden):
            b_n[n, j] += bias_hh[2, j]
        for j in range(hidden):
            gates[n, 2, j] = tanh(gates[n, 2, j] + bias_ih[2, j] + gates[n, 0, j] * b_n[n, j])
        for j in range(hidden):
            new = gates[n, 2, j]
            h[n, j] = new + gates[n, 1, j] * (h_before[n, j] - new)


@serial_kernel
def scan_grad(
    first, last, address, weight, gates, b_n, h_before,
    grad_output, grad_h, grad_a, grad_b, reverse,
):  # fmt: skip
    """Take the gradients of these sequences through all steps, the last first.

    grad_h (N, H) holds that of the last state before and of the initial one after.
    """
    steps, batch, count, hidden = gates.shape
    flat = grad_b.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        _cell_grad(
            grad_output[t, first:last], grad_h[first:last], gates[t, first:last],
            b_n[t, first:last], h_before[t, first:last],
            grad_a[t, first:last], grad_b[t, first:last],
        )  # fmt: skip
        multiply(address, flat[t, first:last], weight, False, True, grad_h[first:last])


@kernel
def scan_grad_blocks(rows, batch, *arguments):
    """`scan_grad` of the whole batch, blocks of `rows` sequences side by side."""
    for block in prange(-(-batch // rows)):
        scan_grad(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _cell_grad(grad_output, grad_h, gates, b_n, h_before, grad_a, grad_b):
    """Also moves grad_h on to the state before, all but the product with grad_b."""
    rows, _, hidden = gates.shape
    one = gates.dtype.type(1)
    for n in range(rows):
        for j in range(hidden):
            grad_h[n, j] += grad_output[n, j]
        for j in range(hidden):
            new = gates[n, 2, j]
            grad_a[n, 2, j] = grad_h[n, j] * (one - gates[n, 1, j]) * (one - new * new)
        for j in range(hidden):
            r = gates[n, 0, j]
            grad_r = grad_a[n, 2, j] * b_n[n, j] * r * (one - r)
            grad_a[n, 0, j] = grad_r
            grad_b[n, 0, j] = grad_r
        for j in range(hidden):
            z = gates[n, 1, j]
            grad_z = grad_h[n, j] * (h_before[n, j] - gates[n, 2, j]) * z * (one - z)
            grad_a[n, 1, j] = grad_z
            grad_b[n, 1, j] = grad_z
        for j in range(hidden):
            grad_b[n, 2, j] = grad_a[n, 2, j] * gates[n, 0, j]
        for j in range(hidden):
            grad_h[n, j] *= gates[n, 1, j]
