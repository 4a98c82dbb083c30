"""Matrix products on the GPU: cuBLAS where it can be had, the convolution's core elsewhere.

CuPy refuses cuBLAS while a graph is captured, and cuBLAS has no mode that rounds float32 to
bfloat16. There `gemm.py` computes: NN, NT and TN products straight from the operands' strides,
batches too. float64 is never rounded; inside a capture the plain kernel multiplies it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cupy
import numpy as np

from ..layout import contiguous
from . import gemm, precision
from . import gemm_problem as problem
from .launch import REALS, Source, blocks, ctype, in_graph

__all__ = ["linear", "matmul"]

PLAIN = Source("matmul.cu", REAL=REALS)
THREADS = 256
DEFAULT_MATH, TF32_TENSOR_OP_MATH = 0, 3  # of cublasMath_t; CuPy has no name for the second
MOST_BLOCKS = 2**20  # of the plain kernel, which loops over the rest


def matmul(a: cupy.ndarray, b: cupy.ndarray) -> cupy.ndarray:
    """a (..., m, k) times b (..., k, n) -> (..., m, n), the axes before the last two broadcast."""
    if a.dtype != b.dtype or a.dtype.char not in "fd":
        return cupy.matmul(a, b)
    arithmetic = precision.arithmetic()
    if in_graph() or (a.dtype == np.float32 and arithmetic == "bf16"):
        return product(a, b)
    _set_math_mode(TF32_TENSOR_OP_MATH if arithmetic == "tf32" else DEFAULT_MATH)
    return cupy.matmul(a, b)


def linear(
    x: cupy.ndarray,
    weight: cupy.ndarray,
    bias: cupy.ndarray | None = None,
    *,
    activation: str = "identity",
    slope: float = 0.0,
) -> cupy.ndarray:
    """act(x Wᵀ + b): x (M, in), weight (out, in), bias (out,) -> (M, out); float32 in one launch.

    Activations: identity, relu, leaky_relu (with `slope`), tanh, sigmoid.
    """
    if x.dtype == np.float32 or in_graph() or activation != "identity":
        return product(x, weight.T, bias, activation=activation, slope=slope)
    y = matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def product(
    a: cupy.ndarray,
    b: cupy.ndarray,
    bias: cupy.ndarray | None = None,
    *,
    activation: str = "identity",
    slope: float = 0.0,
) -> cupy.ndarray:
    """act(a b + bias) by our own kernels; bias (n,). Deterministic."""
    end = {"activation": activation, "slope": slope}
    (a, a_by_rows), (b, b_by_rows) = _stored(a), _stored(b)
    if not a_by_rows and not b_by_rows:
        if bias is None:  # ab = (bᵀaᵀ)ᵀ, and those are stored by rows
            return product(b.swapaxes(-1, -2), a.swapaxes(-1, -2), **end).swapaxes(-1, -2)
        a, a_by_rows = a.copy(order="C"), True
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    axes = _axes(lead, a, b)
    if len(axes) > 2:  # the kernels walk over two
        a = cupy.broadcast_to(a, (*lead, *a.shape[-2:])).copy(order="C")
        b = cupy.broadcast_to(b, (*lead, *b.shape[-2:])).copy(order="C")
        return product(a, b, bias, **end)
    outer, inner = [(1, 0, 0)] * (2 - len(axes)) + axes
    (m, k), n = a.shape[-2:], b.shape[-1]
    out = cupy.empty((*lead, m, n), a.dtype)
    left = Steps(outer[1], inner[1], *_steps(a, a_by_rows))
    right = Steps(outer[2], inner[2], *_steps(b, b_by_rows))
    batch = outer[0], inner[0]
    bias = None if bias is None else contiguous(bias)
    spans = left.span(batch, m, k), right.span(batch, k, n), out.size
    if not out.size:
        return out
    if a.dtype == np.float32 and k > 0 and max(spans) < problem.LARGEST:
        at_16 = a.data.ptr % 16 == 0, b.data.ptr % 16 == 0
        planned = _planned(m, n, k, batch, left, right, at_16)
        gemm.multiply(planned, out, a, b, bias, **end)
    else:
        _plain(out, a, b, bias, left, right, (batch[1], m, n, k), **end)
    return out


def _set_math_mode(mode: int) -> None:
    """What cuBLAS does with float32: an assignment in its handle, which stays."""
    cupy.cuda.cublas.setMathMode(cupy.cuda.device.get_cublas_handle(), mode)


class Steps(NamedTuple):
    """Elements of an operand from one matrix, row and column to the next; a batch has two axes."""

    outer: int
    inner: int
    row: int
    column: int

    def span(self, batch: tuple[int, int], rows: int, columns: int) -> int:
        """Elements of memory from the first to the last."""
        sizes = *batch, rows, columns
        return 1 + sum((n - 1) * step for n, step in zip(sizes, self, strict=True))

    def aligned(self, line: int) -> bool:
        """Whether lines of that length begin at multiples of 4 elements."""
        return all(step % 4 == 0 for step in (self.outer, self.inner, self.line, line))

    @property
    def by_rows(self) -> bool:
        return self.column == 1

    @property
    def line(self) -> int:
        """From one contiguous line to the next."""
        return self.row if self.by_rows else self.column


def _stored(x: cupy.ndarray) -> tuple[cupy.ndarray, bool]:
    """Matrices with unit steps along their rows (True) or columns; a copy if they have neither."""
    if min(x.strides) >= 0 and all(step % x.itemsize == 0 for step in x.strides):
        if x.strides[-1] == x.itemsize or x.shape[-1] == 1:
            return x, True
        if x.strides[-2] == x.itemsize or x.shape[-2] == 1:
            return x, False
    return x.copy(order="C"), True


def _steps(x: cupy.ndarray, by_rows: bool) -> tuple[int, int]:
    """Elements from row to row and from column to column."""
    if by_rows:
        return x.strides[-2] // x.itemsize, 1
    return 1, x.strides[-1] // x.itemsize


def _axes(lead: tuple[int, ...], a: cupy.ndarray, b: cupy.ndarray) -> list[tuple[int, int, int]]:
    """(size, a's step, b's step) of the batch's axes; two that continue each other become one."""
    axes: list[tuple[int, int, int]] = []
    for axis, size in zip(range(-len(lead) - 2, -2), lead, strict=True):
        steps = [
            x.strides[axis] // x.itemsize if x.ndim >= -axis and x.shape[axis] > 1 else 0
            for x in (a, b)
        ]
        if size == 1:
            continue
        if axes and axes[-1][1:] == (size * steps[0], size * steps[1]):
            axes[-1] = (axes[-1][0] * size, *steps)
        else:
            axes.append((size, *steps))
    return axes


