"""The two-dimensional LSTMs of PixelRNN on the GPU, all steps in one launch where the weights fit.

The order of the pixels is that of `..wavefront`; no map is skewed. `choose` says how the scan
runs: `persistent`, with weights and states kept in shared memory (scan_persistent.cu), or `gemm`,
a GEMM and a fused cell a step (scan.cu, which has a `plain` version too). The gradient of the
weight is one product over all pixels after the scan. Nothing is added atomically: a result is the
same in every run. GEMMs compute in the precision in force (precision.py), the other kernels in
full float32 or float64.
"""

from __future__ import annotations

import functools

import cupy
import numpy as np

from ..layout import contiguous, from_rows, rows
from ..wavefront import Wavefront, by_diagonals, by_rows
from . import reduce
from .launch import REALS, Source, blocks, ctype
from .matmul import matmul
from .transpose import channels_last

__all__ = [
    "choose", "diagonal_lstm", "diagonal_lstm_grad", "row_lstm", "row_lstm_grad", "shared_bytes",
]  # fmt: skip

STEPS = Source("scan.cu", REAL=REALS)
PERSISTENT = Source("scan_persistent.cu", REAL=REALS)

# As in scan_persistent.cu; a thread's lines have 16 bytes for each number of one line.
_LINES_BYTES = 16
_MOST_THREADS = 512
_WARP = 32
_THREADS = 256


def shared_bytes(order: Wavefront, hidden: int, itemsize: int) -> tuple[int, int]:
    """Dynamic shared memory of a persistent block, forwards and backwards."""
    weights = 4 * order.taps * hidden
    padded = order.lines + order.taps - 1
    forwards = weights + 2 * padded + order.lines
    backwards = weights + 4 * padded + 2 * order.lines
    return itemsize * hidden * forwards, itemsize * hidden * backwards


def choose(shared: int, most_shared: int) -> str:
    """The fastest version on a GPU that gives a block so many bytes of shared memory."""
    return "persistent" if shared <= most_shared else "gemm"


def row_lstm(
    z: cupy.ndarray,
    weight: cupy.ndarray,
    h0: cupy.ndarray | None = None,
    c0: cupy.ndarray | None = None,
) -> tuple[cupy.ndarray, tuple[cupy.ndarray, ...]]:
    """Scan the map from top to bottom, see `reference.scan.row_lstm`."""
    return _scan(z, weight, h0, c0, by_rows(*z.shape[2:], weight.shape[2]))


