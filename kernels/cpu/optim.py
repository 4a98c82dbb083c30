"""Optimizer steps over all parameters in one launch; every number is read and written once.

A step that calls a kernel per array spends its time on the calls. Here one kernel walks all
arrays: it reads their addresses from a table and takes tasks of at most `CHUNK` elements, so that
a bias of 64 elements and a weight of four million share the threads fairly. The table is built
once, a step only renews the gradients' addresses. The equations are those of `reference.optim`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from numba.np.unsafe.ndarray import to_fixed_tuple

from ..layout import dense, dense_like

# One in-place product per array already runs at the speed of memory.
from ..reference.optim import scale_
from .jit import CHUNK, kernel, prange, serial_kernel

__all__ = [
    "Pack",
    "adam_step",
    "adamax_step",
    "clip_norm_",
    "ema_step",
    "global_norm",
    "pack",
    "rmsprop_step",
    "scale_",
    "sgd_step",
]

Arrays = Sequence[np.ndarray]

# Waking the threads takes about 10 µs, in which one thread does Adam for this many elements.
_SERIAL = 2 * CHUNK


class Pack:
    """Lists of arrays that a step walks together, and the table of their addresses.

    `lists[0]` are the parameters, the other lists their state. All arrays have one dtype and are
    dense (C order, channels-last or another permutation), and state lies in memory in the order of
    its parameter, so that a step can walk all of them as flat memory. A `Pack` keeps its arrays
    alive, and with them the addresses.
    """

    def __init__(self, *lists: Arrays) -> None:
        params = lists[0]
        self.lists = lists
        self.dtype = params[0].dtype if params else np.dtype(np.float32)
        self.size = sum(p.size for p in params)
        self.layouts = [(p.dtype, p.shape, p.strides) for p in params]
        # Row 0 is for the gradients, which are new arrays at every step.
        self.table = np.zeros((1 + len(lists), len(params)), np.uint64)
        for row, arrays in enumerate(lists, start=1):
            for a, p in zip(arrays, params, strict=True):
                self._check(a, p)
            self.table[row] = [_address(a) for a in arrays]
        tasks = [
            (i, start, min(CHUNK, p.size - start))
            for i, p in enumerate(params)
            for start in range(0, p.size, CHUNK)
        ]
        self.chunks = np.array(tasks, np.int64).reshape(-1, 3)

    def _check(self, a: np.ndarray, p: np.ndarray) -> None:
        if a.dtype != self.dtype or a.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"pack: got arrays of {self.dtype} and {a.dtype}, expected all float32 or all"
                " float64; make a pack for each dtype"
            )
        if a.shape != p.shape:
            raise ValueError(f"pack: state has shape {a.shape}, its parameter {p.shape}")
        if not (a.flags.behaved and dense(a) is a and dense_like(a, p) is a):
            raise ValueError(
                f"pack: array of shape {a.shape}, strides {a.strides} is not writeable dense"
                f" memory in the order of its parameter, strides {p.strides};"
                " make it with zeros_like(parameter)"
            )

    def load(self, grads: Arrays) -> Arrays:
        """Enter the gradients' addresses; the arrays returned must live until the step is done."""
        ready = [
            g if (g.dtype, g.shape, g.strides) == layout else _laid_out_as(p, g)
            for g, layout, p in zip(grads, self.layouts, self.lists[0], strict=True)
        ]
        self.table[0] = [_address(g) for g in ready]
        return ready

    def run(self, one_thread: Callable, all_threads: Callable, *arguments: np.ndarray) -> None:
        """Run one of a step's two forms over all chunks, whichever is faster at this size."""
        if self.size <= _SERIAL:
            one_thread(self.table, self.chunks, 0, len(self.chunks), *arguments)
        else:
            all_threads(self.table, self.chunks, *arguments)


def pack(*lists: Arrays) -> Pack:
    """Lists of arrays that a step walks together: parameters first, then the state it keeps."""
    return Pack(*lists)


