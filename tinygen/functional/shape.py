"""Views, rearrangements, joining and cutting. Nothing is computed, only moved."""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..autograd import Op
from ..device import array_module, device_of, kernels
from ..tensor import Tensor

__all__ = [
    "cat", "chunk", "expand", "flatten", "flip", "pad", "permute", "reshape", "roll", "split",
    "squeeze", "stack", "sum_to", "transpose", "unsqueeze",
]  # fmt: skip

Axis = int | tuple[int, ...] | None


def _sizes(sizes: tuple) -> tuple[int, ...]:
    """Sizes or axes given as separate numbers or as one tuple."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return tuple(int(n) for n in sizes)


def normalize_axis(axis: Axis, ndim: int, op: str) -> tuple[int, ...]:
    """All the axes meant, as distinct numbers from 0 up. ValueError names the op."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(f"{op}: axis {a} is out of range for {ndim} axes")
    result = tuple(a % ndim for a in axes)
    if len(set(result)) != len(result):
        raise ValueError(f"{op}: axis {axis} names one axis twice")
    return result


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
        return kernels("reduce", x).sum(x, axes, True).reshape(self.shape_out)

    def backward(self, grad):
        return expand(grad, self.shape_in)


class Split(Op):
    """Views between cuts along an axis that follow each other."""

    is_view = True

    def __init__(self, axis: int, cuts: Sequence[slice]):
        self.axis, self.cuts = axis, cuts

    def forward(self, x):
        before = (slice(None),) * self.axis
        return tuple([x[(*before, cut)] for cut in self.cuts])

    def backward(self, *grads):
        like = next(g for g in grads if g is not None)
        pairs = zip(grads, self.cuts, strict=True)
        return cat([self._zeros(like, cut) if g is None else g for g, cut in pairs], self.axis)

    def _zeros(self, like, cut: slice):
        """The gradient of a piece that nobody used, beside that of one that somebody did."""
        like = like.data if isinstance(like, Tensor) else like
        shape = [*like.shape]
        shape[self.axis] = cut.stop - cut.start
        return array_module(like).zeros(shape, like.dtype)


class Cat(Op):
    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *xs):
        xp = array_module(xs[0])
        ends = np.cumsum([x.shape[self.axis] for x in xs]).tolist()
        before = (slice(None),) * self.axis
        cuts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        self.places = [(*before, cut) for cut in cuts]
        if xp is np or len(xs) <= 8:
            return xp.concatenate(xs, self.axis)
        # For more CuPy sends a table of addresses to the GPU, which a graph can't record.
        shape = (*xs[0].shape[: self.axis], ends[-1], *xs[0].shape[self.axis + 1 :])
        out = xp.empty(shape, np.result_type(*(x.dtype for x in xs)))
        for place, x in zip(self.places, xs, strict=True):
            out[place] = x
        return out

    def backward(self, grad):
        return tuple(
            grad[place] if self.needs_grad(i) else None for i, place in enumerate(self.places)
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
    def __init__(self, shifts: tuple[int, ...], axes: tuple[int, ...]):
        self.shifts, self.axes = shifts, axes

    def forward(self, x):
        return array_module(x).roll(x, self.shifts, self.axes)

    def backward(self, grad):
        return roll(grad, tuple(-s for s in self.shifts), self.axes)


def reshape(x, *shape):
    """The same values, in C order, under another shape; one size may be -1."""
    return Reshape(_sizes(shape))(x)


def permute(x, *axes):
    """The axes in another order."""
    return Permute(_sizes(axes))(x)


def transpose(x, axis0: int, axis1: int):
    """Two axes swapped."""
    axis0, axis1 = (normalize_axis(a, x.ndim, "transpose")[0] for a in (axis0, axis1))
    axes = list(range(x.ndim))
    axes[axis0], axes[axis1] = axes[axis1], axes[axis0]
    return permute(x, *axes)


def expand(x, *shape):
    """A view with axes of size 1 (or new leading axes) repeated; -1 keeps a size."""
    shape = _sizes(shape)
    extra = len(shape) - x.ndim
    full = tuple(x.shape[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(shape))
    fits = extra >= 0 and all(n == m or n == 1 for n, m in zip(x.shape, full[extra:], strict=True))
    if not fits or -1 in full:
        raise ValueError(
            f"expand: shape {x.shape} to {shape}: only axes of size 1 can be repeated"
        )
    return Expand(full)(x)


def sum_to(x, shape: tuple[int, ...]):
    """x summed over the axes along which `shape` would be broadcast: the adjoint of `expand`."""
    return x if x.shape == tuple(shape) else SumTo(tuple(shape))(x)


def flatten(x, start_axis: int = 0, end_axis: int = -1):
    """The axes from start to end (inclusive) as one, in C order."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = (normalize_axis(a, x.ndim, "flatten")[0] for a in (start_axis, end_axis))
    if start > end:
        raise ValueError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis}")
    return reshape(x, *x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def squeeze(x, axis=None):
    """Without the axes of size 1: all of them, or those named (which stay if they are larger)."""
    gone = [a for a in normalize_axis(axis, x.ndim, "squeeze") if x.shape[a] == 1]
    return reshape(x, without_axes(x.shape, gone))


def unsqueeze(x, axis: int):
    """With a new axis of size 1 at this place."""
    (axis,) = normalize_axis(axis, x.ndim + 1, "unsqueeze")
    return reshape(x, *x.shape[:axis], 1, *x.shape[axis:])


def as_array(x):
    """Numbers and lists as a NumPy array; an array on a GPU stays there."""
    return np.asarray(x) if device_of(x) == "cpu" else x


def cat(tensors: Sequence, axis: int = 0):
    """Joined along an existing axis; all other sizes must agree."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: needs at least one tensor")
    first = tensors[0]
    (axis,) = normalize_axis(axis, first.ndim, "cat")
    for i, x in enumerate(tensors):
        if x.ndim != first.ndim or any(
            n != m for a, (n, m) in enumerate(zip(x.shape, first.shape, strict=False)) if a != axis
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
    (axis,) = normalize_axis(axis, x.ndim, "split")
    n = x.shape[axis]
    if isinstance(sizes, (int, np.integer)):
        if sizes < 1:
            raise ValueError(f"split: size {sizes} must be at least 1")
        sizes = [builtins.min(sizes, n - start) for start in range(0, n, sizes)] or [0]
    if builtins.sum(sizes) != n or builtins.min(sizes, default=0) < 0:
        raise ValueError(f"split: sizes {list(sizes)} must add up to {n}, none negative")
    ends = itertools.accumulate(sizes)
    return Split(axis, [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)])(x)


def chunk(x, chunks: int, axis: int = 0) -> tuple:
    """About `chunks` pieces of equal size along an axis (fewer if it is short, as in PyTorch)."""
    if chunks < 1:
        raise ValueError(f"chunk: {chunks} pieces; at least 1")
    (axis,) = normalize_axis(axis, x.ndim, "chunk")
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
    return Flip(normalize_axis(_sizes(axes), x.ndim, "flip"))(x)


def roll(x, shift, axis):
    """Shifted along the axis (or axes), what falls off one end coming in at the other."""
    shifts, axes = (tuple(np.atleast_1d(v).tolist()) for v in (shift, axis))
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    return Roll(shifts, normalize_axis(axes, x.ndim, "roll"))(x)
