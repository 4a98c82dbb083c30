"""Softmax and its relatives along one axis, by kernels that work on the rows of a matrix."""

from __future__ import annotations

import math

from ..autograd import Op
from ..device import kernels
from ..tensor import Tensor
from .checks import check_floats
from .elementwise import exp
from .reduce import normalize_axis, sum
from .shape import permute, reshape, unsqueeze

__all__ = ["log_softmax", "logsumexp", "softmax"]


class Softmax(Op):
    """y = exp(x) / Σ exp(x) along the rows of (M, K)."""

    def forward(self, x):
        y = kernels("softmax", x).softmax(x)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        if isinstance(grad, Tensor):
            return y * (grad - sum(grad * y, 1, keepdims=True))
        return kernels("softmax", grad).softmax_grad(grad, y)


class LogSoftmax(Op):
    """y = x - log Σ exp(x) along the rows of (M, K)."""

    def forward(self, x):
        y = kernels("softmax", x).log_softmax(x)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        if isinstance(grad, Tensor):
            return grad - exp(y) * sum(grad, 1, keepdims=True)
        return kernels("softmax", grad).log_softmax_grad(grad, y)


class LogSumExp(Op):
    """log Σ exp(x) along the rows of (M, K) -> (M,)."""

    def forward(self, x):
        self.save(x)
        return kernels("softmax", x).logsumexp(x)

    def backward(self, grad):
        (x,) = self.saved
        return unsqueeze(grad, 1) * Softmax()(x)


def _rows(x, axis: int, op: str):
    """x with the axis last, as a matrix; and a function that undoes it."""
    (axis,) = normalize_axis(axis, x.ndim, op)
    check_floats(op, input=x)
    order = [*(i for i in range(x.ndim) if i != axis), axis]
    moved = x if axis == x.ndim - 1 else permute(x, *order)
    size = moved.shape[-1]
    matrix = reshape(moved, math.prod(moved.shape[:-1]), size)
    back = [order.index(i) for i in range(x.ndim)]

    def restore(y):
        y = reshape(y, moved.shape)
        return y if axis == x.ndim - 1 else permute(y, *back)

    return matrix, restore


def softmax(input, axis: int = -1):
    """exp(x) / Σ exp(x) along the axis, shifted by the maximum so that nothing overflows."""
    matrix, restore = _rows(input, axis, "softmax")
    return restore(Softmax()(matrix))


def log_softmax(input, axis: int = -1):
    """x - log Σ exp(x) along the axis: accurate where softmax rounds to 0 or 1."""
    matrix, restore = _rows(input, axis, "log_softmax")
    return restore(LogSoftmax()(matrix))


def logsumexp(input, axis: int = -1, keepdims: bool = False):
    """log Σ exp(x) along the axis, without overflow; of nothing, -inf."""
    matrix, _ = _rows(input, axis, "logsumexp")
    axis %= input.ndim
    kept = [1 if i == axis else n for i, n in enumerate(input.shape)]
    shape = kept if keepdims else [n for i, n in enumerate(input.shape) if i != axis]
    return reshape(LogSumExp()(matrix), shape)
