"""Optimizer steps over all parameters in one launch; every number is read and written once.

The equations are those of `reference.optim`, the kernels and the reasons for their form are in
`optim.cu`. Nothing here waits for the GPU or copies to it, except `pack` when it is made and the
other functions at the first call with arrays of new sizes; so a step that ran once can be recorded
in a CUDA graph. `lr`, `step`, `updates` and factors may be arrays of one element on the device,
read when the kernel runs: what is written there before a replay counts. A recorded graph refers to
the memory of the pack, the gradients and those numbers: keep them as long as the graph.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cupy
import numpy as np

from ..layout import dense, dense_like
from .launch import REALS, Source, blocks, ctype

__all__ = [
    "Number",
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

Arrays = Sequence[cupy.ndarray]
Number = float | cupy.ndarray
"""A number, or an array with one element: float32, float64 or int64."""

SOURCE = Source("optim.cu", REAL=REALS)

CHUNK = 4096
"""Elements of a block: 16 for each thread; a million elements are enough blocks for any GPU."""

_THREADS = 256
_GRADIENTS = 448  # addresses that a launch passes, as in `optim.cu`

_NUMBER = np.dtype([("address", "u8"), ("value", "f8"), ("type", "i4")], align=True)
_NUMBER_TYPES = {np.dtype(np.float32): 1, np.dtype(np.float64): 2, np.dtype(np.int64): 3}


class Part(NamedTuple):
    """What one launch of a step works on: some of a pack's parameters."""

    tensors: slice
    table: cupy.ndarray  # (lists, tensors) addresses, uint64
    chunks: cupy.ndarray  # (blocks, 3): tensor, first element, count; int64

    @property
    def walk(self) -> tuple:
        """The arguments with which a kernel finds its chunks."""
        return self.table, self.chunks, self.table.shape[1]


class Pack:
    """Lists of arrays that a step walks together, and the tables of their addresses on the GPU.

    `lists[0]` are the parameters, the other lists their state. All arrays have one dtype and are
    dense (C order, channels-last or another permutation), and state lies in memory in the order of
    its parameter. A `Pack` keeps its arrays alive, and with them the addresses.
    """

    def __init__(self, *lists: Arrays) -> None:
        self.lists = [list(arrays) for arrays in lists]
        params = self.lists[0]
        self.dtype = params[0].dtype if params else np.dtype(np.float32)
        self.layouts = [(p.dtype, p.shape, p.strides) for p in params]
        for arrays in self.lists:
            for a, p in zip(arrays, params, strict=True):
                self._check(a, p)
        self.parts = []
        for tensors in _slices(len(params)):
            table = [[a.data.ptr for a in arrays[tensors]] for arrays in self.lists]
            chunks = _chunks(p.size for p in params[tensors])
            self.parts.append(Part(tensors, cupy.asarray(np.array(table, np.uint64)), chunks))

    def _check(self, a: cupy.ndarray, p: cupy.ndarray) -> None:
        if a.dtype != self.dtype or a.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"pack: got arrays of {self.dtype} and {a.dtype}, expected all float32 or all"
                " float64; make a pack for each dtype"
            )
        if a.shape != p.shape:
            raise ValueError(f"pack: state has shape {a.shape}, its parameter {p.shape}")
        if not (dense(a) is a and dense_like(a, p) is a):
            raise ValueError(
                f"pack: array of shape {a.shape}, strides {a.strides} is not dense memory in the"
                f" order of its parameter, strides {p.strides}; make it with zeros_like(parameter)"
            )

    def step(self, kernel: str, grads: Arrays, *arguments) -> None:
        """Launch a rule, once for each part, with these gradients."""
        ready = [
            g if (g.dtype, g.shape, g.strides) == layout else _laid_out_as(p, g)
            for g, layout, p in zip(grads, self.layouts, self.lists[0], strict=True)
        ]
        for part in self.parts:
            self._launch(kernel, part, _addresses(ready[part.tensors]), *part.walk, *arguments)

    def run(self, kernel: str, *arguments) -> None:
        """Launch a kernel that takes no gradients."""
        for part in self.parts:
            self._launch(kernel, part, *part.walk, *arguments)

    def _launch(self, kernel: str, part: Part, *arguments) -> None:
        launch = SOURCE.kernel(kernel, REAL=ctype(self.dtype))
        launch(len(part.chunks), _THREADS, arguments)


