"""LSTM and GRU over a whole sequence: large products through BLAS, fused cells in between.

The input product for all T steps is one GEMM, and so are the weight gradients and the gradient of
x after the scan. The scan itself is one kernel: the sequences of a batch are independent, so each
thread takes a block of them through all steps, with a single-threaded GEMM and a fused cell per
step (`lstm_loops.py`, `gru_loops.py`). A time loop in Python around multi-threaded GEMMs costs the
same CPU time, but its threads wait for each other in every step, and it was 2 to 10 times slower
beside other processes.
"""

from __future__ import annotations

import contextlib

import numpy as np

from . import gru_loops, lstm_loops
from .blas import gemm_address, one_thread
from .jit import CHUNK
from .matmul import SMALL, add_matmul, matmul

__all__ = ["gru", "gru_grad", "lstm", "lstm_cell", "lstm_cell_grad", "lstm_grad"]

_SERIAL = 1 << 20
"""Multiplications in the scan up to which calling the threads (about 12 µs) does not pay."""


def lstm_cell(
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of an LSTM, see `reference.recurrent.lstm_cell`."""
    z = matmul(x, weight_ih.T)
    add_matmul(z, h, weight_hh.T)
    gates = z.reshape(len(h), 4, h.shape[1])
    h_after, c_after = np.empty(h.shape, h.dtype), np.empty(c.shape, c.dtype)
    run = lstm_loops.cell_blocks if gates.size > CHUNK else lstm_loops.cell
    run(gates, _rows(bias, gates), np.ascontiguousarray(c), c_after, h_after)
    return h_after, c_after, gates


def lstm_cell_grad(
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    gates: np.ndarray,
    c_before: np.ndarray,
    c: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `lstm_cell`, see `reference.recurrent.lstm_cell_grad`."""
    grad_z = np.empty_like(gates)
    grad_h, grad_c = np.ascontiguousarray(grad_h), grad_c.copy(order="C")
    run = lstm_loops.cell_grad_blocks if gates.size > CHUNK else lstm_loops.cell_grad
    run(grad_h, grad_c, gates, np.ascontiguousarray(c_before), c, grad_z)
    return grad_z.reshape(len(c), 4 * c.shape[1]), grad_c


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
    _, cell_states = _states(c0, len(x), reverse)
    arguments = weight_hh, gates, _rows(bias, gates), states, cell_states, reverse
    _run(lstm_loops.scan, lstm_loops.scan_blocks, *arguments)
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
    arguments = weight_hh, gates, c_before, cells, grad_output, grad_h, grad_c, grad_z, reverse
    _run(lstm_loops.scan_grad, lstm_loops.scan_grad_blocks, *arguments)
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
    arguments = weight_hh, gates, bias_ih, bias_hh, states, b_n, reverse
    _run(gru_loops.scan, gru_loops.scan_blocks, *arguments)
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
        gru_loops.scan_grad, gru_loops.scan_grad_blocks, weight_hh, gates, b_n, h_before,
        np.ascontiguousarray(grad_output), grad_h, grad_a, grad_b, reverse,
    )  # fmt: skip
    grad_x = _input_grad(grad_a, weight_ih) if need_grad_x else None
    grad_weight_ih = _weight_grad(grad_a, x)
    grad_weight_hh = _weight_grad(grad_b, h_before)
    return grad_x, grad_h, grad_weight_ih, grad_weight_hh, _bias_grad(grad_a), _bias_grad(grad_b)


def _run(scan, scan_in_blocks, weight_hh: np.ndarray, gates: np.ndarray, *arguments) -> None:
    """Scan the whole batch, on all threads if there is work for them."""
    steps, batch, _, _ = gates.shape
    if not gates.size:
        return
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
    shape = gates.shape[-2:]
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
