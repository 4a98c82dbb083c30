"""Convolution with weights for its live taps only: the gathered products of `conv`, fewer taps.

A 7 × 7 mask has 24 live taps of 49 and a 3 × 3 mask 5 of 9, so this halves the work. The input
gradient is itself a masked convolution, of the output's gradient with the taps turned round.
"""

from __future__ import annotations

import numpy as np

from ..layout import contiguous, rows
from .conv import Pair, gathered, gathered_weight_grad, nhwc

__all__ = ["masked_conv2d", "masked_conv2d_input_grad", "masked_conv2d_weight_grad"]


def masked_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    taps: tuple[Pair, ...],
    kernel_size: Pair,
    padding: Pair,
) -> np.ndarray:
    """y[n,o,i,j] = b[o] + Σ_{c,l} x[n,c, i+kh_l-p, j+kw_l-p] W[o,c,l] over the taps (kh_l, kw_l).

    x (N, C, H, W), weight (O, C, L), bias (O,), L taps in a kernel of KH x KW
    -> y (N, O, H + 2p - KH + 1, W + 2p - KW + 1), channels-last.
    """
    out_size = [
        i + 2 * p - k + 1 for i, p, k in zip(x.shape[2:], padding, kernel_size, strict=True)
    ]
    matrix = rows(weight).reshape(1, len(weight), len(taps) * weight.shape[1])
    return gathered(nhwc(x), matrix, bias, out_size, (1, 1), _offsets(taps, padding))


def masked_conv2d_input_grad(
    grad: np.ndarray,
    weight: np.ndarray,
    *,
    taps: tuple[Pair, ...],
    kernel_size: Pair,
    padding: Pair,
    input_size: Pair,
) -> np.ndarray:
    """gx[n,c,h,w] = Σ_{o,l} g[n,o, h-kh_l+p, w-kw_l+p] W[o,c,l].

    grad (N, O, OH, OW), weight (O, C, L) -> (N, C, *input_size), channels-last.
    """
    o, c, count = weight.shape
    # From the last tap to the first, so that neighbours still follow each other.
    offsets = tuple((-dh, -dw) for dh, dw in reversed(_offsets(taps, padding)))
    matrix = contiguous(weight.transpose(1, 2, 0)[:, ::-1]).reshape(1, c, count * o)
    return gathered(nhwc(grad), matrix, None, input_size, (1, 1), offsets)


def masked_conv2d_weight_grad(
    x: np.ndarray,
    grad: np.ndarray,
    *,
    taps: tuple[Pair, ...],
    kernel_size: Pair,
    padding: Pair,
) -> np.ndarray:
    """gW[o,c,l] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i+kh_l-p, j+kw_l-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C, L).
    """
    matrix = gathered_weight_grad(nhwc(x), nhwc(grad), 1, (1, 1), _offsets(taps, padding))
    return matrix.reshape(grad.shape[1], len(taps), x.shape[1]).transpose(0, 2, 1)


def _offsets(taps: tuple[Pair, ...], padding: Pair) -> tuple[Pair, ...]:
    """From an output pixel to the input pixel that each tap meets."""
    return tuple((kh - padding[0], kw - padding[1]) for kh, kw in taps)
