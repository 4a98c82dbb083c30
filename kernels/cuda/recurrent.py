"""LSTM and GRU over a whole sequence on the GPU, all steps in one launch where the weights fit.

The input's product for all T steps is one GEMM, and so are the weight gradients and the gradient
of x after the scan. `choose` says how the scan itself runs: `persistent`, with the weights kept
inside the SMs (recurrent_persistent.cu), or `gemm`, a GEMM and a fused cell a step (recurrent.cu,
which has a `plain` version too). Nothing is added atomically: a result is the same in every run.
GEMMs compute in the precision in force (precision.py), the persistent kernels in full float32.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cupy

from ..layout import contiguous
from ..reference.recurrent import scan, states_before
from . import reduce
from .launch import REALS, Source, blocks, ctype
from .matmul import matmul

__all__ = [
    "Version",
    "choose",
    "gru",
    "gru_grad",
    "lstm",
    "lstm_cell",
    "lstm_cell_grad",
    "lstm_grad",
    "shared_bytes",
]

CELLS = ("Lstm", "Gru")
STEPS = Source("recurrent.cu", REAL=REALS, CELL=CELLS)
PERSISTENT = Source(
    "recurrent_persistent.cu",
    variants=[
        {"REAL": real, "CELL": cell, "ROWS": rows}
        for cell in CELLS
        for real, rows in (("float", 1), ("float", 4), ("double", 1))  # 4 doubles would spill
    ],
)

# As in recurrent_persistent.cu.
_SLICES = 4
_HELD_BYTES = 64
_MOST_THREADS = 512
_WARP = 32


class Version(NamedTuple):
    """How a sequence is scanned."""

    name: str  # "plain", "gemm" or "persistent"
    rows: int = 0  # sequences of a block of the persistent kernels


def shared_bytes(hidden: int, gates: int, rows: int, itemsize: int) -> int:
    """Dynamic shared memory of a persistent block forwards; backwards it needs no more."""
    threads = _threads(hidden)
    held = _HELD_BYTES // itemsize  # units whose weights a thread has in registers
    padded = max(-(-hidden // _SLICES), held)
    states = _SLICES * padded * rows
    weights = (padded - held) * gates * threads
    partial_sums = threads * gates * rows
    return itemsize * (states + weights + partial_sums)


def choose(
    steps: int,
    batch: int,
    gates: int,
    hidden: int,
    *,
    itemsize: int,
    processors: int,
    most_shared: int,
) -> Version:
    """The fastest version that fits a GPU with so many processors and shared bytes for a block.

    A single step reads each weight only once: nothing to keep. Else one sequence a block makes the
    shortest steps, until its blocks fill the GPU; then four.
    """
    if steps == 1 or _threads(hidden) > _MOST_THREADS:
        return Version("gemm")
    at_once = processors * (_MOST_THREADS // _threads(hidden))
    for rows in (1,) if batch <= at_once or itemsize == 8 else (4, 1):
        if shared_bytes(hidden, gates, rows, itemsize) <= most_shared:
            return Version("persistent", rows)
    return Version("gemm")


def lstm_cell(
    x: cupy.ndarray,
    h: cupy.ndarray,
    c: cupy.ndarray,
    weight_ih: cupy.ndarray,
    weight_hh: cupy.ndarray,
    bias: cupy.ndarray | None = None,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """One step of an LSTM, see `reference.recurrent.lstm_cell`: two GEMMs and a fused cell."""
    gates = _project(x[None], weight_ih, 4)[0]
    h_after, c_after = cupy.empty(h.shape, h.dtype), cupy.empty(c.shape, c.dtype)
    if h.size:
        product = contiguous(matmul(h, weight_hh.T))
        arguments = gates, product, _contiguous(bias), None, contiguous(h), contiguous(c)
        _step_kernel("step", "Lstm", gates)((*arguments, h_after, c_after, *h.shape))
    return h_after, c_after, gates


def lstm_cell_grad(
    grad_h: cupy.ndarray,
    grad_c: cupy.ndarray,
    gates: cupy.ndarray,
    c_before: cupy.ndarray,
    c: cupy.ndarray,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of `lstm_cell`, see `reference.recurrent.lstm_cell_grad`."""
    grad_c, grad_z = grad_c.copy(order="C"), cupy.empty_like(gates)
    past_the_weights = cupy.zeros(c.shape, c.dtype)  # of an LSTM nothing
    if c.size:
        arguments = contiguous(grad_h), gates, contiguous(c), contiguous(c_before)
        _step_kernel("step_grad", "Lstm", gates)(
            (None, *arguments, past_the_weights, grad_c, None, grad_z, *c.shape)
        )
    return grad_z.reshape(len(c), 4 * c.shape[1]), grad_c


