"""Elements by their index, and back again for the gradient."""

from __future__ import annotations

import numpy as np

from ..autograd import Op
from ..device import array_module, kernels
from ..tensor import Tensor
from .shape import as_array, normalize_axis

__all__ = ["gather", "getitem"]


class GetItem(Op):
    def __init__(self, index):
        self.index = index
        parts = index if isinstance(index, tuple) else (index,)
        self.is_view = all(
            i is None or i is ... or isinstance(i, (int, np.integer, slice)) for i in parts
        )

    def forward(self, x):
        self.shape_in = x.shape
        return x[self.index]

    def backward(self, grad):
        return ScatterAdd(self.shape_in, self.index, unique=self.is_view)(grad)


class ScatterAdd(Op):
    """Zeros with x added at an index: the gradient of `x[index]`."""

    def __init__(self, shape, index, *, unique: bool):
        self.shape_out, self.index, self.unique = shape, index, unique

    def forward(self, x):
        if not self.unique:
            return kernels("index", x).getitem_grad(x, self.index, self.shape_out)
        out = array_module(x).zeros(self.shape_out, x.dtype)
        out[self.index] = x
        return out

    def backward(self, grad):
        return GetItem(self.index)(grad)


class Gather(Op):
    def __init__(self, axis: int, index):
        self.axis, self.index = axis, index

    def forward(self, x):
        self.shape_in = x.shape
        return kernels("index", x).gather(x, self.axis, self.index)

    def backward(self, grad):
        return GatherGrad(self.axis, self.index, self.shape_in)(grad)


class GatherGrad(Op):
    """Zeros with each gradient added where `Gather` read."""

    def __init__(self, axis: int, index, shape: tuple[int, ...]):
        self.axis, self.index, self.shape_out = axis, index, shape

    def forward(self, grad):
        return kernels("index", grad).scatter_add(grad, self.axis, self.index, self.shape_out)

    def backward(self, grad_x):
        return Gather(self.axis, self.index)(grad_x)


def getitem(x, index):
    """x[index]: numbers, slices, None, ..., integer and boolean arrays, as in NumPy.

    An element that is picked several times receives the sum of the gradients.
    """
    return GetItem(_own(index))(x)


def _own(index):
    """An index that no later write, to a mask say, can change before the backward pass."""
    if isinstance(index, tuple):
        return tuple(map(_own, index))
    if isinstance(index, Tensor):
        index = index.data
    return index.copy() if hasattr(index, "copy") else index


def gather(x, axis: int, index):
    """y[i, j, k] = x[index[i, j, k], j, k] for axis 0, and so on.

    `index` (integers) has x's number of axes and, as in PyTorch, may be smaller along the others.
    IndexError for an index that is out of range; on a GPU, where the host would have to wait for a
    look at it, it gives NaN.
    """
    index = index.data if isinstance(index, Tensor) else as_array(index)
    if index.ndim != x.ndim:
        raise ValueError(f"gather: index has {index.ndim} axes, the input has {x.ndim}")
    (axis,) = normalize_axis(axis, x.ndim, "gather")
    if any(n > m for a, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if a != axis):
        raise ValueError(
            f"gather: index {index.shape} is larger than the input {x.shape} in another axis "
            f"than {axis}"
        )
    return Gather(axis, _own(index))(x)
