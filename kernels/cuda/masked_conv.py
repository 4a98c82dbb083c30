"""Convolution with weights for its live taps only, on the GPU; see `masked_conv.cu`.

The core of `conv.py` works through a list of taps, so in float32 a masked convolution is one with
a shorter list.
"""

from __future__ import annotations

import cupy
import numpy as np

from ..layout import from_rows
from . import conv, gemm
from .launch import REALS, Source, blocks, ctype
from .transpose import channels_last

__all__ = ["masked_conv2d", "masked_conv2d_input_grad", "masked_conv2d_weight_grad"]

PLAIN = Source("masked_conv.cu", REAL=REALS)
MAX_TAPS = 900  # as in masked_conv.cu
ONE = (1, 1)


def masked_conv2d(x, weight, bias=None, *, taps, kernel_size, padding):
    """y[n,o,i,j] = b[o] + Σ_{c,l} x[n,c, i+kh_l-p, j+kw_l-p] W[o,c,l] over the taps (kh_l, kw_l).

    x (N, C, H, W), weight (O, C, L), bias (O,), L taps in a kernel of KH x KW
    -> y (N, O, H + 2p - KH + 1, W + 2p - KW + 1), channels-last.
    """
    out_size = tuple(
        i + 2 * p - k + 1 for i, p, k in zip(x.shape[2:], padding, kernel_size, strict=True)
    )
    shape = _shape(x.shape, (*weight.shape[:1], *out_size), taps, kernel_size, padding)
    x, weight, bias = channels_last(x), channels_last(weight), conv.dense_bias(bias)
    y = conv.empty_channels_last((shape.n, shape.o, *out_size), x.dtype)
    product = conv.planned(conv.output_product, shape, x, weight)
    if product is None:
        _plain("masked_output", y, (x, weight, bias), shape)
    else:
        gemm.multiply(product, y, x, weight, bias)
    return y


def masked_conv2d_input_grad(grad, weight, *, taps, kernel_size, padding, input_size):
    """gx[n,c,h,w] = Σ_{o,l} g[n,o, h-kh_l+p, w-kw_l+p] W[o,c,l].

    grad (N, O, OH, OW), weight (O, C, L) -> (N, C, *input_size), channels-last.
    """
    x_shape = len(grad), weight.shape[1], *input_size
    shape = _shape(x_shape, grad.shape[1:], taps, kernel_size, padding)
    grad, weight = channels_last(grad), channels_last(weight)
    gx = conv.empty_channels_last(x_shape, grad.dtype)
    product = conv.planned(conv.input_grad_product, shape, grad, weight)
    if product is None:
        _plain("masked_input_grad", gx, (grad, weight), shape)
    else:
        gemm.multiply(product, gx, grad, weight)
    return gx


def masked_conv2d_weight_grad(x, grad, *, taps, kernel_size, padding):
    """gW[o,c,l] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i+kh_l-p, j+kw_l-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C, L), with L before C in memory.
    """
    shape = _shape(x.shape, grad.shape[1:], taps, kernel_size, padding)
    x, grad = channels_last(x), channels_last(grad)
    gw_shape = shape.o, shape.c, len(taps)
    gw = from_rows(cupy.empty((shape.o * len(taps), shape.c), x.dtype), gw_shape)
    product = conv.planned(conv.weight_grad_product, shape, grad, x)
    if product is None:
        _plain("masked_weight_grad", gw, (x, grad, shape.n), shape)
    else:
        gemm.multiply(product, gw, grad, x)
    return gw


def _shape(x_shape, out_shape, taps, kernel_size, padding) -> conv.Shape:
    """`out_shape` is (O, OH, OW)."""
    n, c, *size = x_shape
    o, *out_size = out_shape
    live = tuple((int(kh), int(kw)) for kh, kw in taps)
    sizes = n, c, tuple(size), o, tuple(out_size), tuple(kernel_size)
    return conv.Shape(
        *sizes, stride=ONE, padding=tuple(padding), dilation=ONE, groups=1, live=live
    )


def _plain(name: str, out: cupy.ndarray, arguments: tuple, s: conv.Shape) -> None:
    if len(s.taps) > MAX_TAPS:
        raise ValueError(
            f"{name}: {len(s.taps)} live taps, at most {MAX_TAPS} fit a launch; "
            "use conv2d with zeros in its weights"
        )
    grid = blocks(out.size, conv.THREADS, conv.MOST_BLOCKS)
    kernel = PLAIN.kernel(name, REAL=ctype(out))
    kernel(grid, conv.THREADS, (out, *arguments, _struct(s), out.size))


def _struct(s: conv.Shape) -> np.ndarray:
    """Masked of masked_conv.cu."""
    sizes = np.array([*s.size, s.c, *s.out_size, s.o, *s.padding, len(s.taps)], np.int32)
    taps = np.zeros((2, MAX_TAPS), np.int16)
    taps[:, : len(s.taps)] = np.array(s.taps, np.int16).reshape(-1, 2).T
    return np.concatenate([sizes.view(np.uint8), taps.reshape(-1).view(np.uint8)])
