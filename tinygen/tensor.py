"""Tensor: an array, its place on the tape, and the operators a NumPy or PyTorch user reaches for.

The arithmetic itself stands in `tinygen.functional`; `tinygen.autograd` is the tape.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import device as _device

__all__ = ["Tensor", "tensor"]

_new = object.__new__


class Tensor:
    """An n-dimensional array that can take part in automatic differentiation.

    `data` is the NumPy (or CuPy) array, `grad` the gradient that `backward` accumulated. Use
    `tinygen.tensor` to make one from anything; the constructor takes an array as it is.

    >>> import tinygen
    >>> x = tinygen.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "_requires_grad", "data", "grad", "node", "version")
    __array_ufunc__ = None  # `array * tensor` must reach Tensor.__rmul__, not loop over elements

    def __init__(self, data: Any, *, requires_grad: bool = False):
        self.data = data
        self.grad: Tensor | None = None
        self.node = None
        self.version: list = [0, None]  # writes in place, shared with views; the last one's line
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def _make(cls, data, node=None, version: list | None = None) -> Tensor:
        """What the tape calls for each result: no checks."""
        self = _new(Tensor)
        self.data = data if type(data) is np.ndarray else _as_array(data)
        self.grad = None
        self.node = node
        self.version = [0, None] if version is None else version
        self._requires_grad = node is not None
        return self

    # ------------------------------------------------------------------------------- the tape

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to, or through, this tensor."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.data.dtype.kind != "f":
            raise TypeError(
                f"requires_grad: expected a floating-point tensor, got {self.data.dtype}"
            )
        if not value and not self.is_leaf:
            raise ValueError("requires_grad: only a leaf can be switched off; use x.detach()")
        self._requires_grad = bool(value)
        if not value:
            self.node = None

    def requires_grad_(self, value: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = value
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user rather than by a recorded operation."""
        return self.node is None or isinstance(self.node, autograd.op.Leaf)

    def node_for_grad(self):
        """Where on the tape this tensor's gradient arrives; None if it needs none."""
        if self.node is None and self._requires_grad:
            self.node = autograd.op.Leaf(self)
        return self.node

    def backward(
        self,
        gradient: Any = None,
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Accumulate gradients in the leaves: see `tinygen.autograd.backward`."""
        autograd.backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    def detach(self) -> Tensor:
        """The same memory, cut off from the tape."""
        return Tensor._make(self.data, None, self.version)

    def clone(self) -> Tensor:
        """A copy in memory of its own, still on the tape."""
        return F.clone(self)

    def set_data(self, array: Any) -> None:
        """Replace the array of a leaf (another dtype, device or shape); views keep the old one."""
        if not self.is_leaf:
            raise ValueError("set_data: only a leaf's array can be replaced")
        self.data, self.grad, self.node = array, None, None
        self.version = [self.version[0] + 1, autograd.modes.caller()]

    def __copy__(self) -> Tensor:
        return self._copied(self.data, self.version, self.grad)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self._copied(self.data.copy(order="K"), [0, None], copy.deepcopy(self.grad, memo))

    def _copied(self, data, version: list, grad: Tensor | None) -> Tensor:
        if not self.is_leaf:
            raise ValueError("deepcopy: only leaves can be copied; use x.detach() or x.clone()")
        other = type(self).__new__(type(self))
        other.data, other.grad, other.node, other.version = data, grad, None, version
        other._requires_grad = self._requires_grad
        return other

    # -------------------------------------------------------------------- arrays and conversion

    shape = property(lambda self: self.data.shape, doc="Size along every axis.")
    ndim = property(lambda self: self.data.ndim, doc="Number of axes.")
    size = property(lambda self: self.data.size, doc="Number of elements.")
    dtype = property(lambda self: self.data.dtype, doc="NumPy dtype of the elements.")
    device = property(lambda self: _device.device_of(self.data), doc='"cpu" or "cuda:<index>".')
    T = property(lambda self: F.permute(self, *reversed(range(self.ndim))), doc="Axes reversed.")

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares this tensor's memory.

        Raises RuntimeError for a tensor on the tape: say `x.detach().numpy()`.
        """
        if self._requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use x.detach().numpy()")
        return _device.move(self.data, "cpu")

    def item(self) -> float | int | bool:
        """The value of a tensor with one element, as a Python number."""
        if self.data.size != 1:
            raise ValueError(f"item: shape {self.shape} holds {self.data.size} values, not 1")
        return self.data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return _device.move(self.data, "cpu").tolist()

    def to(self, target: Any) -> Tensor:
        """On a device (`"cuda"`) or with a dtype (`np.float64`); itself if it is so already."""
        if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
            return F.to_device(self, target)
        return self.astype(target)

    def astype(self, dtype: Any) -> Tensor:
        """With another dtype; itself if it has it already."""
        return self if self.data.dtype == dtype else F.astype(self, dtype)

    def cpu(self) -> Tensor:
        """On the CPU."""
        return self.to("cpu")

    def float(self) -> Tensor:
        """As float32."""
        return self.astype(np.float32)

    def double(self) -> Tensor:
        """As float64."""
        return self.astype(np.float64)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.numpy()
        if copy is False and dtype is not None and array.dtype != dtype:
            raise ValueError(f"__array__: {array.dtype} as {dtype} needs a copy")
        return np.array(array, dtype=dtype, copy=bool(copy)) if copy else np.asarray(array, dtype)

    def __dlpack__(self, **options):
        if self._requires_grad:
            raise BufferError("DLPack: this tensor requires a gradient; export x.detach()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous")
        return bool(self.data.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iu":
            raise TypeError(f"expected an integer tensor as an index, got {self.data.dtype}")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 and spec else repr(self)

    __hash__ = object.__hash__  # `==` compares elements; a tensor is a key by identity

    def __repr__(self) -> str:
        array = _device.move(self.data, "cpu")
        notes = []
        if not self.size:
            notes.append(f"shape={self.shape}")
        if array.dtype not in (np.float32, np.int64, np.bool_):
            notes.append(f"dtype={array.dtype}")
        if self.device != "cpu":
            notes.append(f"device={self.device!r}")
        if not self.is_leaf:
            node = self.node.parents[0] if isinstance(self.node, autograd.op.Output) else self.node
            notes.append(f"from={node.name}")
        elif self._requires_grad:
            notes.append("requires_grad=True")
        text = np.array2string(array, separator=", ", prefix="tensor(", precision=4)
        return f"tensor({', '.join([text, *notes])})"

    # ------------------------------------------------------------------------------ arithmetic

    # `+ - * / ** @` and their reflected forms: see functional/operators.py.

    __lt__ = lambda self, other: _compare(np.less, self, other)
    __le__ = lambda self, other: _compare(np.less_equal, self, other)
    __gt__ = lambda self, other: _compare(np.greater, self, other)
    __ge__ = lambda self, other: _compare(np.greater_equal, self, other)
    __eq__ = lambda self, other: _compare(np.equal, self, other)
    __ne__ = lambda self, other: _compare(np.not_equal, self, other)
    __invert__ = lambda self: Tensor._make(~self.data)
    __and__ = __rand__ = lambda self, other: _compare(np.bitwise_and, self, other)
    __or__ = __ror__ = lambda self, other: _compare(np.bitwise_or, self, other)
    __xor__ = __rxor__ = lambda self, other: _compare(np.bitwise_xor, self, other)

    def exp(self) -> Tensor:
        return F.exp(self)

    def log(self) -> Tensor:
        return F.log(self)

    def sqrt(self) -> Tensor:
        return F.sqrt(self)

    def abs(self) -> Tensor:
        return F.abs(self)

    def pow(self, exponent) -> Tensor:
        return F.pow(self, exponent)

    def clip(self, low=None, high=None) -> Tensor:
        return F.clip(self, low, high)

    clamp = clip

    def sigmoid(self) -> Tensor:
        return F.sigmoid(self)

    def tanh(self) -> Tensor:
        return F.tanh(self)

    def relu(self) -> Tensor:
        return F.relu(self)

    # ------------------------------------------------------------------------------ reductions

    def sum(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.sum(self, axis, keepdims)

    def mean(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.mean(self, axis, keepdims)

    def var(self, axis=None, keepdims: bool = False, *, correction: int = 0) -> Tensor:
        return F.var(self, axis, keepdims, correction=correction)

    def std(self, axis=None, keepdims: bool = False, *, correction: int = 0) -> Tensor:
        return F.std(self, axis, keepdims, correction=correction)

    def max(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.max(self, axis, keepdims)

    def min(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.min(self, axis, keepdims)

    def argmax(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.argmax(self, axis, keepdims)

    def argmin(self, axis=None, keepdims: bool = False) -> Tensor:
        return F.argmin(self, axis, keepdims)

    def cumsum(self, axis: int) -> Tensor:
        return F.cumsum(self, axis)

    def logsumexp(self, axis=-1, keepdims: bool = False) -> Tensor:
        return F.logsumexp(self, axis, keepdims)

    def softmax(self, axis: int = -1) -> Tensor:
        return F.softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return F.log_softmax(self, axis)

    # ----------------------------------------------------------------------------------- shape

    def reshape(self, *shape) -> Tensor:
        return F.reshape(self, *shape)

    view = reshape

    def permute(self, *axes) -> Tensor:
        return F.permute(self, *axes)

    def transpose(self, axis0: int, axis1: int) -> Tensor:
        """The two axes swapped (PyTorch's meaning; `permute` takes them all)."""
        return F.transpose(self, axis0, axis1)

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Tensor:
        return F.flatten(self, start_axis, end_axis)

    def expand(self, *shape) -> Tensor:
        return F.expand(self, *shape)

    def squeeze(self, axis=None) -> Tensor:
        return F.squeeze(self, axis)

    def unsqueeze(self, axis: int) -> Tensor:
        return F.unsqueeze(self, axis)

    def split(self, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
        return F.split(self, sizes, axis)

    def chunk(self, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
        return F.chunk(self, chunks, axis)

    def gather(self, axis: int, index) -> Tensor:
        return F.gather(self, axis, index)

    def flip(self, *axes) -> Tensor:
        return F.flip(self, *axes)

    def roll(self, shift, axis) -> Tensor:
        return F.roll(self, shift, axis)

    def __getitem__(self, index) -> Tensor:
        return F.getitem(self, index)

    # -------------------------------------------------------------------- writing in place
    # The tape does not record writes; it counts them, so that a gradient that needs an
    # overwritten array is an error and never a wrong number.

    def _write(self, what: str) -> np.ndarray:
        if self._requires_grad and autograd.is_grad_enabled():
            raise RuntimeError(
                f"{what}: a write in place to a tensor that requires a gradient is not recorded; "
                "use an operation that returns a new tensor (tinygen.where, x + y), "
                "or write inside tinygen.no_grad()"
            )
        self.version[0] += 1
        self.version[1] = autograd.modes.caller()
        return self.data

    def __setitem__(self, index, value) -> None:
        self._write("x[...] = value")[_plain_index(index)] = _value(value, "x[...] = value")

    def copy_(self, source) -> Tensor:
        """Overwrite the values, broadcasting `source` to this shape."""
        self._write("copy_")[...] = _value(source, "copy_")
        return self

    def fill_(self, value: float) -> Tensor:
        self._write("fill_")[...] = value
        return self

    def zero_(self) -> Tensor:
        return self.fill_(0)

    def add_(self, other, *, alpha: float = 1) -> Tensor:
        data = self._write("add_")
        data += _value(other, "add_") if alpha == 1 else alpha * _value(other, "add_")
        return self

    def sub_(self, other) -> Tensor:
        return self.add_(other, alpha=-1)

    def mul_(self, other) -> Tensor:
        data = self._write("mul_")
        data *= _value(other, "mul_")
        return self

    def div_(self, other) -> Tensor:
        data = self._write("div_")
        data /= _value(other, "div_")
        return self

    def clip_(self, low=None, high=None) -> Tensor:
        data = self._write("clip_")
        _device.array_module(data).clip(data, low, high, out=data)
        return self

    # `x += y` writes in place where nothing is recorded (an update inside no_grad), and is
    # `x = x + y` where something is (a loss that adds up).
    __iadd__ = lambda self, other: self.add_(other) if _plain(self, other) else self + other
    __isub__ = lambda self, other: self.sub_(other) if _plain(self, other) else self - other
    __imul__ = lambda self, other: self.mul_(other) if _plain(self, other) else self * other
    __itruediv__ = lambda self, other: self.div_(other) if _plain(self, other) else self / other


def tensor(
    data: Any, *, dtype: Any = None, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """A new Tensor with a copy of `data`: numbers, nested lists, arrays or Tensors.

    Python floats become float32; arrays keep their dtype unless `dtype` is given.
    """
    if isinstance(data, Tensor):
        data = data.data
    if _device.device_of(data) != "cpu":
        array = data.copy() if dtype is None else data.astype(dtype)
    else:
        array = np.array(data, dtype=dtype)
        if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
            array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: expected numbers, got {type(data).__name__} ({array.dtype})")
    return Tensor(_device.move(array, device), requires_grad=requires_grad)


def _as_array(data):
    return data if type(data) in _device._modules else np.asarray(data)


def _compare(ufunc, a, b) -> Tensor:
    return Tensor._make(ufunc(*(x.data if isinstance(x, Tensor) else x for x in (a, b))))


def _plain_index(index):
    """An index with its Tensors replaced by their arrays."""
    if isinstance(index, Tensor):
        return index.data
    return tuple(map(_plain_index, index)) if isinstance(index, tuple) else index


def _value(x, what: str):
    if not isinstance(x, Tensor):
        return x
    if x._requires_grad and autograd.is_grad_enabled():
        raise RuntimeError(f"{what}: the written value requires a gradient that would be lost")
    return x.data


def _plain(x: Tensor, other: Any) -> bool:
    """Whether `x += other` writes in place: nothing would be recorded, or `x` is a leaf, for which
    the write itself explains what to do."""
    if not autograd.is_grad_enabled():
        return True
    other_needs_grad = isinstance(other, Tensor) and other._requires_grad
    return x.is_leaf and not (other_needs_grad and not x._requires_grad)


# The tape and the functions work on Tensors, whose methods call them: one cycle, closed here.
from . import autograd  # noqa: E402
from . import functional as F  # noqa: E402
