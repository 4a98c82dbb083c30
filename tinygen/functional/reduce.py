"""Reductions along axes (`axis`: None for all, a number or several), and cumulative sums."""

from __future__ import annotations

import math

from ..autograd import Op
from ..device import kernels
from ..tensor import Tensor
from . import shape as S
from .elementwise import equal_zero, sqrt, where
from .shape import Axis, normalize_axis

__all__ = ["argmax", "argmin", "cumsum", "max", "mean", "min", "std", "sum", "var"]


def _with_kept_axes(x, shape: tuple[int, ...], axes: tuple[int, ...]):
    """A reduced array with size-1 axes put back, so that it broadcasts against the input."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return x if x.shape == kept else S.reshape(x, kept)


class Sum(Op):
    def __init__(self, axis: Axis, keepdims: bool):
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x):
        self.axes = normalize_axis(self.axis, x.ndim, self.name.lower())
        self.shape_in = x.shape
        return kernels("reduce", x).sum(x, self.axes, self.keepdims)

    def backward(self, grad):
        return S.expand(_with_kept_axes(grad, self.shape_in, self.axes), self.shape_in)


class Mean(Sum):
    def forward(self, x):
        total = super().forward(x)
        self.count = math.prod([x.shape[a] for a in self.axes]) or math.nan
        return total / self.count  # not times 1 / count: the mean of ones is 1

    def backward(self, grad):
        return super().backward(grad * (1 / self.count))


class _Extreme(Op):
    """`max` and `min` along axes: equal extremes share the gradient evenly."""

    def __init__(self, axis: Axis, keepdims: bool):
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x):
        name = self.name.lower()
        self.axes = normalize_axis(self.axis, x.ndim, name)
        if 0 in [x.shape[a] for a in self.axes]:
            raise ValueError(f"{name}: nothing to reduce in shape {x.shape} along {self.axes}")
        kernel = kernels("reduce", x)
        out = getattr(kernel, name)(x, self.axes, True)
        is_extreme = (x == out).astype(x.dtype)
        self.save(is_extreme / kernel.sum(is_extreme, self.axes, True))
        return out if self.keepdims else out.reshape(S.without_axes(x.shape, self.axes))

    def backward(self, grad):
        (share,) = self.saved
        return _with_kept_axes(grad, share.shape, self.axes) * share


class Max(_Extreme):
    pass


class Min(_Extreme):
    pass


class Cumsum(Op):
    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, x):
        normalize_axis(self.axis, x.ndim, "cumsum")
        return kernels("reduce", x).cumsum(x, self.axis)

    def backward(self, grad):
        return S.flip(cumsum(S.flip(grad, self.axis), self.axis), self.axis)


def sum(x, axis: Axis = None, keepdims: bool = False):
    """Sum along the axes; of nothing, 0."""
    return Sum(axis, keepdims)(x)


def mean(x, axis: Axis = None, keepdims: bool = False):
    """Arithmetic mean along the axes; of nothing, NaN."""
    return Mean(axis, keepdims)(x)


def var(x, axis: Axis = None, keepdims: bool = False, *, correction: int = 0):
    """Σ(x - mean)² / (n - correction): 0 is the population's variance (NumPy's default, unlike
    PyTorch's 1), 1 the unbiased estimate."""
    axes = normalize_axis(axis, x.ndim, "var")
    count = math.prod(x.shape[a] for a in axes) - correction
    deviation = x - mean(x, axes, keepdims=True)
    return sum(deviation * deviation, axes, keepdims) / (count if count > 0 else math.nan)


def std(x, axis: Axis = None, keepdims: bool = False, *, correction: int = 0):
    """Square root of `var`; where that is 0 (all values equal) the gradient is 0."""
    variance = var(x, axis, keepdims, correction=correction)
    constant = equal_zero(variance)
    return where(constant, 0.0, sqrt(where(constant, 1.0, variance)))


def max(x, axis: Axis = None, keepdims: bool = False):
    """Largest value along the axes (no indices: see `argmax`); ties share the gradient evenly."""
    return Max(axis, keepdims)(x)


def min(x, axis: Axis = None, keepdims: bool = False):
    """Smallest value along the axes (no indices: see `argmin`); ties share the gradient evenly."""
    return Min(axis, keepdims)(x)


def _arg(name: str, x, axis: int | None, keepdims: bool):
    data = x.data if isinstance(x, Tensor) else x
    if axis is not None:
        (axis,) = normalize_axis(axis, data.ndim, name)
    if (data.size if axis is None else data.shape[axis]) == 0:
        raise ValueError(f"{name}: nothing to reduce in shape {data.shape} along axis {axis}")
    index = getattr(kernels("reduce", data), name)(data, axis, keepdims)
    return Tensor._make(index) if isinstance(x, Tensor) else index


def argmax(x, axis: int | None = None, keepdims: bool = False):
    """Index (int64) of the first largest value along an axis, or in the flattened array."""
    return _arg("argmax", x, axis, keepdims)


def argmin(x, axis: int | None = None, keepdims: bool = False):
    """Index (int64) of the first smallest value along an axis, or in the flattened array."""
    return _arg("argmin", x, axis, keepdims)


def cumsum(x, axis: int):
    """Running sum along an axis: y_i = Σ_{j<=i} x_j."""
    return Cumsum(axis)(x)