@functools.lru_cache(maxsize=1024)
def _planned(m, n, k, batch, a: Steps, b: Steps, at_16: tuple[bool, bool]) -> problem.Product:
    """The product as that of a convolution of 1x1 images: NT, NN and TN."""
    sizes = {"n": n, "rows": m, "out_size": m * n, "out_steps": (n, 0, 0)}
    steps = {"batch": batch, "a_steps": a[:2], "b_steps": b[:2]}
    if a.by_rows:
        kind, lines = ("input_grad", (k, n)) if b.by_rows else ("output", (k, k))
        gathered, other, channels, pixels = a.line, b.line, k, m
    else:
        kind, lines = "weight_grad", (m, n)
        gathered, other, channels, pixels = b.line, a.line, n, k
    return problem.Product(
        kind, problem.Gather(1, 1, channels, gathered, 0, 0),
        [problem.Phase(pixels, 1, 1, [(0, 0, 0)])], other_step=other,
        aligned=(at_16[0] and a.aligned(lines[0]), at_16[1] and b.aligned(lines[1])),
        **sizes, **steps,
    )  # fmt: skip


def _plain(out, a, b, bias, a_steps: Steps, b_steps: Steps, sizes, *, activation, slope) -> None:
    """One thread an element; `sizes` are (inner axis of the batch, m, n, k)."""
    structs = [np.array(numbers, np.int64) for numbers in (a_steps, b_steps, sizes)]
    PLAIN.kernel("matmul_plain", REAL=ctype(out))(
        blocks(out.size, THREADS, MOST_BLOCKS), THREADS,
        (out, a, b, bias, *structs, out.size, gemm.ACTIVATIONS[activation], slope),
    )  # fmt: skip
