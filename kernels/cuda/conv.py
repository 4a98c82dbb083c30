"""Convolution and its two gradients on the GPU; see `conv_plain.cu` for the versions.

float32 without groups goes through the product of gathered operands (`gemm.py`), in the
arithmetic that `precision` says; groups, float64, and sizes that it doesn't take go through the
plain kernels. All results are deterministic. Memory is channels-last, as on the CPU.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import cupy
import numpy as np

from ..layout import contiguous, from_rows
from . import gemm
from . import gemm_problem as problem
from .launch import REALS, Source, blocks, ctype
from .transpose import channels_last

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]

Pair = tuple[int, int]

PLAIN = Source("conv_plain.cu", REAL=REALS)
THREADS = 256
MOST_BLOCKS = 2**20  # of the plain kernels, which loop over the rest
FARTHEST = 2**15  # pixels from a window's corner to a tap: 16 bits


class Shape(NamedTuple):
    """The sizes of a convolution. `live`: the taps (kh, kw) that have weights, None for all."""

    n: int
    c: int
    size: Pair
    o: int
    out_size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    live: tuple[Pair, ...] | None = None

    @property
    def taps(self) -> tuple[Pair, ...]:
        if self.live is not None:
            return self.live
        return tuple(itertools.product(range(self.kernel[0]), range(self.kernel[1])))

    def folded(self) -> Shape:
        """A kernel that covers the whole input is a plain product over taps and channels."""
        covers = self.kernel == self.size and self.padding == (0, 0) and self.dilation == (1, 1)
        if not covers or self.live is not None:
            return self
        one = (1, 1)
        return self._replace(c=self.c * math.prod(self.size), size=one, kernel=one, stride=one)

    def struct(self) -> np.ndarray:
        """Geometry of conv_plain.cu."""
        sizes = *self.size, self.c, *self.out_size, self.o, *self.kernel
        return np.array(
            [*sizes, *self.stride, *self.padding, *self.dilation, self.groups], np.int32
        )


# -------------------------------------------------------------------------------------- products


@functools.lru_cache(maxsize=1024)
def output_product(s: Shape, aligned: Pair) -> problem.Product | None:
    """y[pixel, o] = Σ x[pixel, (tap, c)] W[o, (tap, c)]; None if it does not fit the kernel.

    `aligned`: whether the addresses of x and W are multiples of 16, and so in the other products.
    """
    taps = _offsets(s)
    if not _fits(s, taps, phases=1):
        return None
    depth = len(taps) * s.c
    pixels = math.prod(s.out_size)
    return problem.Product(
        "output", _images(s), [problem.Phase(s.n, *s.out_size, taps)],
        n=s.o, other_step=depth, out_size=s.n * pixels * s.o,
        out_steps=(pixels * s.o, s.out_size[1] * s.o, s.o),
        aligned=(aligned[0] and s.c % 4 == 0, aligned[1] and depth % 4 == 0),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def input_grad_product(s: Shape, aligned: Pair) -> problem.Product | None:
    """gx[pixel, c] = Σ g[pixel, (tap, o)] W[(tap, o), c], a product for each of stride² phases."""
    (height, width), (rows, columns) = s.size, s.out_size
    weights = {tap: i * s.c for i, tap in enumerate(s.taps)}
    phases = []
    for ph in range(min(s.stride[0], height)):
        taps_h = _taps_of_phase(ph, s.kernel[0], s.stride[0], s.padding[0], s.dilation[0])
        for pw in range(min(s.stride[1], width)):
            taps_w = _taps_of_phase(pw, s.kernel[1], s.stride[1], s.padding[1], s.dilation[1])
            taps = [
                (dh, dw, weights[kh, kw])
                for (kh, dh), (kw, dw) in itertools.product(taps_h, taps_w)
                if (kh, kw) in weights
            ]
            nh, nw = -(-(height - ph) // s.stride[0]), -(-(width - pw) // s.stride[1])
            phases.append(problem.Phase(s.n, nh, nw, taps, (ph * width + pw) * s.c))
    if not _fits(s, [tap for phase in phases for tap in phase.taps], len(phases)):
        return None
    return problem.Product(
        "input_grad",
        problem.Gather(rows, columns, s.o, rows * columns * s.o, columns * s.o, s.o), phases,
        n=s.c, other_step=len(s.taps) * s.c, out_size=s.n * height * width * s.c,
        out_steps=(height * width * s.c, s.stride[0] * width * s.c, s.stride[1] * s.c),
        aligned=(aligned[0] and s.o % 4 == 0, aligned[1] and s.c % 4 == 0),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def weight_grad_product(s: Shape, aligned: Pair) -> problem.Product | None:
    """gW[o, (tap, c)] = Σ g[pixel, o] x[pixel, (tap, c)]."""
    taps = _offsets(s)
    if not _fits(s, taps, phases=1):
        return None
    columns = len(taps) * s.c
    return problem.Product(
        "weight_grad", _images(s), [problem.Phase(s.n, *s.out_size, taps)],
        n=columns, rows=s.o, other_step=s.o, out_size=s.o * columns, out_steps=(columns, 0, 0),
        aligned=(aligned[0] and s.o % 4 == 0, aligned[1] and s.c % 4 == 0),
    )  # fmt: skip


def _images(s: Shape) -> problem.Gather:
    line = s.size[1] * s.c
    origin = -s.padding[0], -s.padding[1]
    return problem.Gather(*s.size, s.c, s.size[0] * line, line, s.c, s.stride, origin)


def _offsets(s: Shape) -> list[tuple[int, int, int]]:
    return [(kh * s.dilation[0], kw * s.dilation[1], 0) for kh, kw in s.taps]


def _taps_of_phase(
    phase: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[Pair]:
    """(tap, offset) with input = output_index + offset, for one axis of the input gradient."""
    distances = [(tap, phase + padding - tap * dilation) for tap in range(kernel)]
    return [(tap, d // stride) for tap, d in distances if d % stride == 0]


def _fits(s: Shape, taps: list[tuple[int, int, int]], phases: int) -> bool:
    """Whether the kernel's integers hold the offsets, and there is something to multiply."""
    arrays = (
        s.n * math.prod(s.size) * s.c,
        s.n * math.prod(s.out_size) * s.o,
        s.o * len(s.taps) * s.c,
    )
    distances = [abs(d) for tap in taps for d in tap[:2]]
    return (
        min(arrays) > 0
        and max(arrays) < problem.LARGEST
        and len(taps) <= problem.MAX_TAPS
        and phases <= problem.MAX_PHASES
        and max(distances, default=0) < FARTHEST
    )


