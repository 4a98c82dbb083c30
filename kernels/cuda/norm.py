"""Batch norm with its activation, and layer norm (`norm.cu`, `layer_norm.cu`).

Batch norm takes channels-last memory, which convolutions return, and C-contiguous memory as they
are; results have the order of their input. Sums join in a fixed order, so equal inputs give equal
bits. The arrays' dtype is float32 or float64; means and gradients of a channel join in float64.
"""

from __future__ import annotations

import math

import cupy

from ..layout import contiguous, dense_like, is_channels_last
from ..reference import norm as reference
from ..reference.norm import leaky_slope
from .launch import REALS, Source, blocks, ctype
from .walk import PACK, THREADS, Walk, pack_of, plan

__all__ = [
    "batch_norm",
    "batch_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "scale_shift",
    "scale_shift_grad",
    "update_running",
]

_BATCH = Source("norm.cu", REAL=REALS, PACK=(1, PACK))
_LAYER = Source("layer_norm.cu", REAL=REALS, PACK=(1, PACK))
_WARPS = THREADS // 32


def batch_norm(
    x: cupy.ndarray,
    weight: cupy.ndarray | None,
    bias: cupy.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """See `reference.norm`."""
    slope = leaky_slope(activation, param)
    x = _arranged(x)
    if not x.size:
        return cupy.empty_like(x), *cupy.zeros((2, x.shape[1]), x.dtype)
    mean, var = cupy.empty((2, x.shape[1]), x.dtype)
    y = cupy.empty_like(x)
    walk, pack = _walk(x, y)
    partial = cupy.empty((x.shape[1], walk.chunks, 3), x.dtype)
    _launch("moments", walk, pack, x, (x, partial))
    _per_channel("finish_moments", x, (x.shape[1], walk.chunks, partial, mean, var))
    affine = _affine(x, mean, var, weight, bias)
    _launch("normalise", walk, pack, x, (x, *affine, eps, slope, y))
    return y, mean, var


def batch_norm_grad(
    grad: cupy.ndarray,
    x: cupy.ndarray,
    mean: cupy.ndarray,
    var: cupy.ndarray,
    weight: cupy.ndarray | None,
    bias: cupy.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[cupy.ndarray, cupy.ndarray | None, cupy.ndarray | None]:
    """See `reference.norm`."""
    slope = leaky_slope(activation, param)
    wanted = weight is not None, bias is not None
    return _gradients(grad, x, (mean, var, weight, bias), eps, slope, wanted)


def scale_shift(
    x: cupy.ndarray,
    scale: cupy.ndarray,
    shift: cupy.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> cupy.ndarray:
    """See `reference.norm`."""
    slope = leaky_slope(activation, param)
    x = _arranged(x)
    y = cupy.empty_like(x)
    if x.size:
        walk, pack = _walk(x, y)
        affine = _affine(x, None, None, scale, shift)
        _launch("normalise", walk, pack, x, (x, *affine, 0.0, slope, y))
    return y


def scale_shift_grad(
    grad: cupy.ndarray,
    x: cupy.ndarray,
    scale: cupy.ndarray,
    shift: cupy.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """See `reference.norm`."""
    slope = leaky_slope(activation, param)
    return _gradients(grad, x, (None, None, scale, shift), 0.0, slope, (True, True))


def _gradients(grad, x, affine, eps, slope, wanted):
    """Gradients for x, and for weight and bias where wanted; without a mean, of an affine map."""
    x = _arranged(x)
    channels = x.shape[1]
    grad_x = cupy.empty_like(x)
    if not x.size:
        return grad_x, *(cupy.zeros(channels, x.dtype) if w else None for w in wanted)
    grad_weight, grad_bias = (cupy.empty(channels, x.dtype) if w else None for w in wanted)
    grad = dense_like(grad, x)
    affine = _affine(x, *affine)
    fixed = affine[0] is None
    correction = None if fixed else cupy.empty((2, channels), x.dtype)
    walk, pack = _walk(x, grad, grad_x)
    partial = cupy.empty((channels, walk.chunks, 2), x.dtype)
    _launch("gradient_sums", walk, pack, x, (grad, x, *affine, eps, slope, partial))
    shape = channels, walk.chunks, x.size // channels
    results = grad_weight, grad_bias, correction
    _per_channel("finish_sums", x, (*shape, partial, affine[1], eps, *results))
    _launch("input_gradient", walk, pack, x, (grad, x, *affine, eps, slope, correction, grad_x))
    return grad_x, grad_weight, grad_bias


def _arranged(x):
    """`x` in memory that a walk can take: channels-last or C-contiguous."""
    return x if is_channels_last(x) else contiguous(x)


def _spatial(x) -> tuple[int, int, int]:
    """Arranged memory as (outer, channels, inner)."""
    n, channels, *spatial = x.shape
    if is_channels_last(x):
        return n * math.prod(spatial), channels, 1
    return n, channels, math.prod(spatial)


def _walk(x, *arrays) -> tuple[Walk, int]:
    """How to walk along the channels of `x`, and the values that a load takes."""
    outer, channels, inner = _spatial(x)
    pack = pack_of(channels, inner, x, *arrays)
    return plan(1, outer, channels, inner, pack=pack), pack


def _affine(x, *vectors):
    """Vectors (C,), or None, as a kernel reads them."""
    return [None if v is None else contiguous(v.astype(x.dtype, copy=False)) for v in vectors]


def _launch(name: str, walk: Walk, pack: int, x, arguments, source: Source = _BATCH) -> None:
    kernel = source.kernel(name, REAL=ctype(x), PACK=pack)
    kernel(walk.grid, THREADS, (walk.struct, *arguments))


def _per_channel(name: str, x, arguments) -> None:
    """A warp for each of the channels, the first argument."""
    kernel = _BATCH.kernel(name, REAL=ctype(x), PACK=1)
    kernel(blocks(arguments[0], _WARPS), THREADS, arguments)


def update_running(
    running_mean: cupy.ndarray,
    running_var: cupy.ndarray,
    mean: cupy.ndarray,
    var: cupy.ndarray,
    *,
    momentum: float,
    count: int,
) -> None:
    """See `reference.norm`; one launch in place of seven."""
    arrays = running_mean, running_var, mean, var
    if len({a.dtype for a in arrays}) > 1 or not all(a.flags.c_contiguous for a in arrays):
        reference.update_running(*arrays, momentum=momentum, count=count)
        return
    kernel = _BATCH.kernel("update_running", REAL=ctype(mean), PACK=1)
    unbias = count / (count - 1)
    kernel(blocks(mean.size, THREADS), THREADS, (mean.size, *arrays, momentum, unbias))


def layer_norm(
    x: cupy.ndarray, weight: cupy.ndarray | None, bias: cupy.ndarray | None, *, eps: float
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """See `reference.norm`."""
    x = contiguous(x)
    rows, width = x.shape
    y = cupy.empty_like(x)
    mean, rstd = cupy.empty((2, rows), x.dtype)
    if not x.size:
        mean.fill(0)
        rstd.fill(1 / math.sqrt(eps))  # of no values: variance 0
        return y, mean, rstd
    pack = pack_of(1, width, x, y)
    walk = plan(1, 1, rows, width, pack=pack, split=False)
    arguments = x, *_affine(x, weight, bias), eps, y, mean, rstd
    _launch("layer_norm", walk, pack, x, arguments, _LAYER)
    return y, mean, rstd


def layer_norm_grad(
    grad: cupy.ndarray,
    x: cupy.ndarray,
    mean: cupy.ndarray,
    rstd: cupy.ndarray,
    weight: cupy.ndarray | None,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """See `reference.norm`."""
    x, grad = contiguous(x), contiguous(grad)
    rows, width = x.shape
    grad_x = cupy.empty_like(x)
    if not x.size:
        return grad_x, *cupy.zeros((2, width), x.dtype)
    mean, rstd, weight = _affine(x, mean, rstd, weight)
    pack = pack_of(1, width, x, grad, grad_x)
    along = plan(1, 1, rows, width, pack=pack, split=False)
    arguments = grad, x, mean, rstd, weight, grad_x
    _launch("layer_norm_input_gradient", along, pack, x, arguments, _LAYER)

    across = plan(1, rows, width, 1, pack=pack)
    partial = cupy.empty((width, across.chunks, 2), x.dtype)
    _launch("layer_norm_sums", across, pack, x, (grad, x, mean, rstd, partial), _LAYER)
    grad_weight, grad_bias = cupy.empty((2, width), x.dtype)
    results = grad_weight, grad_bias, None
    _per_channel("finish_sums", x, (width, across.chunks, rows, partial, None, 0.0, *results))
    return grad_x, grad_weight, grad_bias


# ------------------------------------------------ version 1 of each, for reading and for the tests


def _batch_norm_plain(x, weight, bias, *, eps, activation="identity", param=0.0):
    """`batch_norm`, a thread a channel; arranged memory, not empty."""
    outer, channels, inner = _spatial(x)
    mean, var = cupy.empty((2, channels), x.dtype)
    y = cupy.empty_like(x)
    size = outer * inner, channels, inner
    slope = leaky_slope(activation, param)
    kernel = _BATCH.kernel("batch_norm_plain", REAL=ctype(x), PACK=1)
    kernel(blocks(channels, 64), 64, (*size, x, weight, bias, eps, slope, y, mean, var))
    return y, mean, var


def _batch_norm_grad_plain(grad, x, *affine, eps, activation="identity", param=0.0):
    """`batch_norm_grad`, a thread a channel; arranged memory, not empty."""
    outer, channels, inner = _spatial(x)
    results = [
        cupy.empty_like(x),
        *(None if v is None else cupy.empty_like(v) for v in affine[2:]),
    ]
    size = outer * inner, channels, inner
    slope = leaky_slope(activation, param)
    kernel = _BATCH.kernel("batch_norm_grad_plain", REAL=ctype(x), PACK=1)
    arguments = *size, dense_like(grad, x), x, *affine, eps, slope, *results
    kernel(blocks(channels, 64), 64, arguments)
    return tuple(results)


def _layer_norm_plain(x, weight, bias, *, eps):
    """`layer_norm`, a thread a row; C-contiguous, not empty."""
    rows, width = x.shape
    y = cupy.empty_like(x)
    mean, rstd = cupy.empty((2, rows), x.dtype)
    kernel = _LAYER.kernel("layer_norm_plain", REAL=ctype(x), PACK=1)
    kernel(blocks(rows, 64), 64, (rows, width, x, weight, bias, eps, y, mean, rstd))
    return y, mean, rstd


def _layer_norm_grad_plain(grad, x, mean, rstd, weight):
    """`layer_norm_grad`, a thread a row and a thread a column; C-contiguous, not empty."""
    rows, width = x.shape
    grad_x = cupy.empty_like(x)
    sums = cupy.empty((2, width), x.dtype)
    kernel = _LAYER.kernel("layer_norm_grad_plain", REAL=ctype(x), PACK=1)
    arguments = rows, width, grad, x, mean, rstd, weight, grad_x, *sums
    kernel(blocks(max(rows, width), 64), 64, arguments)
    return grad_x, *sums
