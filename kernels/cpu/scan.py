"""The two-dimensional LSTMs of PixelRNN: one kernel for the scans of all images.

The images of a batch are independent, so each thread takes a few of them through all steps. What
a step needs of the maps is copied into the rows of small matrices that stay in the cache, a row
for each pixel of the wavefront (`..wavefront`): the windows of hidden states (rows, taps · h)
times the weight (taps · h, 4h) are added to z, and the fused cell of `recurrent` follows. The
gradient of the weight is one product over all pixels after the scan.

FLOPs: 8 taps h² N H W forward, twice that again for the gradients of h and of the weight.
"""

from __future__ import annotations

import numpy as np

from ..layout import from_rows, rows
from ..wavefront import Wavefront, by_diagonals, by_rows
from .blas import gemm, gemm_address, one_thread
from .jit import kernel, prange, serial_kernel
from .matmul import matmul
from .recurrent import _lstm_cell, _lstm_cell_grad

__all__ = ["diagonal_lstm", "diagonal_lstm_grad", "row_lstm", "row_lstm_grad"]

ROWS = 192
"""Rows of a step's product at most: BLAS copies the weight for each, so that few rows are slow."""

SERIAL = 1 << 20
"""Multiplications in the scan up to which waking the threads (about 12 µs) does not pay."""


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
    pixels = height * width
    gates = np.empty((n, pixels, 4 * hidden), z.dtype)
    cells = np.empty((n, pixels, hidden), z.dtype)
    output = np.empty_like(cells)
    packed = np.ascontiguousarray(weight.transpose(2, 1, 0)).reshape(-1, 4 * hidden)
    _run(
        _block, _blocks, order, packed, rows(z).reshape(gates.shape),
        _by_lines(h0, order, weight), _by_lines(c0, order, weight), gates, cells, output,
    )  # fmt: skip
    saved = gates.reshape(n, height, width, 4, hidden), cells.reshape(n, height, width, hidden)
    return from_rows(output, (n, hidden, height, width)), saved


def _scan_grad(grad_output, weight, h0, c0, output, saved, order: Wavefront):
    n, hidden, height, width = output.shape
    pixels, window = height * width, order.taps * hidden
    gates, cells = saved[0].reshape(n, pixels, 4 * hidden), saved[1].reshape(n, pixels, hidden)
    grad_z = np.empty_like(gates)
    grad_h0 = np.zeros((n, order.lines, hidden), gates.dtype)
    grad_c0 = np.zeros_like(grad_h0)
    packed = np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(4 * hidden, window)
    _run(
        _block_grad, _block_grads, order, packed, rows(grad_output).reshape(cells.shape),
        _by_lines(c0, order, weight), gates, cells, grad_h0, grad_c0, grad_z,
    )  # fmt: skip
    windows = np.empty((n, pixels, window), gates.dtype)
    _windows(order, rows(output).reshape(cells.shape), _by_lines(h0, order, weight), windows)
    grad_rows = grad_z.reshape(n * pixels, 4 * hidden)
    grad_weight = matmul(grad_rows.T, windows.reshape(n * pixels, window))
    return (
        from_rows(grad_rows, (n, 4 * hidden, height, width)),
        grad_weight.reshape(4 * hidden, order.taps, hidden).transpose(0, 2, 1),
        None if h0 is None else grad_h0.sum(axis=0).T,
        None if c0 is None else grad_c0.sum(axis=0).T,
    )