# ------------------------------------------------------------------------------------- functions


def conv2d(x, weight, bias=None, *, stride, padding, dilation, groups):
    """y[n,o,i,j] = b[o] + Σ x[n,c, i·s+kh·d-p, j·s+kw·d-p] W[o,c,kh,kw].

    x (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,) -> y (N, O, OH, OW), channels-last.
    """
    n, c, *size = x.shape
    o, _, *kernel = weight.shape
    out_size = tuple(
        (i + 2 * p - d * (k - 1) - 1) // s + 1
        for i, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    shape = Shape(n, c, tuple(size), o, out_size, tuple(kernel), stride, padding, dilation, groups)
    x, weight = channels_last(x), channels_last(weight)
    y = empty_channels_last((n, o, *out_size), x.dtype)
    product = planned(output_product, shape.folded(), x, weight)
    if product is None:
        _plain("conv_output", y, x, weight, dense_bias(bias), shape)
    else:
        gemm.multiply(product, y, x, weight, dense_bias(bias))
    return y


def conv2d_input_grad(grad, weight, bias=None, *, input_size, stride, padding, dilation, groups):
    """gx[n,c,h,w] = b[c] + Σ g[n,o,i,j] W[o,c,kh,kw] over i·s + kh·d - p = h, j·s + kw·d - p = w.

    grad (N, O, OH, OW), weight (O, C/groups, KH, KW) -> (N, C, *input_size), channels-last. The
    gradient of `conv2d` for its input, and with a bias (C,) the transposed convolution.
    """
    n, o, *out_size = grad.shape
    c = weight.shape[1] * groups
    shape = Shape(
        n, c, tuple(input_size), o, tuple(out_size), tuple(weight.shape[2:]),
        stride, padding, dilation, groups,
    )  # fmt: skip
    folded = shape.folded()
    grad, weight = channels_last(grad), channels_last(weight)
    gx = empty_channels_last((n, c, *input_size), grad.dtype)
    product = planned(input_grad_product, folded, grad, weight)
    if product is None:
        _plain("conv_input_grad", gx, grad, weight, dense_bias(bias), shape)
    else:
        if bias is not None and folded is not shape:
            bias = cupy.tile(bias, math.prod(shape.size))
        gemm.multiply(product, gx, grad, weight, dense_bias(bias))
    return gx


def conv2d_weight_grad(x, grad, *, kernel_size, stride, padding, dilation, groups):
    """gW[o,c,kh,kw] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i·s+kh·d-p, j·s+kw·d-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C/groups, *kernel_size), channels-last.
    """
    n, c, *size = x.shape
    o, *out_size = grad.shape[1:]
    shape = Shape(
        n, c, tuple(size), o, tuple(out_size), tuple(kernel_size),
        stride, padding, dilation, groups,
    )  # fmt: skip
    x, grad = channels_last(x), channels_last(grad)
    gw = empty_channels_last((o, c // groups, *kernel_size), x.dtype)
    product = planned(weight_grad_product, shape.folded(), grad, x)
    if product is None:
        _plain("conv_weight_grad", gw, x, grad, n, shape)
    else:
        gemm.multiply(product, gw, grad, x)
    return gw


def planned(builder, shape: Shape, a: cupy.ndarray, b: cupy.ndarray) -> problem.Product | None:
    if shape.groups > 1 or a.dtype != np.float32:
        return None
    return builder(shape, (a.data.ptr % 16 == 0, b.data.ptr % 16 == 0))


def _plain(name: str, out, a, b, third, shape: Shape) -> None:
    """`third`: the bias, or the number of images of a weight gradient."""
    grid = blocks(out.size, THREADS, MOST_BLOCKS)
    arguments = out, a, b, third, shape.struct(), out.size
    PLAIN.kernel(name, REAL=ctype(out))(grid, THREADS, arguments)


def empty_channels_last(shape: tuple[int, ...], dtype: np.dtype) -> cupy.ndarray:
    """Unwritten memory for an (N, C, H, W) array, channels-last."""
    n, c, h, w = shape
    return from_rows(cupy.empty((n * h * w, c), dtype), shape)


def dense_bias(bias: cupy.ndarray | None) -> cupy.ndarray | None:
    """A bias that a kernel can read, which sees no strides."""
    return None if bias is None else contiguous(bias)
