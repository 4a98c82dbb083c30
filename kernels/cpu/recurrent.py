"""LSTM and GRU over a whole sequence: large products through BLAS, fused cells in between.

The input product for all T steps is one GEMM, and so are the weight gradients and the gradient of
x after the scan. The scan itself is one kernel: the sequences of a batch are independent, so each
thread takes a block of them through all steps, with a single-threaded GEMM and a fused cell per
step. A time loop in Python around multi-threaded GEMMs costs the same CPU time, but its threads
wait for each other in every step, and it was 2 to 10 times slower beside other processes.

Cells go over a row several times, with few arrays in each loop: LLVM vectorises only loops that
need few run-time checks for overlap of what they read and write; the row stays in the L1 cache.
"""

from __future__ import annotations

import contextlib

import numpy as np

from .blas import gemm, gemm_address, one_thread
from .jit import CHUNK, kernel, prange, serial_kernel
from .math import sigmoid, tanh
from .matmul import SMALL, add_matmul, matmul

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad"]

_SERIAL = 1 << 20
"""Multiplications in the scan up to which waking the threads (about 12 µs) does not pay."""


def lstm(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the LSTM cell over x, see `reference.recurrent.lstm`."""
    gates = _project(x, weight_ih, 4)
    output, states = _states(h0, len(x), reverse)
    cells, cell_states = _states(c0, len(x), reverse)
    bias = _rows(bias, gates)
    if len(x) == 1:
        add_matmul(gates.reshape(len(h0), len(weight_hh)), h0, weight_hh.T)
        before = 1 if reverse else 0
        _lstm_cells(gates[0], bias, cell_states[before], cells[0], output[0])
    else:
        arguments = weight_hh, gates, bias, states, cell_states, reverse
        _run(_lstm_block, _lstm_blocks, *arguments)
    last = 0 if reverse else -1
    return output, states[last].copy(), cell_states[last].copy(), (gates, states, cell_states)


def lstm_grad(
    grad_output: np.ndarray,
    grad_h_n: np.ndarray,
    grad_c_n: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `lstm` for x (None without `need_grad_x`), h0, c0, both weights, bias."""
    gates, states, cell_states = saved
    h_before, _ = _before_and_after(states, reverse)
    c_before, cells = _before_and_after(cell_states, reverse)
    grad_h, grad_c = grad_h_n.copy(order="C"), grad_c_n.copy(order="C")
    grad_output, grad_z = np.ascontiguousarray(grad_output), np.empty_like(gates)
    if len(x) == 1:
        _lstm_cell_grads(
            grad_output[0], grad_h, grad_c, gates[0], c_before[0], cells[0], grad_z[0]
        )
        grad_h = matmul(grad_z.reshape(len(h0), len(weight_hh)), weight_hh)
    else:
        arguments = weight_hh, gates, c_before, cells, grad_output, grad_h, grad_c, grad_z, reverse
        _run(_lstm_block_grad, _lstm_block_grads, *arguments)
    grad_x = _input_grad(grad_z, weight_ih) if need_grad_x else None
    grad_weight_ih = _weight_grad(grad_z, x)
    grad_weight_hh = _weight_grad(grad_z, h_before)
    return grad_x, grad_h, grad_c, grad_weight_ih, grad_weight_hh, _bias_grad(grad_z)


def gru(
    x: np.ndarray,
    h0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray | None = None,
    bias_hh: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the GRU cell over x, see `reference.recurrent.gru`."""
    gates = _project(x, weight_ih, 3)
    output, states = _states(h0, len(x), reverse)
    b_n = np.empty_like(output)
    bias_ih, bias_hh = _rows(bias_ih, gates), _rows(bias_hh, gates)
    _run(_gru_block, _gru_blocks, weight_hh, gates, bias_ih, bias_hh, states, b_n, reverse)
    return output, states[0 if reverse else -1].copy(), (gates, b_n, states)


def gru_grad(
    grad_output: np.ndarray,
    grad_h_n: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `gru` for x (None without `need_grad_x`), h0, both weights, both biases."""
    gates, b_n, states = saved
    h_before, _ = _before_and_after(states, reverse)
    grad_h = grad_h_n.copy(order="C")
    grad_a, grad_b = np.empty_like(gates), np.empty_like(gates)
    _run(
        _gru_block_grad, _gru_block_grads, weight_hh, gates, b_n, h_before,
        np.ascontiguousarray(grad_output), grad_h, grad_a, grad_b, reverse,
    )  # fmt: skip
    grad_x = _input_grad(grad_a, weight_ih) if need_grad_x else None
    grad_weight_ih = _weight_grad(grad_a, x)
    grad_weight_hh = _weight_grad(grad_b, h_before)
    return grad_x, grad_h, grad_weight_ih, grad_weight_hh, _bias_grad(grad_a), _bias_grad(grad_b)


def _run(scan, scan_in_blocks, weight_hh: np.ndarray, gates: np.ndarray, *arguments) -> None:
    """Scan the whole batch, on all threads if there is work for them."""
    steps, batch, _, _ = gates.shape
    # Fixed by the shape and not by the threads, so that the result is too. BLAS packs the whole
    # weight for each block of rows, which costs 10 % of the time at 32 rows and 30 % at 16.
    rows = min(32, max(16, -(-batch // 2)))
    arguments = (gemm_address(gates.dtype), np.ascontiguousarray(weight_hh), gates, *arguments)
    small = batch * weight_hh.size <= SMALL  # BLAS uses one thread of its own accord
    with contextlib.nullcontext() if small else one_thread():
        if batch > rows and steps * batch * weight_hh.size > _SERIAL:
            scan_in_blocks(rows, batch, *arguments)
        else:
            scan(0, batch, *arguments)


def _project(x: np.ndarray, weight: np.ndarray, gates: int) -> np.ndarray:
    """weight x for all steps at once, as (T, N, gates, H)."""
    steps, batch, size = x.shape
    product = matmul(x.reshape(steps * batch, size), weight.T)
    return product.reshape(steps, batch, gates, len(weight) // gates)


def _states(initial: np.ndarray, steps: int, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Room for the states (T, N, H), and the array (T + 1, N, H) of which it is a view.

    The initial state lies before the first step (after the last, in reverse).
    """
    states = np.empty((steps + 1, *initial.shape), initial.dtype)
    states[steps if reverse else 0] = initial
    return _before_and_after(states, reverse)[1], states


def _before_and_after(states: np.ndarray, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of states (T + 1, N, H): those that each step started from, and those that it led to."""
    return (states[1:], states[:-1]) if reverse else (states[:-1], states[1:])


def _rows(bias: np.ndarray | None, gates: np.ndarray) -> np.ndarray:
    """The bias as (gates, H), zeros if there is none."""
    shape = gates.shape[2:]
    if bias is None:
        return np.zeros(shape, gates.dtype)
    return np.ascontiguousarray(bias).reshape(shape)


def _input_grad(grad_z: np.ndarray, weight: np.ndarray) -> np.ndarray:
    steps, batch, gates, hidden = grad_z.shape
    product = matmul(grad_z.reshape(steps * batch, gates * hidden), weight)
    return product.reshape(steps, batch, weight.shape[1])


def _weight_grad(grad_z: np.ndarray, x: np.ndarray) -> np.ndarray:
    steps, batch, gates, hidden = grad_z.shape
    rows = steps * batch
    return matmul(grad_z.reshape(rows, gates * hidden).T, x.reshape(rows, x.shape[2]))


def _bias_grad(grad_z: np.ndarray) -> np.ndarray:
    # Over the batch in the arrays' dtype, over time in float64: T N can be large.
    total = grad_z.sum(axis=1).sum(axis=0, dtype=np.float64)
    return total.reshape(-1).astype(grad_z.dtype)


@serial_kernel
def _multiply(address, a, b, b_transposed, accumulate, c):
    """c = a op(b), or c += with `accumulate`, for matrices whose rows are contiguous."""
    beta = c.dtype.type(1) if accumulate else c.dtype.type(0)
    m, n = c.shape
    size = c.itemsize
    gemm(
        address, m, n, a.shape[1], a.ctypes.data, a.strides[0] // size, False,
        b.ctypes.data, b.strides[0] // size, b_transposed, beta,
        c.ctypes.data, c.strides[0] // size,
    )  # fmt: skip


@serial_kernel
def _lstm_block(first, last, address, weight, gates, bias, states, cells, reverse):
    steps, batch, count, hidden = gates.shape
    flat = gates.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before, after = (t + 1, t) if reverse else (t, t + 1)
        _multiply(address, states[before, first:last], weight, True, True, flat[t, first:last])
        _lstm_cell(
            gates[t, first:last], bias, cells[before, first:last],
            cells[after, first:last], states[after, first:last],
        )  # fmt: skip


@kernel
def _lstm_blocks(rows, batch, *arguments):
    for block in prange(-(-batch // rows)):
        _lstm_block(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _lstm_cell(gates, bias, c_before, c, h):
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
def _lstm_cells(gates, bias, c_before, c, h):
    for task in prange(-(-gates.size // CHUNK)):
        rows = _rows_of(task, gates)
        _lstm_cell(gates[rows], bias, c_before[rows], c[rows], h[rows])


@serial_kernel
def _rows_of(task, gates):
    """The share of a task: about CHUNK numbers of the gates (N, gates, H)."""
    tasks = -(-gates.size // CHUNK)
    n = len(gates)
    return slice(np.int64(task) * n // tasks, np.int64(task + 1) * n // tasks)


@serial_kernel
def _lstm_block_grad(
    first, last, address, weight, gates, c_before, c, grad_output, grad_h, grad_c, grad_z, reverse
):
    steps, batch, count, hidden = gates.shape
    flat = grad_z.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        _lstm_cell_grad(
            grad_output[t, first:last], grad_h[first:last], grad_c[first:last],
            gates[t, first:last], c_before[t, first:last], c[t, first:last],
            grad_z[t, first:last],
        )  # fmt: skip
        _multiply(address, flat[t, first:last], weight, False, False, grad_h[first:last])


@kernel
def _lstm_block_grads(rows, batch, *arguments):
    for block in prange(-(-batch // rows)):
        _lstm_block_grad(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _lstm_cell_grad(grad_output, grad_h, grad_c, gates, c_before, c, grad_z):
    """Also moves grad_c on to the state before; grad_h follows by the product with grad_z."""
    rows, _, hidden = gates.shape
    one = gates.dtype.type(1)
    for n in range(rows):
        for j in range(hidden):
            grad_h[n, j] += grad_output[n, j]
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
def _lstm_cell_grads(grad_output, grad_h, grad_c, gates, c_before, c, grad_z):
    for task in prange(-(-gates.size // CHUNK)):
        rows = _rows_of(task, gates)
        _lstm_cell_grad(
            grad_output[rows], grad_h[rows], grad_c[rows], gates[rows], c_before[rows], c[rows],
            grad_z[rows],
        )  # fmt: skip


@serial_kernel
def _gru_block(first, last, address, weight, gates, bias_ih, bias_hh, states, b_n, reverse):
    steps, batch, count, hidden = gates.shape
    flat = gates.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before, after = (t + 1, t) if reverse else (t, t + 1)
        h = states[before, first:last]
        # The candidate's product stays by itself, since the reset gate multiplies it.
        r_z = flat[t, first:last, : 2 * hidden]
        _multiply(address, h, weight[: 2 * hidden], True, True, r_z)
        _multiply(address, h, weight[2 * hidden :], True, False, b_n[t, first:last])
        _gru_cell(
            gates[t, first:last], bias_ih, bias_hh, h, b_n[t, first:last],
            states[after, first:last],
        )  # fmt: skip


@kernel
def _gru_blocks(rows, batch, *arguments):
    for block in prange(-(-batch // rows)):
        _gru_block(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _gru_cell(gates, bias_ih, bias_hh, h_before, b_n, h):
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
def _gru_block_grad(
    first,
    last,
    address,
    weight,
    gates,
    b_n,
    h_before,
    grad_output,
    grad_h,
    grad_a,
    grad_b,
    reverse,
):
    steps, batch, count, hidden = gates.shape
    flat = grad_b.reshape(steps, batch, count * hidden)
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        _gru_cell_grad(
            grad_output[t, first:last], grad_h[first:last], gates[t, first:last],
            b_n[t, first:last], h_before[t, first:last],
            grad_a[t, first:last], grad_b[t, first:last],
        )  # fmt: skip
        _multiply(address, flat[t, first:last], weight, False, True, grad_h[first:last])


@kernel
def _gru_block_grads(rows, batch, *arguments):
    for block in prange(-(-batch // rows)):
        _gru_block_grad(block * rows, min(block * rows + rows, batch), *arguments)


@serial_kernel
def _gru_cell_grad(grad_output, grad_h, gates, b_n, h_before, grad_a, grad_b):
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