def _run(scan, scan_in_blocks, order: Wavefront, weight: np.ndarray, *maps: np.ndarray) -> None:
    """Scan the whole batch, on all threads if there is work for them."""
    batch, pixels, _ = maps[0].shape
    # Fixed by the shapes and not by the threads, so that the result is too.
    images = max(1, min(ROWS // max(1, order.lines), -(-batch // 4)))
    arguments = (gemm_address(weight.dtype), order, weight, *maps)
    with one_thread():
        if batch > images and batch * pixels * weight.size > SERIAL:
            scan_in_blocks(images, *arguments)
        else:
            scan(*arguments)


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
def _gather(order, t, source, target):
    """Copy the pixels of step t from a map (images, pixels, channels) into consecutive rows."""
    lo, hi = _active(order, t)
    row = 0
    for image in range(len(source)):
        for line in range(lo, hi):
            pixel = _pixel(order, t, line)
            for j in range(target.shape[1]):
                target[row, j] = source[image, pixel, j]
            row += 1


@serial_kernel
def _scatter(order, t, source, target):
    """The inverse of `_gather`: from consecutive rows into a map."""
    lo, hi = _active(order, t)
    row = 0
    for image in range(len(target)):
        for line in range(lo, hi):
            pixel = _pixel(order, t, line)
            for j in range(source.shape[1]):
                target[image, pixel, j] = source[row, j]
            row += 1


@serial_kernel
def _gather_before(order, t, taps, reach, source, initial, target):
    """Copy what the lines - reach ... taps - reach - 1 beside each active line held before step t:
    the pixel of step t - 1 or, where the line had not started, its initial state."""
    lo, hi = _active(order, t)
    width = source.shape[2]
    row = 0
    for image in range(len(source)):
        for line in range(lo, hi):
            for tap in range(taps):
                other, start = line - reach + tap, tap * width
                if other < 0 or other >= order.lines:
                    for j in range(width):
                        target[row, start + j] = 0
                elif t - 1 < order.delay * other:
                    for j in range(width):
                        target[row, start + j] = initial[other, j]
                else:
                    pixel = _pixel(order, t - 1, other)
                    for j in range(width):
                        target[row, start + j] = source[image, pixel, j]
            row += 1


@serial_kernel
def _add_windows(order, lo, windows, lines):
    """Set the gradients of the lines that are in a window to the sum over all windows."""
    hidden = lines.shape[1]
    lo -= order.reach
    lines[max(0, lo) : lo + len(windows) + order.taps - 1] = 0
    for row in range(len(windows)):
        for tap in range(order.taps):
            line = lo + row + tap
            if 0 <= line < order.lines:
                for j in range(hidden):
                    lines[line, j] += windows[row, tap * hidden + j]


@serial_kernel
def _multiply(address, a, b, accumulate, out):
    """out = a @ b, or out += with `accumulate`."""
    (m, k), n = a.shape, b.shape[1]
    gemm(
        address, m, n, k, a.ctypes.data, k, False, b.ctypes.data, n, False,
        out.dtype.type(accumulate), out.ctypes.data, n,
    )  # fmt: skip


@serial_kernel
def _block(address, order, weight, z, h0, c0, gates, cells, output):
    """Scan a few images, step by step together. Maps are (images, pixels, channels)."""
    most = len(z) * order.lines
    window, channels = weight.shape
    hidden = channels // 4
    a, h_before = np.empty((most, channels), z.dtype), np.empty((most, window), z.dtype)
    c_before = np.empty((most, hidden), z.dtype)
    c, h = np.empty_like(c_before), np.empty_like(c_before)
    no_bias = np.zeros((4, hidden), z.dtype)
    for t in range(_steps(order)):
        lo, hi = _active(order, t)
        count = len(z) * (hi - lo)
        _gather(order, t, z, a)
        _gather_before(order, t, order.taps, order.reach, output, h0, h_before)
        _gather_before(order, t, 1, 0, cells, c0, c_before)
        _multiply(address, h_before[:count], weight, True, a[:count])
        _lstm_cell(a[:count].reshape(count, 4, hidden), no_bias, c_before, c, h)
        _scatter(order, t, a, gates)
        _scatter(order, t, c, cells)
        _scatter(order, t, h, output)


@kernel
def _blocks(images, address, order, weight, z, h0, c0, gates, cells, output):
    for block in prange(-(-len(z) // images)):
        part = slice(block * images, (block + 1) * images)
        _block(
            address, order, weight, z[part], h0, c0, gates[part], cells[part], output[part]
        )  # fmt: skip


@serial_kernel
def _block_grad(address, order, weight, grad_output, c0, gates, cells, grad_h0, grad_c0, grad_z):
    """Gradients of a few images. In `grad_h0` and `grad_c0` (images, lines, h) those of all states
    of the lines come by; in the end they are the initial states'."""
    most = len(grad_output) * order.lines
    channels, window = weight.shape
    hidden = channels // 4
    a, grad_a = np.empty((most, channels), gates.dtype), np.empty((most, channels), gates.dtype)
    grad_window = np.empty((most, window), gates.dtype)
    grad = np.empty((most, hidden), gates.dtype)
    c, c_before = np.empty_like(grad), np.empty_like(grad)
    grad_h, grad_c = np.empty_like(grad), np.empty_like(grad)
    for t in range(_steps(order) - 1, -1, -1):
        lo, hi = _active(order, t)
        lines = hi - lo
        count = len(grad_output) * lines
        _gather(order, t, grad_output, grad)
        _gather(order, t, gates, a)
        _gather(order, t, cells, c)
        _gather_before(order, t, 1, 0, cells, c0, c_before)
        for image in range(len(grad_output)):
            grad_h[image * lines : (image + 1) * lines] = grad_h0[image, lo:hi]
            grad_c[image * lines : (image + 1) * lines] = grad_c0[image, lo:hi]
        _lstm_cell_grad(
            grad, grad_h, grad_c, a[:count].reshape(count, 4, hidden), c_before, c,
            grad_a[:count].reshape(count, 4, hidden),
        )  # fmt: skip
        _multiply(address, grad_a[:count], weight, False, grad_window[:count])
        for image in range(len(grad_output)):
            grad_c0[image, lo:hi] = grad_c[image * lines : (image + 1) * lines]
            windows = grad_window[image * lines : (image + 1) * lines]
            _add_windows(order, lo, windows, grad_h0[image])
        _scatter(order, t, grad_a, grad_z)


@kernel
def _block_grads(
    images, address, order, weight, grad_output, c0, gates, cells, grad_h0, grad_c0, grad_z
):
    for block in prange(-(-len(gates) // images)):
        part = slice(block * images, (block + 1) * images)
        _block_grad(
            address, order, weight, grad_output[part], c0, gates[part], cells[part],
            grad_h0[part], grad_c0[part], grad_z[part],
        )  # fmt: skip


@kernel
def _windows(order, output, h0, windows):
    """The window of hidden states that each pixel has read, (images, pixels, taps · h)."""
    for image in prange(len(output)):
        part = slice(image, image + 1)
        one_step = np.empty((order.lines, windows.shape[2]), output.dtype)
        for t in range(_steps(order)):
            _gather_before(order, t, order.taps, order.reach, output[part], h0, one_step)
            _scatter(order, t, one_step, windows[part])