def sgd_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Gradient descent on `pack(params)`, or with momentum on `pack(params, velocities)`."""
    grads = pack.load(grads)
    # The update is weight_g g + weight_u u: (0, 1), or (1, momentum) if Nesterov.
    weight_g, weight_u = (1, momentum) if nesterov else (0, 1)
    settings = np.array((lr, momentum, weight_g, weight_u, weight_decay), pack.dtype)
    pack.run(_sgd, _sgd_parallel, settings)


def rmsprop_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps_inside_root: bool = False,
) -> None:
    """RMSProp on `pack(params, square_avgs)`, or with momentum on `pack(..., velocities)`."""
    grads = pack.load(grads)
    settings = np.array(
        (lr, alpha, 1 - alpha, *_split(eps, eps_inside_root), momentum, weight_decay), pack.dtype
    )
    pack.run(_rmsprop, _rmsprop_parallel, settings)


def adam_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    eps_inside_root: bool = False,
    step: int,
) -> None:
    """Adam, or AdamW if `decoupled`, on `pack(params, exp_avgs, exp_avg_sqs)`; step = 1, 2, ..."""
    grads = pack.load(grads)
    # Powers and differences from one are taken here, in double precision.
    settings = np.array(
        (
            lr / (1 - beta1**step),
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            1 / (1 - beta2**step),
            *_split(eps, eps_inside_root),
            1 - lr * weight_decay if decoupled else 1,
            0 if decoupled else weight_decay,
        ),
        pack.dtype,
    )
    pack.run(_adam, _adam_parallel, settings)


def adamax_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    step: int,
) -> None:
    """Adamax on `pack(params, exp_avgs, exp_infs)`; step = 1, 2, ..."""
    grads = pack.load(grads)
    settings = np.array(
        (lr / (1 - beta1**step), beta1, 1 - beta1, beta2, eps, weight_decay), pack.dtype
    )
    pack.run(_adamax, _adamax_parallel, settings)


def ema_step(pack: Pack, decay: float, *, updates: float = math.inf) -> None:
    """Exponential moving average on `pack(averages, params)`: a ← d a + (1 - d) p.

    d = min(decay, (1 + t) / (10 + t)) after t = `updates` of them, see `reference.optim`.
    """
    rest = max(1 - decay, 9 / (10 + updates))  # 1 - d
    pack.run(_ema, _ema_parallel, np.array([rest], pack.dtype))


def global_norm(arrays: Arrays) -> float:
    """Euclidean norm of all arrays taken as one vector, accumulated in float64."""
    arrays = [dense(a) if a.flags.behaved else a.copy() for a in arrays]
    total = 0.0
    for dtype in {a.dtype for a in arrays}:
        group = pack([a for a in arrays if a.dtype == dtype])
        sums = np.empty(len(group.chunks))
        group.run(_squares, _squares_parallel, np.empty(0, dtype), sums)
        total += sums.sum()
    return math.sqrt(total)


def clip_norm_(arrays: Arrays, max_norm: float) -> float:
    """Scale all arrays together so that their norm is at most `max_norm`; returns the norm before.

    A norm that is not finite leaves them as they are.
    """
    norm = global_norm(arrays)
    if max_norm < norm < math.inf:
        scale_(arrays, max_norm / norm)
    return norm


def _split(eps: float, inside_root: bool) -> tuple[float, float]:
    """eps as (inside, outside): with one of them zero, sqrt(v + inside) + outside serves both."""
    return (eps, 0.0) if inside_root else (0.0, eps)


def _address(a: np.ndarray) -> int:
    # Five times faster than `a.ctypes.data`, which counts for networks of a few small layers.
    if a.flags.carray and a.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(a))
    return a.ctypes.data


def _laid_out_as(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    if g.dtype != p.dtype:
        raise TypeError(f"step: gradient is {g.dtype}, its parameter {p.dtype}")
    if g.shape != p.shape:
        raise ValueError(f"step: gradient has shape {g.shape}, its parameter {p.shape}")
    return dense_like(g, p)


@intrinsic
def _pointer(typing_context, address):
    """The address, an integer, as a `void*`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.uint64), generate


@serial_kernel
def _chunk(table, row, task, settings):
    """The elements of one chunk of one array; `settings` has the arrays' dtype."""
    start = table[row, task[0]] + np.uint64(task[1] * settings.itemsize)
    return carray(_pointer(start), task[2], settings.dtype)


# Each rule is a loop over chunks first, ..., last - 1 on one thread and, below it, one over all
# chunks on all threads: no two chunks share an element. Settings become local values before the
# inner loop, because LLVM could not know that writing a parameter leaves their array alone.


@serial_kernel
def _sgd(table, chunks, first, last, settings):
    lr, momentum, weight_g, weight_u, decay = to_fixed_tuple(settings, 5)
    for c in range(first, last):
        g = _chunk(table, 0, chunks[c], settings)
        p = _chunk(table, 1, chunks[c], settings)
        if momentum == 0:
            for i in range(p.size):
                p[i] -= lr * (g[i] + decay * p[i])
        else:
            u = _chunk(table, 2, chunks[c], settings)
            for i in range(p.size):
                g_i = g[i] + decay * p[i]
                u[i] = momentum * u[i] + g_i
                p[i] -= lr * (weight_g * g_i + weight_u * u[i])


