"""Convolution and its two gradients, tap by tap: what each product means, with nothing clever.

Every tap (kh, kw) of the kernel sees the padded input shifted by it and thinned out by the stride;
the three products are matrix products of that window with the tap's weights.
"""

from __future__ import annotations

import itertools

import numpy as np

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]


def _windows(padded, kernel_size, out_size, stride, dilation):
    """(kh, kw, the part of the padded image that this tap meets, one value per output pixel)."""
    for kh, kw in itertools.product(range(kernel_size[0]), range(kernel_size[1])):
        rows = slice(kh * dilation[0], kh * dilation[0] + (out_size[0] - 1) * stride[0] + 1)
        columns = slice(kw * dilation[1], kw * dilation[1] + (out_size[1] - 1) * stride[1] + 1)
        yield kh, kw, padded[..., rows, columns][..., :: stride[0], :: stride[1]]


def _pad(x, padding):
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(padding[0],) * 2, (padding[1],) * 2])


def conv2d(x, weight, bias=None, *, stride, padding, dilation, groups):
    """y[n,o,i,j] = b[o] + Σ x[n,c, i·s+kh·d-p, j·s+kw·d-p] W[o,c,kh,kw].

    x (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,) -> y (N, O, OH, OW).
    """
    n, c = x.shape[:2]
    o, _, *kernel_size = weight.shape
    out_size = [
        (i + 2 * p - d * (k - 1) - 1) // s + 1
        for i, k, s, p, d in zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True)
    ]
    x = _pad(x, padding)
    x = x.reshape(n, groups, c // groups, *x.shape[2:])
    weight = weight.reshape(groups, o // groups, *weight.shape[1:])
    y = np.zeros((n, groups, o // groups, *out_size), x.dtype)
    for kh, kw, window in _windows(x, kernel_size, out_size, stride, dilation):
        y += np.einsum("ngchw,goc->ngohw", window, weight[..., kh, kw], optimize=True)
    y = y.reshape(n, o, *out_size)
    return y if bias is None else y + bias[:, None, None]


def conv2d_input_grad(grad, weight, bias=None, *, input_size, stride, padding, dilation, groups):
    """gx[n,c,h,w] = b[c] + Σ g[n,o,i,j] W[o,c,kh,kw] over i·s + kh·d - p = h, j·s + kw·d - p = w.

    grad (N, O, OH, OW), weight (O, C/groups, KH, KW) -> (N, C, *input_size).
    """
    n, o, *out_size = grad.shape
    c_group, *kernel_size = weight.shape[1:]
    height, width = input_size
    grad = grad.reshape(n, groups, o // groups, *out_size)
    weight = weight.reshape(groups, o // groups, *weight.shape[1:])
    padded = np.zeros(
        (n, groups, c_group, height + 2 * padding[0], width + 2 * padding[1]), grad.dtype
    )
    for kh, kw, window in _windows(padded, kernel_size, out_size, stride, dilation):
        window += np.einsum("ngohw,goc->ngchw", grad, weight[..., kh, kw], optimize=True)
    gx = padded[..., padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    gx = gx.reshape(n, groups * c_group, height, width)
    return gx if bias is None else gx + bias[:, None, None]


def conv2d_weight_grad(x, grad, *, kernel_size, stride, padding, dilation, groups):
    """gW[o,c,kh,kw] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i·s+kh·d-p, j·s+kw·d-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C/groups, *kernel_size).
    """
    n, c = x.shape[:2]
    o, *out_size = grad.shape[1:]
    x = _pad(x, padding)
    x = x.reshape(n, groups, c // groups, *x.shape[2:])
    grad = grad.reshape(n, groups, o // groups, *out_size)
    gw = np.empty((groups, o // groups, c // groups, *kernel_size), x.dtype)
    for kh, kw, window in _windows(x, kernel_size, out_size, stride, dilation):
        gw[..., kh, kw] = np.einsum("ngohw,ngchw->goc", grad, window, optimize=True)
    return gw.reshape(o, c // groups, *kernel_size)
