"""Convolution with weights for its live taps only, as products of windows that are never copied.

A 7 × 7 mask has 24 live taps of 49 and a 3 × 3 mask 5 of 9, so this halves the work. In
channels-last memory, neighbouring taps of a pixel are one run of numbers, and from pixel to pixel
it moves on by C numbers: `tile.product` reads the windows where they lie,

    output            y[pixel, o]   = Σ_k x[pixel + k] W[k, o]            k = (tap, c)
    weight gradient   gW[k, o]      = Σ_pixel x[pixel + k] g[pixel, o]

The input gradient is itself a masked convolution, of the output's gradient with the taps turned
round. Work goes by blocks of a few output rows. Where taps stick out of the map, a block's part
of the input is copied into a frame of zeros; a 1 × 1 kernel needs none.

FLOPs: 2 L C O for each output pixel, L live taps.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..layout import contiguous, rows
from .conv import Pair, nhwc
from .jit import kernel, prange, serial_kernel
from .runs import copy, fill
from .tile import COLUMNS, panels, product

__all__ = ["masked_conv2d", "masked_conv2d_input_grad", "masked_conv2d_weight_grad"]

PIXELS = 392
"""Output pixels of a block: their windows stay in the L2 cache while columns are computed."""

FEW_PIXELS = 64
"""The same for the gradient of the weight, whose sums stay in the L1 cache beside them."""

SPLITS = 8
"""Parts of the pixels at most for which that gradient is summed up by itself."""

SERIAL = 1 << 20
"""Multiplications up to which calling the threads (about 12 µs) does not pay."""


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
    out_size = tuple(
        i + 2 * p - k + 1 for i, p, k in zip(x.shape[2:], padding, kernel_size, strict=True)
    )
    matrix = rows(weight).reshape(len(weight), len(taps) * x.shape[1]).T
    return _windows_product(nhwc(x), matrix, bias, out_size, _offsets(taps, padding))


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
    matrix = weight.transpose(2, 0, 1)[::-1].reshape(count * o, c)
    return _windows_product(nhwc(grad), matrix, None, tuple(input_size), offsets)


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
    channels, o = x.shape[1], grad.shape[1]
    depth, columns = len(taps) * channels, -(-o // COLUMNS) * COLUMNS
    offsets = _offsets(taps, padding)
    x, grad = _as_columns(nhwc(x), nhwc(grad), offsets)
    if columns > o:  # the tiles read whole vectors
        filled = np.zeros((*grad.shape[:3], columns), grad.dtype)
        filled[..., :o] = grad
        grad = filled
    windows, blocks = _plan(x.shape, grad.shape[:3], offsets, FEW_PIXELS)
    parts = np.zeros((max(1, min(SPLITS, len(blocks))), depth, columns), x.dtype)
    if grad.size * depth > SERIAL:
        _weight_grads_in_parallel(windows, blocks, x, grad, parts)
    else:
        _weight_grads(0, len(parts), windows, blocks, x, grad, parts)
    matrix = contiguous(parts.sum(0)[:, :o].T)
    return matrix.reshape(o, len(taps), channels).swapaxes(1, 2)


def _offsets(taps: tuple[Pair, ...], padding: Pair) -> tuple[Pair, ...]:
    """From an output pixel to the input pixel that each tap meets."""
    return tuple((kh - padding[0], kw - padding[1]) for kh, kw in taps)


def _windows_product(x, matrix, bias, out_size, offsets):
    """y[pixel, o] = b[o] + Σ_k x[pixel + k] matrix[k, o], k = (tap, c): (N, O, *out_size)."""
    columns = matrix.shape[1]
    y = np.empty((len(x), *out_size, columns), x.dtype)
    x, out = _as_columns(x, y, offsets)
    windows, blocks = _plan(x.shape, out.shape[:3], offsets, PIXELS)
    filled = np.zeros(-(-columns // COLUMNS) * COLUMNS, x.dtype)
    filled[:columns] = 0 if bias is None else bias
    arguments = windows, blocks, x, panels(matrix), filled, out
    if out.size * len(matrix) > SERIAL:
        _outputs_in_parallel(*arguments)
    else:
        _outputs(0, len(blocks), *arguments)
    return y.transpose(0, 3, 1, 2)


def _as_columns(x, y, offsets):
    """All pixels one below the other, (1, N·H·W, 1, C), if each meets only that in its place."""
    if offsets != ((0, 0),) or x.shape[:3] != y.shape[:3]:
        return x, y
    pixels = math.prod(x.shape[:3])
    return x.reshape(1, pixels, 1, x.shape[3]), y.reshape(1, pixels, 1, y.shape[3])


class Windows(NamedTuple):
    """Where the windows of a block's output pixels lie in its part of the input, its frame.

    The frame begins `top` rows and `left` columns from the block's first pixel and has `width`
    columns and `more` rows more than the block. Where every tap is `inside` of the map, it is the
    map itself. Offsets are in numbers, not in pixels.
    """

    inside: bool
    top: int
    left: int
    width: int
    more: int
    pixels: np.ndarray  # where each pixel's window begins
    taps: np.ndarray  # the runs of taps in a window: (where, how many numbers)
    inputs: np.ndarray  # each number of a window
    lines: np.ndarray  # the runs of pixels in a block: (where, how many pixels)


@lru_cache(maxsize=256)
def _plan(x_shape, out_shape, offsets, pixels: int) -> tuple[Windows, np.ndarray]:
    """The windows and the blocks (image, first row, last row + 1) for inputs (N, H, W, C)."""
    _, height, width, channels = x_shape
    n, out_h, out_w = out_shape
    top, left = (min((o[axis] for o in offsets), default=0) for axis in (0, 1))
    bottom, right = (max((o[axis] for o in offsets), default=0) for axis in (0, 1))
    inside = min(top, left) >= 0 and out_h + bottom <= height and out_w + right <= width
    if inside:
        top, left = 0, 0
    else:
        width = out_w + right - left
    taps = [((dh - top) * width + dw - left) * channels for dh, dw in offsets]
    runs = []
    for tap in taps:
        if runs and sum(runs[-1]) == tap:
            runs[-1][1] += channels
        else:
            runs.append([tap, channels])
    block = max(1, pixels // max(1, out_w))
    lines = np.arange(min(block, out_h)) * width * channels
    windows = Windows(
        inside, top, left, width, bottom - top,
        pixels=(lines[:, None] + np.arange(out_w) * channels).reshape(-1),
        taps=np.array(runs, np.int64).reshape(-1, 2),
        inputs=np.add.outer(np.array(taps, np.int64), np.arange(channels)).reshape(-1),
        lines=np.stack([lines, np.full_like(lines, out_w)], 1),
    )  # fmt: skip
    blocks = [
        (image, i, min(i + block, out_h)) for image in range(n) for i in range(0, out_h, block)
    ]
    return windows, np.array(blocks, np.int64).reshape(-1, 3)


@serial_kernel
def _frame(windows, x, image, first, count):
    """(numbers, where they begin) of a block's part of the input, with zeros beside the map."""
    _, height, width, channels = x.shape
    flat = x.reshape(-1)
    if windows.inside:
        return flat, (image * height + first) * width * channels
    size = windows.width * channels
    frame = np.empty((count + windows.more) * size, x.dtype)
    before = max(0, -windows.left) * channels
    start = max(0, windows.left)
    copied = max(0, min(width, windows.left + windows.width) - start) * channels
    for row in range(count + windows.more):
        h = first + windows.top + row
        if h < 0 or h >= height or copied == 0:
            fill(frame, row * size, size, 0)
        else:
            fill(frame, row * size, before, 0)
            source = ((image * height + h) * width + start) * channels
            copy(frame, row * size + before, flat, source, copied)
            fill(frame, row * size + before + copied, size - before - copied, 0)
    return frame, 0