def pack(*lists: Arrays) -> Pack:
    """Lists of arrays that a step walks together: parameters first, then the state it keeps."""
    return Pack(*lists)


def sgd_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: Number,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Gradient descent on `pack(params)`, or with momentum on `pack(params, velocities)`."""
    if momentum == 0:
        pack.step("sgd", grads, _number(lr), weight_decay)
        return
    # The update is weight_g g + weight_u u.
    weight_g, weight_u = (1, momentum) if nesterov else (0, 1)
    rule = _number(lr), weight_decay, momentum, weight_g, weight_u
    pack.step("sgd_momentum", grads, *rule)


def rmsprop_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: Number,
    alpha: float,
    eps: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps_inside_root: bool = False,
) -> None:
    """RMSProp on `pack(params, square_avgs)`, or with momentum on `pack(..., velocities)`."""
    rule = _number(lr), weight_decay, alpha, 1 - alpha, *_split(eps, eps_inside_root)
    if momentum == 0:
        pack.step("rmsprop", grads, *rule)
    else:
        pack.step("rmsprop_momentum", grads, *rule, momentum)


def adam_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: Number,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    eps_inside_root: bool = False,
    step: Number,
) -> None:
    """Adam, or AdamW if `decoupled`, on `pack(params, exp_avgs, exp_avg_sqs)`; step = 1, 2, ..."""
    shrinkage, decay = (weight_decay, 0) if decoupled else (0, weight_decay)
    of_the_step = _number(lr), _number(step), _log(beta1), _log(beta2), shrinkage
    betas = beta1, 1 - beta1, beta2, 1 - beta2
    pack.step("adam", grads, *of_the_step, decay, *betas, *_split(eps, eps_inside_root))


def _adam_step_plain(
    pack: Pack, grads: Arrays, *, lr: float, beta1: float, beta2: float, eps: float, step: int
) -> None:
    """A launch per parameter."""
    rule = lr, beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**step, 1 - beta2**step, eps
    kernel = SOURCE.kernel("adam_plain", REAL=ctype(pack.dtype))
    for p, m, v, g in zip(*pack.lists, grads, strict=True):
        kernel(blocks(p.size, _THREADS), _THREADS, (p, m, v, dense_like(g, p), p.size, *rule))


def adamax_step(
    pack: Pack,
    grads: Arrays,
    *,
    lr: Number,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    step: Number,
) -> None:
    """Adamax on `pack(params, exp_avgs, exp_infs)`; step = 1, 2, ..."""
    of_the_step = _number(lr), _number(step), _log(beta1)
    pack.step("adamax", grads, *of_the_step, weight_decay, beta1, 1 - beta1, beta2, eps)


def ema_step(pack: Pack, decay: float, *, updates: Number = math.inf) -> None:
    """Exponential moving average on `pack(averages, params)`: a ← d a + (1 - d) p.

    d = min(decay, (1 + t) / (10 + t)) after t = `updates` of them, see `reference.optim`.
    """
    pack.run("ema", 1 - decay, _number(updates))


def global_norm(arrays: Arrays) -> cupy.ndarray:
    """Euclidean norm of all arrays taken as one vector, float64 () on the device.

    Two passes without atomics: the same arrays give the same bits.
    """
    return _norm_and_factor(arrays, math.inf)[0]


def clip_norm_(arrays: Arrays, max_norm: Number) -> cupy.ndarray:
    """Scale all arrays together so that their norm is at most `max_norm`; returns the norm before.

    A norm that is not finite leaves them as they are. Decided on the device: nothing waits for it.
    """
    result = _norm_and_factor(arrays, max_norm)
    scale_(arrays, result[1])
    return result[0]


def scale_(arrays: Arrays, factor: Number) -> None:
    """Multiply every array by `factor`, in place."""
    is_dense = [dense(a) is a for a in arrays]
    number = _number(factor)
    for part, chunks in _parts(list(itertools.compress(arrays, is_dense))):
        kernel = SOURCE.kernel("scale", REAL=ctype(part[0]))
        kernel(len(chunks), _THREADS, (_addresses(part), chunks, number))
    for a, done in zip(arrays, is_dense, strict=True):
        if not done:  # memory with gaps can't be walked as a line
            a *= factor


def _norm_and_factor(arrays: Arrays, max_norm: Number) -> cupy.ndarray:
    """The norm, and what `clip_norm_` multiplies by; float64 (2,)."""
    parts = list(_parts([dense(a) for a in arrays]))
    sums = cupy.empty(sum(len(chunks) for _, chunks in parts), np.float64)
    first = 0
    for part, chunks in parts:
        kernel = SOURCE.kernel("squares", REAL=ctype(part[0]))
        arguments = _addresses(part), chunks, sums[first : first + len(chunks)]
        kernel(len(chunks), _THREADS, arguments)
        first += len(chunks)
    result = cupy.empty(2, np.float64)
    kernel = SOURCE.kernel("finish_norm", REAL=REALS[0])
    kernel(1, _THREADS, (sums, sums.size, _number(max_norm), result))
    return result


def _parts(arrays: Arrays) -> Iterator[tuple[list[cupy.ndarray], cupy.ndarray]]:
    """Arrays of one dtype, as many as a launch takes, with their chunks."""
    for dtype in sorted({a.dtype for a in arrays}):
        alike = [a for a in arrays if a.dtype == dtype]
        for tensors in _slices(len(alike)):
            yield alike[tensors], _chunks(a.size for a in alike[tensors])


def _slices(n: int) -> list[slice]:
    return [slice(first, first + _GRADIENTS) for first in range(0, n, _GRADIENTS)]


def _chunks(sizes: Iterator[int]) -> cupy.ndarray:
    return _chunks_of(tuple(sizes), cupy.cuda.Device().id)


@functools.cache  # and kept for good: a recorded graph may refer to it
def _chunks_of(sizes: tuple[int, ...], device: int) -> cupy.ndarray:
    """Rows (tensor, first element, count) that cut tensors into chunks: (chunks, 3) int64."""
    rows = [
        (tensor, first, min(CHUNK, size - first))
        for tensor, size in enumerate(sizes)
        for first in range(0, size, CHUNK)
    ]
    return cupy.asarray(np.array(rows, np.int64).reshape(-1, 3))


def _addresses(arrays: Arrays) -> np.ndarray:
    """The struct `Gradients` of `optim.cu`."""
    addresses = np.zeros(_GRADIENTS, np.uint64)
    addresses[: len(arrays)] = [a.data.ptr for a in arrays]
    return addresses


def _number(x: Number) -> np.ndarray:
    """The struct `Number` of `optim.cu`."""
    if not isinstance(x, cupy.ndarray):
        return np.array([(0, x, 0)], _NUMBER)
    if x.size != 1 or x.dtype not in _NUMBER_TYPES:
        raise TypeError(
            f"optim: got {x.dtype} {x.shape} for a number, expected one element of float32,"
            " float64 or int64"
        )
    return np.array([(x.data.ptr, 0, _NUMBER_TYPES[x.dtype])], _NUMBER)


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def _split(eps: float, inside_root: bool) -> tuple[float, float]:
    """eps as (inside, outside): with one of them zero, sqrt(v + inside) + outside serves both."""
    return (eps, 0.0) if inside_root else (0.0, eps)


def _laid_out_as(p: cupy.ndarray, g: cupy.ndarray) -> cupy.ndarray:
    if g.dtype != p.dtype:
        raise TypeError(f"step: gradient is {g.dtype}, its parameter {p.dtype}")
    if g.shape != p.shape:
        raise ValueError(f"step: gradient has shape {g.shape}, its parameter {p.shape}")
    return dense_like(g, p)