def lstm(
    x: cupy.ndarray,
    h0: cupy.ndarray,
    c0: cupy.ndarray,
    weight_ih: cupy.ndarray,
    weight_hh: cupy.ndarray,
    bias: cupy.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray, tuple[cupy.ndarray, ...]]:
    """Scan the LSTM cell over x, see `reference.recurrent.lstm`."""
    gates = _project(x, weight_ih, 4)
    output, cells = _scan("Lstm", gates, weight_hh, (bias, None), h0, c0, reverse)
    return output, _last(output, h0, reverse), _last(cells, c0, reverse), (gates, cells)


def lstm_grad(
    grad_output: cupy.ndarray,
    grad_h_n: cupy.ndarray,
    grad_c_n: cupy.ndarray,
    x: cupy.ndarray,
    h0: cupy.ndarray,
    c0: cupy.ndarray,
    weight_ih: cupy.ndarray,
    weight_hh: cupy.ndarray,
    output: cupy.ndarray,
    saved: tuple[cupy.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[cupy.ndarray | None, ...]:
    """Gradients of `lstm` for x (None without `need_grad_x`), h0, c0, both weights, bias."""
    gates, cells = saved
    grad_h, grad_c = grad_h_n.copy(), grad_c_n.copy()
    grad_z = cupy.empty_like(gates)
    _scan_grad(
        "Lstm", grad_output, gates, cells, cells, c0, weight_hh, grad_h, grad_c, None, grad_z,
        reverse,
    )  # fmt: skip
    grad_x = _input_grad(grad_z, weight_ih) if need_grad_x else None
    grad_weight_ih = _weight_grad(grad_z, x)
    grad_weight_hh = _weight_grad(grad_z, states_before(output, h0, reverse))
    return grad_x, grad_h, grad_c, grad_weight_ih, grad_weight_hh, _bias_grad(grad_z)


def gru(
    x: cupy.ndarray,
    h0: cupy.ndarray,
    weight_ih: cupy.ndarray,
    weight_hh: cupy.ndarray,
    bias_ih: cupy.ndarray | None = None,
    bias_hh: cupy.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[cupy.ndarray, cupy.ndarray, tuple[cupy.ndarray, ...]]:
    """Scan the GRU cell over x, see `reference.recurrent.gru`."""
    gates = _project(x, weight_ih, 3)
    output, b_n = _scan("Gru", gates, weight_hh, (bias_ih, bias_hh), h0, None, reverse)
    return output, _last(output, h0, reverse), (gates, b_n)


def gru_grad(
    grad_output: cupy.ndarray,
    grad_h_n: cupy.ndarray,
    x: cupy.ndarray,
    h0: cupy.ndarray,
    weight_ih: cupy.ndarray,
    weight_hh: cupy.ndarray,
    output: cupy.ndarray,
    saved: tuple[cupy.ndarray, ...],
    *,
    reverse: bool = False,
    need_grad_x: bool = True,
) -> tuple[cupy.ndarray | None, ...]:
    """Gradients of `gru` for x (None without `need_grad_x`), h0, both weights, both biases."""
    gates, b_n = saved
    grad_h = grad_h_n.copy()
    grad_a, grad_b = cupy.empty_like(gates), cupy.empty_like(gates)
    _scan_grad(
        "Gru", grad_output, gates, b_n, output, h0, weight_hh, grad_h, None, grad_a, grad_b,
        reverse,
    )  # fmt: skip
    grad_x = _input_grad(grad_a, weight_ih) if need_grad_x else None
    grad_weight_ih = _weight_grad(grad_a, x)
    grad_weight_hh = _weight_grad(grad_b, states_before(output, h0, reverse))
    return grad_x, grad_h, grad_weight_ih, grad_weight_hh, _bias_grad(grad_a), _bias_grad(grad_b)


def _scan(cell, gates, weight_hh, biases, h0, c0, reverse):
    """Turns the inputs' products into gates, in place. Returns the output and what is kept."""
    steps, batch, _, hidden = gates.shape
    output = cupy.empty((steps, batch, hidden), gates.dtype)
    kept = cupy.empty_like(output)
    if not output.size:
        return output, kept
    biases = [_contiguous(bias) for bias in biases]
    h, c = contiguous(h0), _contiguous(c0)
    version = _version(gates)
    if version.name == "persistent":
        arguments = contiguous(weight_hh.T), *biases, h, c, output, kept
        _launch_persistent("scan_persistent", version, cell, gates, (gates, *arguments), reverse)
        return output, kept
    weight_hh = contiguous(weight_hh)
    plain = version.name == "plain"
    step = _step_kernel("step_plain" if plain else "step", cell, gates)
    for t in scan(steps, reverse):
        factor = weight_hh if plain else contiguous(matmul(h, weight_hh.T))
        step((gates[t], factor, *biases, h, c, output[t], kept[t], batch, hidden))
        h = output[t]
        c = None if c0 is None else kept[t]
    return output, kept


def _scan_grad(
    cell, grad_output, gates, kept, states, initial, weight_hh, grad_h, grad_c, grad_a, grad_b,
    reverse,
):  # fmt: skip
    """Fills grad_a (if there is one) and grad_b, and takes grad_h and grad_c to the first step.

    `states` are those whose predecessors the cell's gradient needs: c in an LSTM, h in a GRU.
    """
    steps, batch, _, hidden = gates.shape
    if not kept.size:
        return
    grad_output, initial, states = map(contiguous, (grad_output, initial, states))
    weight_hh = contiguous(weight_hh)
    version = _version(gates)
    if version.name == "persistent":
        arguments = (
            grad_output, gates, kept, states, initial, weight_hh, grad_h, grad_c, grad_a, grad_b,
        )  # fmt: skip
        _launch_persistent("scan_grad_persistent", version, cell, gates, arguments, reverse)
        return
    plain = version.name == "plain"
    step = _step_kernel("step_grad_plain" if plain else "step_grad", cell, gates)
    order = [*scan(steps, not reverse)]
    after = None  # grad_b of the step after, as a matrix
    for t, t_before in zip(order, [*order[1:], None], strict=True):
        if plain:
            product = after, weight_hh
        else:
            product = (None if after is None else contiguous(matmul(after, weight_hh)),)
        before = initial if t_before is None else states[t_before]
        grad_a_t = None if grad_a is None else grad_a[t]
        step((
            *product, grad_output[t], gates[t], kept[t], before, grad_h, grad_c, grad_a_t,
            grad_b[t], batch, hidden,
        ))  # fmt: skip
        after = grad_b[t].reshape(batch, len(weight_hh))
    grad_h += matmul(after, weight_hh)


def _version(gates: cupy.ndarray) -> Version:
    return choose(*gates.shape, itemsize=gates.itemsize, **_limits(cupy.cuda.Device().id))


@functools.cache
def _limits(device: int) -> dict[str, int]:
    attributes = cupy.cuda.Device(device).attributes
    return {
        "processors": attributes["MultiProcessorCount"],
        "most_shared": attributes["MaxSharedMemoryPerBlockOptin"],
    }


def _contiguous(x: cupy.ndarray | None) -> cupy.ndarray | None:
    return None if x is None else contiguous(x)


def _threads(hidden: int) -> int:
    return _SLICES * blocks(hidden, _WARP) * _WARP


def _launch_persistent(name, version, cell, gates, arguments, reverse):
    steps, batch, count, hidden = gates.shape
    kernel = PERSISTENT.kernel(name, REAL=ctype(gates), CELL=cell, ROWS=version.rows)
    kernel(
        blocks(batch, version.rows),
        _threads(hidden),
        (*arguments, steps, batch, hidden, reverse),
        shared=shared_bytes(hidden, count, version.rows, gates.itemsize),
    )


def _step_kernel(name, cell, gates):
    """One step's kernel, to be called with its arguments: a thread for each element."""
    batch, _, hidden = gates.shape[-3:]
    kernel = STEPS.kernel(name, REAL=ctype(gates), CELL=cell)
    return functools.partial(kernel, blocks(batch * hidden, 256), 256)


def _project(x: cupy.ndarray, weight: cupy.ndarray, gates: int) -> cupy.ndarray:
    """weight x for all steps at once, as (T, N, gates, H)."""
    steps, batch, size = x.shape
    product = matmul(x.reshape(steps * batch, size), weight.T)  # in any order of memory
    return contiguous(product).reshape(steps, batch, gates, len(weight) // gates)


def _last(states: cupy.ndarray, initial: cupy.ndarray, reverse: bool) -> cupy.ndarray:
    """The state after the last step that the scan visits."""
    return (states[0 if reverse else -1] if len(states) else initial).copy()


def _input_grad(grad_z: cupy.ndarray, weight: cupy.ndarray) -> cupy.ndarray:
    steps, batch, gates, hidden = grad_z.shape
    product = matmul(grad_z.reshape(steps * batch, gates * hidden), weight)
    return product.reshape(steps, batch, weight.shape[1])


def _weight_grad(grad_z: cupy.ndarray, x: cupy.ndarray) -> cupy.ndarray:
    steps, batch, gates, hidden = grad_z.shape
    rows = steps * batch
    return matmul(grad_z.reshape(rows, gates * hidden).T, x.reshape(rows, x.shape[2]))


def _bias_grad(grad_z: cupy.ndarray) -> cupy.ndarray:
    return reduce.sum(grad_z, (0, 1)).reshape(-1)