@serial_kernel
def _outputs(first_block, last_block, windows, blocks, x, weight, bias, out):
    """Blocks of the output, for the weight in panels."""
    _, out_h, out_w, channels = out.shape
    flat_weight, flat_out = weight.reshape(-1), out.reshape(-1)
    panel = weight.shape[1] * COLUMNS
    for block in range(first_block, last_block):
        image, first, last = blocks[block]
        frame, at = _frame(windows, x, image, first, last - first)
        pixel = (image * out_h + first) * out_w
        for o in range(0, channels, COLUMNS):
            product(
                frame, at, windows.pixels, (last - first) * out_w,
                windows.taps, len(windows.taps), 1,
                flat_weight, o // COLUMNS * panel, COLUMNS, bias, o, 0,
                flat_out, pixel * channels + o, channels, min(COLUMNS, channels - o),
            )  # fmt: skip


@kernel
def _outputs_in_parallel(windows, blocks, x, weight, bias, out):
    for block in prange(len(blocks)):
        _outputs(block, block + 1, windows, blocks, x, weight, bias, out)


@serial_kernel
def _weight_grads(first, last, windows, blocks, x, grad, parts):
    """Each part is the sum over its share of the blocks."""
    splits, depth, columns = parts.shape
    _, out_h, out_w, _ = grad.shape
    flat_grad, flat_parts = grad.reshape(-1), parts.reshape(-1)
    lines = windows.lines.copy()
    for split in range(first, last):
        for block in range(len(blocks) * split // splits, len(blocks) * (split + 1) // splits):
            image, row, end = blocks[block]
            frame, at = _frame(windows, x, image, row, end - row)
            pixel = (image * out_h + row) * out_w
            runs = end - row
            if windows.width == out_w:  # its lines follow each other: one run
                lines[0, 1] = runs * out_w
                runs = 1
            for column in range(0, columns, COLUMNS):
                target = split * depth * columns + column
                product(
                    frame, at, windows.inputs, depth, lines, runs, x.shape[3],
                    flat_grad, pixel * columns + column, columns,
                    flat_parts, target, columns, flat_parts, target, columns, COLUMNS,
                )  # fmt: skip


@kernel
def _weight_grads_in_parallel(windows, blocks, x, grad, parts):
    for split in prange(len(parts)):
        _weight_grads(split, split + 1, windows, blocks, x, grad, parts)
