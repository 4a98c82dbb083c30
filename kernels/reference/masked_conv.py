"""Convolution with weights for a part of the taps only, tap by tap.

A masked convolution (PixelCNN) sees some of its KH x KW taps, the live ones. The weights hold just
those: no product with a zero, and nothing that a mask would have to keep at zero. Stride 1.
"""

from __future__ import annotations

import numpy as np

__all__ = ["masked_conv2d", "masked_conv2d_input_grad", "masked_conv2d_weight_grad"]


def _windows(padded, taps, out_size):
    """(the tap's number, the part of the padded image that it meets)."""
    for index, (kh, kw) in enumerate(taps):
        yield index, padded[..., kh : kh + out_size[0], kw : kw + out_size[1]]


def _pad(x, padding):
    return np.pad(x, [(0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2])


def masked_conv2d(x, weight, bias=None, *, taps, kernel_size, padding):
    """y[n,o,i,j] = b[o] + Σ_{c,l} x[n,c, i+kh_l-p, j+kw_l-p] W[o,c,l] over the taps (kh_l, kw_l).

    x (N, C, H, W), weight (O, C, L), bias (O,), L taps in a kernel of KH x KW
    -> y (N, O, H + 2p - KH + 1, W + 2p - KW + 1).
    """
    n, o = len(x), len(weight)
    out_size = [
        i + 2 * p - k + 1 for i, p, k in zip(x.shape[2:], padding, kernel_size, strict=True)
    ]
    y = np.zeros((n, o, *out_size), x.dtype)
    for index, window in _windows(_pad(x, padding), taps, out_size):
        y += np.einsum("nchw,oc->nohw", window, weight[..., index], optimize=True)
    return y if bias is None else y + bias[:, None, None]


def masked_conv2d_input_grad(grad, weight, *, taps, kernel_size, padding, input_size):
    """gx[n,c,h,w] = Σ_{o,l} g[n,o, h-kh_l+p, w-kw_l+p] W[o,c,l].

    grad (N, O, OH, OW), weight (O, C, L) -> (N, C, *input_size).
    """
    height, width = input_size
    padded = np.zeros(
        (len(grad), weight.shape[1], height + 2 * padding[0], width + 2 * padding[1]), grad.dtype
    )
    for index, window in _windows(padded, taps, grad.shape[2:]):
        window += np.einsum("nohw,oc->nchw", grad, weight[..., index], optimize=True)
    return padded[..., padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def masked_conv2d_weight_grad(x, grad, *, taps, kernel_size, padding):
    """gW[o,c,l] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i+kh_l-p, j+kw_l-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C, L).
    """
    gw = np.zeros((grad.shape[1], x.shape[1], len(taps)), x.dtype)
    for index, window in _windows(_pad(x, padding), taps, grad.shape[2:]):
        gw[..., index] = np.einsum("nohw,nchw->oc", grad, window, optimize=True)
    return gw