@kernel
def _sgd_parallel(table, chunks, settings):
    for c in prange(len(chunks)):
        _sgd(table, chunks, c, c + 1, settings)


@serial_kernel
def _rmsprop(table, chunks, first, last, settings):
    lr, alpha, alpha_, eps_inside, eps_outside, momentum, decay = to_fixed_tuple(settings, 7)
    for c in range(first, last):
        g = _chunk(table, 0, chunks[c], settings)
        p = _chunk(table, 1, chunks[c], settings)
        v = _chunk(table, 2, chunks[c], settings)
        if momentum == 0:
            for i in range(p.size):
                g_i = g[i] + decay * p[i]
                v[i] = alpha * v[i] + alpha_ * g_i * g_i
                p[i] -= lr * g_i / (np.sqrt(v[i] + eps_inside) + eps_outside)
        else:
            u = _chunk(table, 3, chunks[c], settings)
            for i in range(p.size):
                g_i = g[i] + decay * p[i]
                v[i] = alpha * v[i] + alpha_ * g_i * g_i
                u[i] = momentum * u[i] + g_i / (np.sqrt(v[i] + eps_inside) + eps_outside)
                p[i] -= lr * u[i]


@kernel
def _rmsprop_parallel(table, chunks, settings):
    for c in prange(len(chunks)):
        _rmsprop(table, chunks, c, c + 1, settings)


@serial_kernel
def _adam(table, chunks, first, last, settings):
    lr, beta1, beta1_, beta2, beta2_, unbias_v, eps_inside, eps_outside, shrink, decay = (
        to_fixed_tuple(settings, 10)
    )
    for c in range(first, last):
        g = _chunk(table, 0, chunks[c], settings)
        p = _chunk(table, 1, chunks[c], settings)
        m = _chunk(table, 2, chunks[c], settings)
        v = _chunk(table, 3, chunks[c], settings)
        for i in range(p.size):
            g_i = g[i] + decay * p[i]
            m[i] = beta1 * m[i] + beta1_ * g_i
            v[i] = beta2 * v[i] + beta2_ * g_i * g_i
            root = np.sqrt(unbias_v * v[i] + eps_inside) + eps_outside
            p[i] = shrink * p[i] - lr * m[i] / root


@kernel
def _adam_parallel(table, chunks, settings):
    for c in prange(len(chunks)):
        _adam(table, chunks, c, c + 1, settings)


@serial_kernel
def _adamax(table, chunks, first, last, settings):
    lr, beta1, beta1_, beta2, eps, decay = to_fixed_tuple(settings, 6)
    for c in range(first, last):
        g = _chunk(table, 0, chunks[c], settings)
        p = _chunk(table, 1, chunks[c], settings)
        m = _chunk(table, 2, chunks[c], settings)
        u = _chunk(table, 3, chunks[c], settings)
        for i in range(p.size):
            g_i = g[i] + decay * p[i]
            m[i] = beta1 * m[i] + beta1_ * g_i
            # np.maximum keeps NaN of either side; Python's max would not.
            u[i] = np.maximum(beta2 * u[i], abs(g_i) + eps)
            p[i] -= lr * m[i] / u[i]


@kernel
def _adamax_parallel(table, chunks, settings):
    for c in prange(len(chunks)):
        _adamax(table, chunks, c, c + 1, settings)


@serial_kernel
def _ema(table, chunks, first, last, settings):
    (rest,) = to_fixed_tuple(settings, 1)
    for c in range(first, last):
        a = _chunk(table, 1, chunks[c], settings)
        p = _chunk(table, 2, chunks[c], settings)
        for i in range(a.size):
            a[i] += rest * (p[i] - a[i])


@kernel
def _ema_parallel(table, chunks, settings):
    for c in prange(len(chunks)):
        _ema(table, chunks, c, c + 1, settings)


@serial_kernel
def _squares(table, chunks, first, last, settings, sums):
    for c in range(first, last):
        a = _chunk(table, 1, chunks[c], settings)
        total = 0.0
        for i in range(a.size):
            total += np.float64(a[i]) * np.float64(a[i])
        sums[c] = total


@kernel
def _squares_parallel(table, chunks, settings, sums):
    for c in prange(len(chunks)):
        _squares(table, chunks, c, c + 1, settings, sums)
