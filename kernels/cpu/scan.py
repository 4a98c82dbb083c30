"""The two-dimensional LSTMs of PixelRNN: one kernel for the scans of all images.

The images of a batch are independent, so each thread takes some of them through all steps. What
the lines of an image have reached (`..wavefront`) lies in small arrays that stay in the cache: the
windows of hidden states are read there as they lie (`tile.product`), z in the map, and no window
is ever copied. Gates and cells are kept in the order of the scan, step by step and each gate by
itself, so that all lines of a step are one long loop.

The gradient of the weight is that of a convolution over the finished map of states.

FLOPs: 8 taps h² N H W forward, twice that again for the gradients of h and of the weight.
"""

from __future__ import annotations

import numpy as np

from ..layout import from_rows, rows
from ..wavefront import Wavefront, by_diagonals, by_rows
from .jit import kernel, prange, serial_kernel
from .masked_conv import masked_conv2d_weight_grad
from .math import sigmoid, tanh
from .runs import copy, fill
from .tile import COLUMNS, panels, product

__all__ = ["diagonal_lstm", "diagonal_lstm_grad", "row_lstm", "row_lstm_grad"]

SERIAL = 1 << 20
"""Multiplications in the scan up to which calling the threads (about 12 µs) does not pay."""


def row_lstm(
    z: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the map from top to bottom, see `reference.scan.row_lstm`."""
    return _scan(z, weight, h0, c0, by_rows(*z.shape[2:], weight.shape[2]))


def row_lstm_grad(
    grad_output: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `row_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    order = by_rows(*output.shape[2:], weight.shape[2])
    return _scan_grad(grad_output, weight, h0, c0, output, saved, order)


def diagonal_lstm(
    z: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Scan the map diagonal by diagonal, see `reference.scan.diagonal_lstm`."""
    return _scan(z, weight, h0, c0, by_diagonals(*z.shape[2:], reverse))


def diagonal_lstm_grad(
    grad_output: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    output: np.ndarray,
    saved: tuple[np.ndarray, ...],
    *,
    reverse: bool = False,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of `diagonal_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    order = by_diagonals(*output.shape[2:], reverse)
    return _scan_grad(grad_output, weight, h0, c0, output, saved, order)


def _scan(z, weight, h0, c0, order: Wavefront):
    n, _, height, width = z.shape
    hidden = weight.shape[1]
    output = np.empty((n, height * width, hidden), z.dtype)
    gates = np.empty((n, height * width * 4 * hidden), z.dtype)
    cells = np.empty_like(output)
    by_gates = weight.transpose(2, 1, 0).reshape(order.taps * hidden, 4, hidden)
    packed = np.stack([panels(by_gates[:, gate]) for gate in range(4)])
    _run(
        _scans, _scans_in_parallel, n, order, packed, _line_rows(order, hidden),
        np.array([[0, order.taps * hidden]]), rows(z), _by_lines(h0, order, weight),
        _by_lines(c0, order, weight), gates, cells, output,
    )  # fmt: skip
    return from_rows(output, (n, hidden, height, width)), (gates, cells)


def _scan_grad(grad_output, weight, h0, c0, output, saved, order: Wavefront):
    n, hidden, height, width = output.shape
    gates, cells = saved
    grad_z = np.empty((n, height * width, 4 * hidden), gates.dtype)
    grad_h0 = np.zeros((n, order.lines, hidden), gates.dtype)
    grad_c0 = np.zeros_like(grad_h0)
    # A state's readers, from the first line to the last, read it by the last tap to the first.
    by_gates = weight.reshape(4, hidden, hidden, order.taps)[..., ::-1].transpose(0, 3, 1, 2)
    window = order.taps * hidden
    gate = (order.lines + order.taps - 1) * hidden
    _run(
        _scan_grads, _scan_grads_in_parallel, n, order, panels(by_gates.reshape(-1, hidden)),
        _line_rows(order, hidden), np.array([[g * gate, window] for g in range(4)]),
        rows(grad_output), _by_lines(c0, order, weight), gates, cells, grad_h0, grad_c0, grad_z,
    )  # fmt: skip
    grad_z = from_rows(grad_z, (n, 4 * hidden, height, width))
    return (
        grad_z,
        _weight_grad(grad_z, output, _by_lines(h0, order, weight), order),
        None if h0 is None else grad_h0.sum(axis=0).T,
        None if c0 is None else grad_c0.sum(axis=0).T,
    )


def _weight_grad(grad_z, output, h0, order: Wavefront):
    """As of a convolution over the states, which begins with the initial ones beside the map."""
    n, hidden, height, width = output.shape
    states, nearby = output.transpose(0, 2, 3, 1), order.taps // 2
    if order.delay == 0:
        framed = np.zeros((n, height + 1, width + 2 * nearby, hidden), output.dtype)
        inner = framed[:, :, nearby : nearby + width]
        inner[:, 0], inner[:, 1:] = h0, states
        taps, kernel_size = [(0, tap) for tap in range(order.taps)], (2, order.taps)
    else:
        framed = np.zeros((n, height + 1, width + 1, hidden), output.dtype)
        above, behind = (0, 1) if order.step < 0 else (1, 0)
        framed[:, 1:, width if behind else 0] = h0
        framed[:, 1:, above : above + width] = states
        taps, kernel_size = [(0, above), (1, behind)], (2, 2)
    return masked_conv2d_weight_grad(
        framed.transpose(0, 3, 1, 2), grad_z,
        taps=tuple(taps), kernel_size=kernel_size, padding=(0, 0),
    )  # fmt: skip


def _run(scans, scans_in_parallel, n: int, order: Wavefront, weight, *arguments) -> None:
    """Scan all n images, on all threads if there is work for them."""
    if n * order.lines * order.length * weight.size > SERIAL:
        scans_in_parallel(n, order, weight, *arguments)
    else:
        scans(0, n, order, weight, *arguments)


def _line_rows(order: Wavefront, hidden: int) -> np.ndarray:
    """Where the window of each line begins."""
    return np.arange(order.lines) * hidden


def _by_lines(initial: np.ndarray | None, order: Wavefront, like: np.ndarray) -> np.ndarray:
    """The initial states as (lines, h)."""
    if initial is None:
        return np.zeros((order.lines, like.shape[1]), like.dtype)
    return np.ascontiguousarray(initial.T)


# Compiled kernels stay on disk as they are if wavefront.py alone changes: clear the cache then.
_steps = serial_kernel(Wavefront.steps)
_active = serial_kernel(Wavefront.active)
_pixel = serial_kernel(Wavefront.pixel)


@serial_kernel
def _scans(first, last, order, weight, lines, window, z, h0, c0, gates, cells, output):
    """Scan some images. z (pixels of all images, 4h), output (images, pixels, h).

    gates and cells lie as the scan goes: for each step (4, active lines, h) and (active lines, h).
    """
    hidden = h0.shape[1]
    size = order.length * order.lines * hidden
    panel = weight.shape[2] * COLUMNS
    weight, z, output = weight.reshape(-1), z.reshape(-1), output.reshape(-1)
    gates, cells = gates.reshape(-1), cells.reshape(-1)
    initial_h, c0 = h0.reshape(-1), c0.reshape(-1)
    # What the lines have reached. Beside the map there are lines of zeros.
    h = np.zeros((order.lines + order.taps - 1) * hidden, z.dtype)
    inner = order.reach * hidden
    c = np.empty(order.lines * hidden, z.dtype)
    for image in range(first, last):
        copy(h, inner, initial_h, 0, len(c))
        copy(c, 0, c0, 0, len(c))
        at = image * size
        for t in range(_steps(order)):
            lo, hi = _active(order, t)
            start, count = lo * hidden, (hi - lo) * hidden
            pixel = image * order.length * order.lines + _pixel(order, t, lo)
            for gate in range(4):
                for j in range(0, hidden, COLUMNS):
                    product(
                        h, start, lines, hi - lo, window, 1, 1,
                        weight, (gate * (-(-hidden // COLUMNS)) + j // COLUMNS) * panel, COLUMNS,
                        z, (4 * pixel + gate) * hidden + j, 4 * order.line * hidden,
                        gates, 4 * at + gate * count + j, hidden, min(COLUMNS, hidden - j),
                    )  # fmt: skip
            _cells(
                gates[4 * at : 4 * (at + count)], c[start : start + count],
                h[inner + start : inner + start + count],
            )  # fmt: skip
            copy(cells, at, c, start, count)
            for line in range(hi - lo):
                place = (pixel + line * order.line) * hidden
                copy(output, place, h, inner + start + line * hidden, hidden)
            at += count


@kernel
def _scans_in_parallel(n, order, weight, lines, window, z, h0, c0, gates, cells, output):
    for image in prange(n):
        _scans(
            image, image + 1, order, weight, lines, window, z, h0, c0, gates, cells, output
        )  # fmt: skip


@serial_kernel
def _cells(gates, c, h):
    """The LSTM's cell for a step: (4, n) gates, i, f, g, o, from their inputs, and n cells.

    Short loops over few arrays, since LLVM must test each pair of them for overlapping.
    """
    n = len(c)
    i, f, g, o = gates[:n], gates[n : 2 * n], gates[2 * n : 3 * n], gates[3 * n :]
    for j in range(2 * n):
        gates[j] = sigmoid(gates[j])
    for j in range(n):
        g[j] = tanh(g[j])
    for j in range(n):
        o[j] = sigmoid(o[j])
    for j in range(n):
        c[j] = f[j] * c[j] + i[j] * g[j]
    for j in range(n):
        h[j] = o[j] * tanh(c[j])


@serial_kernel
def _scan_grads(
    first, last, order, weight, lines, readers, grad_output, c0, gates, cells,
    grad_h0, grad_c0, grad_z,
):  # fmt: skip
    """Gradients of some images. In `grad_h0` and `grad_c0` (images, lines, h) those of all states
    of the lines come by; in the end they are the initial states'."""
    hidden = c0.shape[1]
    size = order.length * order.lines * hidden
    weight, grad_output, grad_z = weight.reshape(-1), grad_output.reshape(-1), grad_z.reshape(-1)
    gates, cells, c0 = gates.reshape(-1), cells.reshape(-1), c0.reshape(-1)
    grad_h0, grad_c0 = grad_h0.reshape(-1), grad_c0.reshape(-1)
    # The gradient of each gate's input (4, lines, h), of the active lines; 0 beside them.
    width = (order.lines + order.taps - 1) * hidden
    inner = (order.taps - 1 - order.reach) * hidden
    grad_a = np.empty(4 * width, gates.dtype)
    c_before = np.empty(order.lines * hidden, gates.dtype)
    zeros, tanh_c = np.zeros(COLUMNS, gates.dtype), np.empty_like(c_before)
    for image in range(first, last):
        grad_a[:] = 0
        state = image * order.lines * hidden
        at = (image + 1) * size
        for t in range(_steps(order) - 1, -1, -1):
            lo, hi = _active(order, t)
            start, count = lo * hidden, (hi - lo) * hidden
            at -= count
            _cells_before(order, t, at, cells, c0, c_before)
            pixel = image * order.length * order.lines + _pixel(order, t, lo)
            for line in range(hi - lo):
                _add(
                    grad_h0, state + start + line * hidden,
                    grad_output, (pixel + line * order.line) * hidden, hidden,
                )  # fmt: skip
            _cell_grads(
                gates[4 * at : 4 * (at + count)], cells[at : at + count],
                c_before[start : start + count], tanh_c,
                grad_h0[state + start : state + start + count],
                grad_c0[state + start : state + start + count],
                grad_a[inner + start :], width,
            )  # fmt: skip
            for line in range(hi - lo):
                place = 4 * (pixel + line * order.line) * hidden
                for gate in range(4):
                    source = gate * width + inner + start + line * hidden
                    copy(grad_z, place + gate * hidden, grad_a, source, hidden)
            # To the states of step t - 1 that the active lines have read.
            low = max(0, lo - order.reach)
            high = min(order.lines, hi + order.taps - 1 - order.reach)
            if order.delay and hi < order.lines:  # a line that the step after has left there
                for gate in range(4):
                    fill(grad_a, gate * width + inner + hi * hidden, hidden, 0)
            for j in range(0, hidden, COLUMNS):
                product(
                    grad_a, low * hidden, lines, high - low, readers, 4, 1,
                    weight, 4 * order.taps * hidden * j, COLUMNS, zeros, 0, 0,
                    grad_h0, state + low * hidden + j, hidden, min(COLUMNS, hidden - j),
                )  # fmt: skip


@kernel
def _scan_grads_in_parallel(
    n, order, weight, lines, readers, grad_output, c0, gates, cells, grad_h0, grad_c0, grad_z
):
    for image in prange(n):
        _scan_grads(
            image, image + 1, order, weight, lines, readers, grad_output, c0, gates, cells,
            grad_h0, grad_c0, grad_z,
        )  # fmt: skip


@serial_kernel
def _cells_before(order, t, at, cells, c0, target):
    """What the cells of the lines held before step t, whose own cells begin at `at`."""
    hidden = len(c0) // max(1, order.lines)
    lo, hi = _active(order, t)
    started = hi if order.delay == 0 and t > 0 else min(hi, order.delay * t)
    if lo < started:
        _, end = _active(order, t - 1)
        before = at - (end - lo) * hidden
        copy(target, lo * hidden, cells, before, (started - lo) * hidden)
    copy(target, started * hidden, c0, started * hidden, (hi - started) * hidden)


@serial_kernel
def _cell_grads(gates, c, c_before, tanh_c, grad_h, grad_c, grad_a, width):
    """Gradients of the gates' inputs, `width` apart; grad_c moves on to the cells before."""
    n = len(c)
    one = gates.dtype.type(1)
    i, f, g, o = gates[:n], gates[n : 2 * n], gates[2 * n : 3 * n], gates[3 * n :]
    grad_i, grad_f = grad_a[:n], grad_a[width : width + n]
    grad_g, grad_o = grad_a[2 * width : 2 * width + n], grad_a[3 * width : 3 * width + n]
    for j in range(n):
        tanh_c[j] = tanh(c[j])
    for j in range(n):
        grad_c[j] += grad_h[j] * o[j] * (one - tanh_c[j] * tanh_c[j])
    for j in range(n):
        grad_o[j] = grad_h[j] * tanh_c[j] * o[j] * (one - o[j])
    for j in range(n):
        grad_i[j] = grad_c[j] * g[j] * i[j] * (one - i[j])
    for j in range(n):
        grad_f[j] = grad_c[j] * c_before[j] * f[j] * (one - f[j])
    for j in range(n):
        grad_g[j] = grad_c[j] * i[j] * (one - g[j] * g[j])
    for j in range(n):
        grad_c[j] *= f[j]


@serial_kernel
def _add(target, at, source, start, count):
    for j in range(count):
        target[np.uintp(at + j)] += source[np.uintp(start + j)]
