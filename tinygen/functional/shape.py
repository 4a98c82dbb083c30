"""Views, rearrangements, joining, cutting and indexing. Nothing is computed, only moved."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence

import numpy as np

from ..autograd import Op
from ..device import array_module
from ..tensor import Tensor, _plain_index

__all__ = [
    "cat", "chunk", "expand", "flatten", "flip", "gather", "getitem", "pad", "permute",
    "reshape", "roll", "split", "squeeze", "stack", "sum_to", "transpose", "unsqueeze",
]  # fmt: skip


def _sizes(sizes: tuple) -> tuple[int, ...]:
    """Sizes or axes given as separate numbers or as one tuple."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return tuple(int(n) for n in sizes)


def without_axes(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape that is left when these axes are reduced away."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)


class Reshape(Op):
    is_view = True

    def __init__(self, shape: tuple[int, ...]):
        self.shape_out = shape

    def forward(self, x):
        self.shape_in = x.shape
        try:
            return x.reshape(self.shape_out)
        except ValueError:
            raise ValueError(
                f"reshape: {x.size} values of shape {x.shape} do not fit {self.shape_out}"
            ) from None

    def backward(self, grad):
        return reshape(grad, self.shape_in)


class Permute(Op):
    is_view = True

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x):
        if sorted(a % x.ndim if x.ndim else a for a in self.axes) != list(range(x.ndim)):
            raise ValueError(f"permute: {self.axes} does not name each of {x.ndim} axes once")
        return x.transpose(self.axes)

    def backward(self, grad):
        n = len(self.axes)
        return permute(grad, *[int(i) for i in np.argsort([a % n for a in self.axes])])


class Expand(Op):
    is_view = True
    broadcasts = True  # the engine sums the gradient back

    def __init__(self, shape: tuple[int, ...]):
        self.shape_out = shape

    def forward(self, x):
        return array_module(x).broadcast_to(x, self.shape_out)

    def backward(self, grad):
        return grad


class SumTo(Op):
    def __init__(self, shape: tuple[int, ...]):
        self.shape_out = shape

    def forward(self, x):
        self.shape_in = x.shape
        extra = x.ndim - len(self.shape_out)
        axes = tuple(
            i for i, n in enumerate(x.shape) if i < extra or (self.shape_out[i - extra] == 1 != n)
        )
        return x.sum(axes, keepdims=True).reshape(self.shape_out)

    def backward(self, grad):
        return expand(grad, self.shape_in)


class GetItem(Op):
    def __init__(self, index):
        self.index = index
        parts = index if isinstance(index, tuple) else (index,)
        self.is_view = all(i is None or i is ... or isinstance(i, (int, slice)) for i in parts)

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
        xp = array_module(x)
        out = xp.zeros(self.shape_out, x.dtype)
        if self.unique:
            out[self.index] = x
        else:
            xp.add.at(out, self.index, x)
        return out

    def backward(self, grad):
        return GetItem(self.index)(grad)


class Cat(Op):
    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *xs):
        self.ends = np.cumsum([x.shape[self.axis] for x in xs]).tolist()
        return array_module(xs[0]).concatenate(xs, self.axis)

    def backward(self, grad):
        starts = [0, *self.ends[:-1]]
        before = (slice(None),) * (self.axis % grad.ndim)
        return tuple(
            grad[(*before, slice(a, b))] if self.needs_grad(i) else None
            for i, (a, b) in enumerate(zip(starts, self.ends, strict=True))
        )


class Pad(Op):
    def __init__(self, widths, value: float):
        self.widths, self.value = widths, value

    def forward(self, x):
        self.inner = tuple(slice(a, a + n) for (a, _), n in zip(self.widths, x.shape, strict=True))
        return array_module(x).pad(x, self.widths, constant_values=self.value)

    def backward(self, grad):
        return grad[self.inner]


class Flip(Op):
    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x):
        return array_module(x).flip(x, self.axes).copy()

    def backward(self, grad):
        return flip(grad, *self.axes)


class Roll(Op):
    def __init__(self, shift, axis):
        self.shift, self.axis = shift, axis

    def forward(self, x):
        return array_module(x).roll(x, self.shift, self.axis)

    def backward(self, grad):
        if isinstance(self.shift, tuple):
            return roll(grad, tuple(-s for s in self.shift), self.axis)
        return roll(grad, -self.shift, self.axis)


def reshape(x, *shape):
    """The same values, in C order, under another shape; one size may be -1."""
    return Reshape(_sizes(shape))(x)


def permute(x, *axes):
    """The axes in another order."""
    return Permute(_sizes(axes))(x)


def transpose(x, axis0: int, axis1: int):
    """Two axes swapped."""
    axes = list(range(x.ndim))
    axes[axis0], axes[axis1] = axes[axis1], axes[axis0]
    return permute(x, *axes)