def row_lstm_grad(
    grad_output: cupy.ndarray,
    weight: cupy.ndarray,
    h0: cupy.ndarray | None,
    c0: cupy.ndarray | None,
    output: cupy.ndarray,
    saved: tuple[cupy.ndarray, ...],
) -> tuple[cupy.ndarray | None, ...]:
    """Gradients of `row_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    order = by_rows(*output.shape[2:], weight.shape[2])
    return _scan_grad(grad_output, weight, h0, c0, output, saved, order)


def diagonal_lstm(
    z: cupy.ndarray,
    weight: cupy.ndarray,
    h0: cupy.ndarray | None = None,
    c0: cupy.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[cupy.ndarray, tuple[cupy.ndarray, ...]]:
    """Scan the map diagonal by diagonal, see `reference.scan.diagonal_lstm`."""
    return _scan(z, weight, h0, c0, by_diagonals(*z.shape[2:], reverse))


def diagonal_lstm_grad(
    grad_output: cupy.ndarray,
    weight: cupy.ndarray,
    h0: cupy.ndarray | None,
    c0: cupy.ndarray | None,
    output: cupy.ndarray,
    saved: tuple[cupy.ndarray, ...],
    *,
    reverse: bool = False,
) -> tuple[cupy.ndarray | None, ...]:
    """Gradients of `diagonal_lstm` for z, weight, h0 and c0 (None where the state was None)."""
    order = by_diagonals(*output.shape[2:], reverse)
    return _scan_grad(grad_output, weight, h0, c0, output, saved, order)


def _scan(z, weight, h0, c0, order: Wavefront):
    n, _, height, width = z.shape
    hidden = weight.shape[1]
    gates = cupy.empty((n, height, width, 4, hidden), z.dtype)
    cells = cupy.empty((n, height, width, hidden), z.dtype)
    output = cupy.empty_like(cells)
    if output.size:
        version = choose(shared_bytes(order, hidden, z.itemsize)[0], _most_shared())
        scan = {"persistent": _forward_persistent, "gemm": _forward_gemm, "plain": _forward_plain}
        h0, c0 = _by_lines(h0), _by_lines(c0)
        scan[version](order, weight, h0, (rows(channels_last(z)), c0, gates, cells, output))
    return output.transpose(0, 3, 1, 2), (gates, cells)


def _forward_persistent(order, weight, h0, maps):
    z, c0, gates, cells, output = maps
    n, *_, hidden = output.shape
    by_gate = contiguous(weight.reshape(4, hidden, hidden, order.taps).transpose(3, 2, 1, 0))
    PERSISTENT.kernel("scan_persistent", REAL=ctype(z))(
        n, _threads(blocks(_most_active(order), _LINES_BYTES // z.itemsize) * hidden),
        (z, by_gate, h0, c0, gates, cells, output, _struct(order), hidden),
        shared=shared_bytes(order, hidden, z.itemsize)[0],
    )  # fmt: skip


def _forward_gemm(order, weight, h0, maps):
    output = maps[-1]
    n, *_, hidden = output.shape
    depth = order.taps * hidden
    packed = contiguous(weight.transpose(2, 1, 0)).reshape(depth, 4 * hidden)
    windows = _first_windows(order, h0, n, packed).reshape(order.lines * n, depth)
    for t in range(order.steps()):
        begin, end = order.active(t)
        product = matmul(windows[begin * n : end * n], packed)
        _step("step", order, t, end - begin, output, (product, *maps, windows))


def _forward_plain(order, weight, h0, maps):
    z, c0, gates, cells, output = maps
    packed = contiguous(weight.transpose(2, 1, 0))
    for t in range(order.steps()):
        begin, end = order.active(t)
        arguments = z, packed, h0, c0, gates, cells, output
        _step("step_plain", order, t, end - begin, output, arguments)


def _first_windows(order, h0, n, like):
    """What the lines show each other before any of them starts: (lines, N, taps, h)."""
    hidden = like.shape[1] // 4
    windows = cupy.zeros((order.lines, n, order.taps, hidden), like.dtype)
    if h0 is not None:
        for tap in range(order.taps):
            shift = tap - order.reach
            first = max(0, -shift)
            last = max(first, min(order.lines, order.lines - shift))
            windows[first:last, :, tap] = h0[first + shift : last + shift, None]
    return windows


def _scan_grad(grad_output, weight, h0, c0, output, saved, order: Wavefront):
    gates, cells = saved
    n, height, width, _, hidden = gates.shape
    grad_z = cupy.empty_like(gates)
    grad_h0 = cupy.zeros((order.lines, n, hidden), gates.dtype)
    grad_c0 = cupy.zeros_like(grad_h0)
    if cells.size:
        version = choose(shared_bytes(order, hidden, gates.itemsize)[1], _most_shared())
        scan = {
            "persistent": _backward_persistent, "gemm": _backward_gemm, "plain": _backward_plain,
        }  # fmt: skip
        grad_output = rows(channels_last(grad_output))
        grads = grad_h0, grad_c0, grad_z
        scan[version](order, weight, (grad_output, _by_lines(c0), gates, cells, *grads))
    grad_rows = grad_z.reshape(n * height * width, 4 * hidden)
    windows = _windows(order, rows(channels_last(output)), _by_lines(h0), cells)
    grad_weight = matmul(grad_rows.T, windows).reshape(4 * hidden, order.taps, hidden)
    return (
        from_rows(grad_rows, (n, 4 * hidden, height, width)),
        grad_weight.transpose(0, 2, 1),
        None if h0 is None else reduce.sum(grad_h0, (1,)).T,
        None if c0 is None else reduce.sum(grad_c0, (1,)).T,
    )


def _backward_persistent(order, weight, maps):
    grad_output, c0, gates, cells, *grads = maps
    n, *_, hidden = cells.shape
    by_gate = weight.reshape(4, hidden, hidden, order.taps)[..., ::-1].transpose(3, 1, 2, 0)
    PERSISTENT.kernel("scan_grad_persistent", REAL=ctype(gates))(
        n, _threads(_most_active(order) * hidden),
        (grad_output, contiguous(by_gate), c0, gates, cells, *grads, _struct(order), n, hidden),
        shared=shared_bytes(order, hidden, gates.itemsize)[1],
    )  # fmt: skip


def _backward_gemm(order, weight, maps):
    *inputs, grad_h0, grad_c0, grad_z = maps
    cells = inputs[-1]
    n, *_, hidden = cells.shape
    packed = _packed_for_grad(weight)
    most = cupy.empty((_most_active(order) * n, 4 * hidden), cells.dtype)
    grad_windows = None
    for t in range(order.steps() - 1, -2, -1):
        begin, end = order.active(t) if t >= 0 else (0, 0)
        grad_a = most[: (end - begin) * n]
        arguments = grad_windows, *inputs, grad_h0, grad_c0, grad_a, grad_z
        _step("step_grad", order, t, _with_next(order, t), cells, arguments)
        grad_windows = matmul(grad_a, packed) if t >= 0 else None


def _backward_plain(order, weight, maps):
    grad_output, *others = maps
    packed = _packed_for_grad(weight)
    for t in range(order.steps() - 1, -2, -1):
        arguments = grad_output, packed, *others
        _step("step_grad_plain", order, t, _with_next(order, t), maps[3], arguments)


def _packed_for_grad(weight: cupy.ndarray) -> cupy.ndarray:
    """The weight as (4h, taps · h)."""
    return contiguous(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def _windows(order, output, h0, cells):
    """The windows of hidden states that each pixel has read, (N · H · W, taps · h)."""
    n, height, width, hidden = cells.shape
    out = cupy.empty((n * height * width, order.taps * hidden), cells.dtype)
    STEPS.kernel("windows", REAL=ctype(cells))(
        blocks(out.size, _THREADS), _THREADS, (output, h0, out, _struct(order), n, hidden)
    )
    return out


def _with_next(order: Wavefront, t: int) -> int:
    """How many lines are active in step t >= -1, or start in the step after."""
    if order.delay == 0:
        return order.lines
    return min(order.lines, t + 2) - max(0, t - order.length + 1)


def _step(name, order, t, lines, states, arguments):
    """Launch a step's kernel, a thread for each unit of so many lines; states (N, H, W, h)."""
    n, *_, hidden = states.shape
    kernel = STEPS.kernel(name, REAL=ctype(states))
    grid = blocks(lines * n * hidden, _THREADS)
    kernel(grid, _THREADS, (*arguments, _struct(order), t, n, hidden))


def _most_active(order: Wavefront) -> int:
    return min(order.lines, order.length) if order.delay else order.lines


def _threads(units: int) -> int:
    return min(_MOST_THREADS, blocks(units, _WARP) * _WARP)


def _struct(order: Wavefront) -> np.ndarray:
    """The bytes of the struct in wavefront.cuh."""
    return np.array(order, np.int32)


def _by_lines(initial: cupy.ndarray | None) -> cupy.ndarray | None:
    """Initial states (h, lines) as (lines, h)."""
    return None if initial is None else contiguous(initial.T)


def _most_shared() -> int:
    return _limit(cupy.cuda.Device().id)


@functools.cache
def _limit(device: int) -> int:
    return cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
