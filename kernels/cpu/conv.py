"""Convolution and its two gradients, as gathered matrix products on channels-last memory.

All three products work on blocks of a few hundred output pixels. A block's receptive fields are
gathered into the rows of a matrix that stays in the cache, and BLAS multiplies it by the weights:

    output            y[pixel, o]      = Σ_k gather(x)[pixel, k]    W[o, k]        k = (kh, kw, c)
    input gradient    gx[pixel, c]     = Σ_k gather(g)[pixel, k]    W[k, c]        k = (kh, kw, o)
    weight gradient   gW[o, k]         = Σ_pixel g[pixel, o]  gather(x)[pixel, k]

The input gradient with stride s writes s·s interleaved sub-images ("phases"); each of them is an
ordinary stride-1 convolution of `g` with the taps kh ≡ phase + padding (mod s), so no products
with inserted zeros are computed and nothing is scattered. A transposed convolution *is* the input
gradient. Channels-last rows make the gathering a copy of contiguous runs, and weights kept as
(O, KH, KW, C) in memory need no repacking for the output and the weight gradient.

The taps are a list of offsets, in which neighbours along the width are joined to runs; what is not
on the list (another phase's taps) costs nothing.

FLOPs: 2·N·OH·OW·O·C/groups·KH·KW for each product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..layout import channels_last
from .blas import gemm, gemm_address, one_thread
from .jit import kernel, prange, serial_kernel
from .matmul import matmul
from .runs import copy, fill

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]

Pair = tuple[int, int]

ROWS = 384  # output pixels per block: their gathered rows fit the cache, the product is efficient
FEW_CHANNELS = 16  # below, the input gradient multiplies for all taps first and adds afterwards
MIN_DEPTH = 256  # a product shallower than this spends its time on the output: join more taps


# ------------------------------------------------------------------------------------- geometry


def _taps(phase: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Pair]:
    """(tap, offset) with input = output_index + offset, for the input gradient's one phase."""
    found = []
    for tap in reversed(range(kernel)):  # offsets then ascend, as neighbours in memory do
        distance = phase + padding - tap * dilation
        if distance % stride == 0:
            found.append((tap, distance // stride))
    return found


@lru_cache(maxsize=512)
def _output_plan(n, out_h, out_w, offsets, channels):
    """One phase: every output pixel reads from its stride-th input pixel on."""
    runs = _runs(offsets)
    pieces = _pieces(runs, channels)
    phases = np.array([[0, 0, out_h, out_w, 0, len(pieces), 0]])
    return phases, _table(pieces), _table(runs), _blocks(n, phases)


@lru_cache(maxsize=512)
def _input_grad_plan(n, height, width, kernel, stride, padding, dilation, channels_in):
    """One phase for each remainder of the position by the stride; also the taps of each."""
    phases, pieces, runs, taps = [], [], [], []
    row = 0
    for ph in range(min(stride[0], height)):
        taps_h = _taps(ph, kernel[0], stride[0], padding[0], dilation[0])
        for pw in range(min(stride[1], width)):
            taps_w = _taps(pw, kernel[1], stride[1], padding[1], dilation[1])
            nh, nw = -(-(height - ph) // stride[0]), -(-(width - pw) // stride[1])
            part = _runs((dh, dw) for _, dh in taps_h for _, dw in taps_w)
            first = len(pieces)
            pieces += _pieces(part, channels_in, len(runs))
            runs += part
            phases.append([ph, pw, nh, nw, first, len(pieces), row])
            taps.append(([t for t, _ in taps_h], [t for t, _ in taps_w]))
            row += len(taps_h) * len(taps_w) * channels_in
    phases = np.array(phases)
    return phases, _table(pieces), _table(runs), _blocks(n, phases), taps


def tap_offsets(kernel: Pair, padding: Pair, dilation: Pair) -> tuple[Pair, ...]:
    """The offset of each tap of a kernel from the output pixel's first input pixel."""
    return tuple(
        (kh * dilation[0] - padding[0], kw * dilation[1] - padding[1])
        for kh in range(kernel[0])
        for kw in range(kernel[1])
    )


def _runs(offsets: Iterable[Pair]) -> list[list[int]]:
    """(row offset, column offset, taps) of taps that follow each other and are neighbours."""
    runs = []
    for dh, dw in offsets:
        if runs and runs[-1][0] == dh and sum(runs[-1][1:]) == dw:
            runs[-1][2] += 1
        else:
            runs.append([dh, dw, 1])
    return runs


def _pieces(runs: list[list[int]], channels: int, first_run: int = 0) -> list[list[int]]:
    """(first run, last run + 1, first tap, taps) of the runs that go into one product."""
    pieces, tap = [], 0
    for run, (_, _, taps) in enumerate(runs if channels else [], first_run):
        if pieces and pieces[-1][3] * channels < MIN_DEPTH:
            pieces[-1][1] += 1
            pieces[-1][3] += taps
        else:
            pieces.append([run, run + 1, tap, taps])
        tap += taps
    return pieces


def _table(rows: list[list[int]]) -> np.ndarray:
    """As an array, of an empty list too: one type for the kernels."""
    return np.array(rows, np.int64).reshape(len(rows), -1 if rows else 4)


def _blocks(n: int, phases: np.ndarray) -> np.ndarray:
    """(phase, first pixel, last pixel + 1) for every block of work."""
    blocks = []
    for phase, (_, _, nh, nw, *_) in enumerate(phases.tolist()):
        pixels = n * nh * nw
        count = max(1, round(pixels / ROWS))
        edges = [pixels * i // count for i in range(count + 1)]
        blocks += [(phase, a, b) for a, b in pairwise(edges) if b > a]
    return np.array(blocks, np.int64).reshape(-1, 3)


# -------------------------------------------------------------------------------------- kernels


@serial_kernel
def _gather(
    cols, x, height, width, x_channels, channel, channels, first, count, nh, nw,
    stride_h, stride_w, runs,
):  # fmt: skip
    """Copy the receptive fields of output pixels first.. into rows of cols: (tap, c).

    `x` and `cols` are flat: a slice inside the loop would touch a reference count that all
    threads share. The taps of a run are neighbours in memory, one copy unless it sticks out.
    """
    image, pixel = divmod(first, nh * nw)
    i, j = divmod(pixel, nw)
    k = 0
    for _ in range(count):
        for run in range(runs.shape[0]):
            h, left = i * stride_h + runs[run, 0], j * stride_w + runs[run, 1]
            taps = runs[run, 2]
            line = (image * height + h) * width
            if h < 0 or h >= height:
                fill(cols, k, taps * channels, 0)
                k += taps * channels
            elif channels == x_channels and left >= 0 and left + taps <= width:
                copy(cols, k, x, (line + left) * channels, taps * channels)
                k += taps * channels
            else:
                for w in range(left, left + taps):
                    if w < 0 or w >= width:
                        fill(cols, k, channels, 0)
                    else:
                        copy(cols, k, x, (line + w) * x_channels + channel, channels)
                    k += channels
        j += 1
        if j == nw:
            j = 0
            i += 1
            if i == nh:
                i = 0
                image += 1


@kernel
def _gather_gemm(
    address, x, weight, weight_transposed, bias, out, stride, out_step,
    phases, pieces, runs, blocks, one,
):  # fmt: skip
    """out[pixel] = bias + gather(x)[pixel] @ weight, block by block; blocks are independent.

    x (N, H, W, C), out (N, OH, OW, O), bias (O,) or empty; weight (groups, O/groups, K) if
    transposed, else (groups, rows of all phases, O/groups).
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    groups = weight.shape[0]
    out_h, out_w, o_all = out.shape[1], out.shape[2], out.shape[3]
    c_group, o_group = channels // groups, o_all // groups
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    ldw, size = weight.shape[2], x.itemsize
    # With a single phase and group the rows of a block lie side by side in the output.
    direct = phases.shape[0] == 1 and groups == 1
    for b in prange(blocks.shape[0]):
        phase, first = blocks[b, 0], blocks[b, 1]
        count = blocks[b, 2] - first
        h0, w0, nh, nw = phases[phase, 0], phases[phase, 1], phases[phase, 2], phases[phase, 3]
        most = 0  # taps of a product
        for piece in range(phases[phase, 4], phases[phase, 5]):
            most = max(most, pieces[piece, 3])
        cols = np.empty(count * most * c_group, x.dtype)
        block = flat_out[first * o_all : (first + count) * o_all]
        if not direct:
            block = np.empty(count * o_group, x.dtype)
        for group in range(groups):
            if bias.shape[0] == 0:
                fill(block, 0, count * o_group, 0)
            else:
                for row in range(count):
                    copy(block, row * o_group, bias, group * o_group, o_group)
            for piece in range(phases[phase, 4], phases[phase, 5]):
                k0, k = pieces[piece, 2] * c_group, pieces[piece, 3] * c_group
                _gather(
                    cols, flat_x, height, width, channels, group * c_group, c_group,
                    first, count, nh, nw, stride[0], stride[1],
                    runs[pieces[piece, 0] : pieces[piece, 1]],
                )  # fmt: skip
                w = group * weight.shape[1] * ldw
                w += k0 if weight_transposed else (phases[phase, 6] + k0) * ldw
                gemm(
                    address, count, o_group, k, cols.ctypes.data, k, False,
                    weight.ctypes.data + w * size, ldw, weight_transposed,
                    one, block.ctypes.data, o_group,
                )  # fmt: skip
            if not direct:
                for row in range(count):
                    image, pixel = divmod(first + row, nh * nw)
                    i, j = divmod(pixel, nw)
                    h, w = h0 + i * out_step[0], w0 + j * out_step[1]
                    start = ((image * out_h + h) * out_w + w) * o_all + group * o_group
                    copy(flat_out, start, block, row * o_group, o_group)


@kernel
def _weight_grad(address, x, grad, out, stride, pieces, runs, rows, one):
    """out[split, group] (O/groups, K) = Σ over the split's pixels of gradᵀ gather(x).

    Parallel over (split, group, piece of the taps): each task owns its part of `out`.
    """
    splits, groups, o_group, k_all = out.shape
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    c_group = channels // groups
    nh, nw, o_all = grad.shape[1], grad.shape[2], grad.shape[3]
    pixels = grad.shape[0] * nh * nw
    flat_x, size = x.reshape(-1), x.itemsize
    for task in prange(splits * groups * pieces.shape[0]):
        split, rest = divmod(np.int64(task), groups * pieces.shape[0])
        group, piece = divmod(rest, pieces.shape[0])
        part = runs[pieces[piece, 0] : pieces[piece, 1]]
        k0, k = pieces[piece, 2] * c_group, pieces[piece, 3] * c_group
        target = ((split * groups + group) * o_group) * k_all + k0
        begin, end = pixels * split // splits, pixels * (split + 1) // splits
        cols = np.empty(rows * k, x.dtype)
        for first in range(begin, end, rows):
            count = min(rows, end - first)
            _gather(
                cols, flat_x, height, width, channels, group * c_group, c_group,
                first, count, nh, nw, stride[0], stride[1], part,
            )  # fmt: skip
            gemm(
                address, o_group, k, count,
                grad.ctypes.data + (first * o_all + group * o_group) * size, o_all, True,
                cols.ctypes.data, k, False,
                one if first > begin else one - one, out.ctypes.data + target * size, k_all,
            )  # fmt: skip


@kernel
def _products_then_sum(address, grad, weight, bias, out, stride, padding, dilation, kernel, one):
    """The input gradient for few channels: a product for all taps at once, then sums of them.

    grad (N, OH, OW, O), weight (O, KH·KW·C), out (N, H, W, C). Phase by phase such a product
    would have only C columns and run at a fraction of BLAS's speed.
    """
    nh, nw, o = grad.shape[1], grad.shape[2], grad.shape[3]
    height, width, channels = out.shape[1], out.shape[2], out.shape[3]
    k, size = weight.shape[1], grad.itemsize
    flat_out = out.reshape(-1)
    for image in prange(grad.shape[0]):
        products = np.empty(nh * nw * k, grad.dtype)
        gemm(
            address, nh * nw, k, o, grad.ctypes.data + image * nh * nw * o * size, o, False,
            weight.ctypes.data, k, False, one - one, products.ctypes.data, k,
        )  # fmt: skip
        start = image * height * width * channels
        for pixel in range(height * width):
            for c in range(channels):
                flat_out[start + pixel * channels + c] = bias[c] if bias.shape[0] > 0 else 0
        for i in range(nh):
            for kh in range(kernel[0]):
                h = i * stride[0] + kh * dilation[0] - padding[0]
                if h < 0 or h >= height:
                    continue
                for j in range(nw):
                    for kw in range(kernel[1]):
                        w = j * stride[1] + kw * dilation[1] - padding[1]
                        if 0 <= w < width:
                            source = ((i * nw + j) * kernel[0] + kh) * kernel[1] + kw
                            target = start + (h * width + w) * channels
                            for c in range(channels):
                                flat_out[target + c] += products[source * channels + c]


# ------------------------------------------------------------------------------------ functions


def nhwc(x: np.ndarray) -> np.ndarray:
    return channels_last(x).transpose(0, 2, 3, 1)


def gathered(x, weight, bias, out_size, stride, offsets):
    """y[pixel, o] = b[o] + Σ_(tap, c) x[first pixel + offset of the tap, c] W[o, (tap, c)].

    x (N, H, W, C), weight (groups, O/groups, taps · C/groups) -> (N, O, *out_size), channels-last.
    """
    out = np.empty((len(x), *out_size, weight.shape[0] * weight.shape[1]), x.dtype)
    if out.size:
        channels = x.shape[3] // weight.shape[0]
        phases, pieces, runs, blocks = _output_plan(len(x), *out_size, offsets, channels)
        with one_thread():
            _gather_gemm(
                gemm_address(x.dtype), x, weight, True, _dense_bias(bias, x.dtype), out, stride,
                (1, 1), phases, pieces, runs, blocks, x.dtype.type(1),
            )  # fmt: skip
    return out.transpose(0, 3, 1, 2)


def gathered_weight_grad(x, grad, groups, stride, offsets):
    """The gradient of `gathered` for its weight, (groups, O/groups, taps · C/groups).

    x (N, H, W, C), grad (N, OH, OW, O).
    """
    channels = x.shape[3] // groups
    shape = groups, grad.shape[3] // groups, len(offsets) * channels
    if 0 in (grad.size, x.size, len(offsets)):
        return np.zeros(shape, x.dtype)
    runs = _runs(offsets)
    pieces = _pieces(runs, channels)
    # Few, large tasks; where the weights are small, split the pixels and add the parts.
    tasks, pixels = groups * len(pieces), math.prod(grad.shape[:3])
    splits = max(1, min(-(-8 // tasks), pixels // (4 * ROWS)))
    parts = np.empty((splits, *shape), x.dtype)
    with one_thread():
        _weight_grad(
            gemm_address(x.dtype), x, grad, parts, stride, _table(pieces), _table(runs),
            2 * ROWS, x.dtype.type(1),
        )  # fmt: skip
    return parts[0] if splits == 1 else parts.sum(0)


def _dense_bias(bias: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """Contiguous, or empty: one type for the kernels, which are compiled for each."""
    return np.empty(0, dtype) if bias is None else np.ascontiguousarray(bias)


def _is_matrix_product(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair):
    """Whether every pixel is read once: a 1×1 kernel, or a kernel that covers the whole input."""
    if padding != (0, 0) or dilation != (1, 1):
        return False
    return kernel == size or (kernel == (1, 1) and stride == (1, 1))


def conv2d(x, weight, bias=None, *, stride, padding, dilation, groups):
    """y[n,o,i,j] = b[o] + Σ x[n,c, i·s+kh·d-p, j·s+kw·d-p] W[o,c,kh,kw].

    x (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,) -> y (N, O, OH, OW), channels-last.
    """
    n, _, *size = x.shape
    o, _, *kernel_size = weight.shape
    out_size = [
        (i + 2 * p - d * (k - 1) - 1) // s + 1
        for i, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]
    x, weight = nhwc(x), nhwc(weight)
    depth = math.prod(weight.shape[1:])
    if groups == 1 and _is_matrix_product(
        tuple(size), tuple(kernel_size), stride, padding, dilation
    ):
        y = matmul(x.reshape(n * math.prod(out_size), depth), weight.reshape(o, depth).T)
        if bias is not None:
            y += bias
        return y.reshape(n, *out_size, o).transpose(0, 3, 1, 2)
    weight = weight.reshape(groups, o // groups, depth)
    return gathered(x, weight, bias, out_size, stride, tap_offsets(kernel_size, padding, dilation))


def conv2d_input_grad(grad, weight, bias=None, *, input_size, stride, padding, dilation, groups):
    """gx[n,c,h,w] = b[c] + Σ g[n,o,i,j] W[o,c,kh,kw] over i·s + kh·d - p = h, j·s + kw·d - p = w.

    grad (N, O, OH, OW), weight (O, C/groups, KH, KW) -> (N, C, *input_size), channels-last. The
    gradient of `conv2d` for its input, and with a bias (C,) the transposed convolution.
    """
    n, o = grad.shape[:2]
    c = weight.shape[1] * groups
    kernel_size = weight.shape[2:]
    grad, weight = nhwc(grad), nhwc(weight)
    input_size = tuple(input_size)
    if groups == 1 and _is_matrix_product(input_size, kernel_size, stride, padding, dilation):
        matrix = weight.reshape(o, math.prod(kernel_size) * c)
        gx = matmul(grad.reshape(-1, o), matrix).reshape(n, *input_size, c)
        if bias is not None:
            gx += bias
        return gx.transpose(0, 3, 1, 2)
    out = np.empty((n, *input_size, c), grad.dtype)
    if not out.size:
        return out.transpose(0, 3, 1, 2)
    bias = _dense_bias(bias, grad.dtype)
    if groups == 1 and c < FEW_CHANNELS and grad.size:
        with one_thread():
            _products_then_sum(
                gemm_address(grad.dtype), grad, weight.reshape(o, -1), bias, out,
                stride, padding, dilation, tuple(kernel_size), grad.dtype.type(1),
            )  # fmt: skip
        return out.transpose(0, 3, 1, 2)
    phases, pieces, runs, blocks, taps = _input_grad_plan(
        n, *input_size, tuple(kernel_size), stride, padding, dilation, o // groups
    )
    # Weights of each phase as rows (kh, kw, o): copies of contiguous runs of c.
    by_group = weight.reshape(groups, o // groups, *kernel_size, c // groups)
    packed = [
        by_group[:, :, th][:, :, :, tw].transpose(0, 2, 3, 1, 4).reshape(groups, -1, c // groups)
        for th, tw in taps
    ]
    rows = np.ascontiguousarray(np.concatenate(packed, 1))  # NumPy may choose another order
    with one_thread():
        _gather_gemm(
            gemm_address(grad.dtype), grad, rows, False, bias, out, (1, 1), stride,
            phases, pieces, runs, blocks, grad.dtype.type(1),
        )  # fmt: skip
    return out.transpose(0, 3, 1, 2)


def conv2d_weight_grad(x, grad, *, kernel_size, stride, padding, dilation, groups):
    """gW[o,c,kh,kw] = Σ_{n,i,j} g[n,o,i,j] x[n,c, i·s+kh·d-p, j·s+kw·d-p].

    x (N, C, H, W), grad (N, O, OH, OW) -> (O, C/groups, *kernel_size), channels-last.
    """
    c, o = x.shape[1], grad.shape[1]
    size = x.shape[2:]
    kernel_size = tuple(kernel_size)
    x, grad = nhwc(x), nhwc(grad)
    covers = _is_matrix_product(size, kernel_size, stride, padding, dilation)
    if covers and groups == 1 and grad.size and x.size:
        out = matmul(grad.reshape(-1, o).T, x.reshape(-1, math.prod(kernel_size) * c))
    else:
        out = gathered_weight_grad(
            x, grad, groups, stride, tap_offsets(kernel_size, padding, dilation)
        )
    return out.reshape(o, *kernel_size, c // groups).transpose(0, 3, 1, 2)