def expand(x, *shape):
    """A view with axes of size 1 (or new leading axes) repeated; -1 keeps a size."""
    shape = _sizes(shape)
    extra = len(shape) - x.ndim
    full = tuple(x.shape[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(shape))
    fits = extra >= 0 and all(
        n == m or n == 1 for n, m in zip(x.shape, full[extra:], strict=True)
    )
    if not fits or -1 in full:
        raise ValueError(f"expand: shape {x.shape} to {shape}: only axes of size 1 can be repeated")
    return Expand(full)(x)


def sum_to(x, shape: tuple[int, ...]):
    """x summed over the axes along which `shape` would be broadcast: the adjoint of `expand`."""
    return x if x.shape == tuple(shape) else SumTo(tuple(shape))(x)


def flatten(x, start_axis: int = 0, end_axis: int = -1):
    """The axes from start to end (inclusive) as one, in C order."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = start_axis % x.ndim, end_axis % x.ndim
    return reshape(x, *x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def squeeze(x, axis=None):
    """Without the axes of size 1: all of them, or those named (which stay if they are larger)."""
    named = range(x.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    gone = [a % x.ndim for a in named if x.shape[a] == 1]
    return reshape(x, without_axes(x.shape, gone))


def unsqueeze(x, axis: int):
    """With a new axis of size 1 at this place."""
    axis = axis % (x.ndim + 1)
    return reshape(x, *x.shape[:axis], 1, *x.shape[axis:])


def getitem(x, index):
    """x[index]: numbers, slices, None, ..., integer and boolean arrays, as in NumPy.

    An element that is picked several times receives the sum of the gradients.
    """
    return GetItem(_plain_index(index))(x)


def gather(x, axis: int, index):
    """y[i, j, k] = x[index[i, j, k], j, k] for axis 0, and so on.

    `index` (integers) has x's number of axes and, as in PyTorch, may be smaller along the others.
    """
    index = index.data if isinstance(index, Tensor) else np.asarray(index)
    if index.ndim != x.ndim:
        raise ValueError(f"gather: index has {index.ndim} axes, the input has {x.ndim}")
    xp = array_module(index)
    grid = list(xp.ogrid[tuple(slice(n) for n in index.shape)]) if x.ndim else []
    grid[axis] = index
    return GetItem(tuple(grid))(x)


def cat(tensors: Sequence, axis: int = 0):
    """Joined along an existing axis; all other sizes must agree."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: needs at least one tensor")
    first = tensors[0]
    for i, x in enumerate(tensors):
        if x.ndim != first.ndim or any(
            n != m
            for a, (n, m) in enumerate(zip(x.shape, first.shape, strict=False))
            if a != axis % first.ndim
        ):
            raise ValueError(
                f"cat: shapes {first.shape} (input 0) and {x.shape} (input {i}) differ in another "
                f"axis than {axis}"
            )
    return Cat(axis)(*tensors)


def stack(tensors: Sequence, axis: int = 0):
    """Joined along a new axis; all shapes must agree."""
    tensors = list(tensors)
    shapes = {tuple(x.shape) for x in tensors}
    if len(shapes) != 1:
        raise ValueError(f"stack: needs one shape, got {sorted(shapes)}")
    return cat([unsqueeze(x, axis) for x in tensors], axis)


def split(x, sizes: int | Sequence[int], axis: int = 0) -> tuple:
    """Pieces along an axis: of one size (the last may be smaller), or of the sizes given."""
    n = x.shape[axis]
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError(f"split: size {sizes} must be at least 1")
        sizes = [builtins.min(sizes, n - start) for start in range(0, n, sizes)] or [0]
    if builtins.sum(sizes) != n:
        raise ValueError(f"split: sizes {list(sizes)} add up to {builtins.sum(sizes)}, not {n}")
    before = (slice(None),) * (axis % x.ndim)
    ends = np.cumsum(sizes).tolist()
    return tuple(
        getitem(x, (*before, slice(end - size, end))) for size, end in zip(sizes, ends, strict=True)
    )


def chunk(x, chunks: int, axis: int = 0) -> tuple:
    """About `chunks` pieces of equal size along an axis (fewer if it is short, as in PyTorch)."""
    if chunks < 1:
        raise ValueError(f"chunk: {chunks} pieces; at least 1")
    return split(x, builtins.max(1, -(-x.shape[axis] // chunks)), axis)


def pad(x, pad: Sequence[int], *, value: float = 0.0):
    """Constant padding; `pad` is (before, after) for the last axis, then the one before it, ..."""
    if len(pad) % 2 or len(pad) > 2 * x.ndim or builtins.min(pad, default=0) < 0:
        raise ValueError(
            f"pad: {tuple(pad)} must be pairs (before, after), none negative, "
            f"for at most {x.ndim} axes, last axis first"
        )
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    return Pad([(0, 0)] * (x.ndim - len(pairs)) + pairs, value)(x)


def flip(x, *axes):
    """Reversed along the axes."""
    return Flip(_sizes(axes))(x)


def roll(x, shift, axis):
    """Shifted along the axis (or axes), what falls off one end coming in at the other."""
    return Roll(shift, axis)(x)
