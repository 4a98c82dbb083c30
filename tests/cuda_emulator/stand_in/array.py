"""The array class: `cupy.ndarray` over emulated device memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .pool import MemoryPointer, malloc
from .stream import current, enqueue, refuse_in_capture, synchronize

__all__ = ["compute", "from_host", "ndarray"]

DEVICE = 0
_CUBLAS = {np.matmul, np.dot, np.tensordot, np.einsum, np.inner, np.vdot, np.outer}
_COMPARISONS = {  # they, and no others, take a 0-d NumPy array for a number
    np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal,
}  # fmt: skip


class ndarray(NDArrayOperatorsMixin):
    """An array in device memory. `_host` is the emulator's view of it as a NumPy array."""

    __slots__ = ("_block", "_host", "base")
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C") -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        pointer = malloc(nbytes) if memptr is None else memptr
        offset = pointer.ptr - (pointer.mem.allocation.ptr if pointer.mem else 0)
        buffer = pointer.mem.allocation.buffer if pointer.mem else np.empty(0, np.uint8)
        if strides is None:
            strides = _strides(shape, dtype.itemsize, order)
        self._block = pointer.mem
        self._host = np.ndarray(shape, dtype, buffer, offset, strides)
        self.base = None

    def _like(self, host: np.ndarray) -> ndarray:
        """Another array over the same memory."""
        view = object.__new__(ndarray)
        view._block, view._host = self._block, host
        view.base = self if self.base is None else self.base
        return view

    # ---------------------------------------------------------------------------- description

    shape = property(
        lambda self: self._host.shape, lambda self, v: setattr(self._host, "shape", v)
    )
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    T = property(lambda self: self._like(self._host.T))

    @property
    def flags(self) -> SimpleNamespace:
        flags = self._host.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=self.base is None,
        )

    @property
    def data(self) -> MemoryPointer:
        if self._block is None:
            return MemoryPointer(None, 0)
        return MemoryPointer(self._block, self._host.ctypes.data - self._block.allocation.ptr)

    @property
    def device(self):
        from .cuda import Device

        return Device(DEVICE)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self.get())

    __hash__ = None

    # ------------------------------------------------------------------------- to and from host

    def get(self, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
        """A copy on the host; with `blocking=False` it is valid after a synchronisation."""
        target = np.empty(self.shape, self.dtype) if out is None else out
        if blocking:
            synchronize("a copy to the host")
            target[...] = self._host
        else:
            work = self._copy_to(target)
            (enqueue if stream is None else stream.add)(work)
        return target

    def set(self, array: np.ndarray, stream=None) -> None:
        """Copy from the host, in the order of the stream: `array` must stay as it is till then."""
        if array.dtype != self.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        refuse_in_capture("a copy from the host")
        (enqueue if stream is None else stream.add)(lambda: np.copyto(self._host, array))

    def _copy_to(self, target: np.ndarray) -> Callable[[], None]:
        return lambda: np.copyto(target, self._host)

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.get())

    # ------------------------------------------------------------------------------- arithmetic

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        if method == "at":
            target, *rest = inputs
            return _in_place(target, lambda host, *r: function(host, *r), *rest)
        target = out[0] if out else None
        return compute(function, *inputs, out=target, **options)

    def __array_function__(self, function, types, args, kwargs):
        from . import functions

        name = function.__name__
        if name not in functions.NAMESPACE:
            raise TypeError(f"{name} is not among the stand-in's functions")
        return functions.NAMESPACE[name](*args, **kwargs)

    def __getitem__(self, index):
        index = _to_device(index)
        if not _is_basic(index):
            return compute(lambda x, i: x[i], self, index)
        index = index if isinstance(index, tuple) else (index,)
        if not any(i is Ellipsis for i in index):
            index = (*index, Ellipsis)  # a 0-d array rather than a scalar
        return self._like(self._host[index])

    def __setitem__(self, index, value) -> None:
        def assign(x, i, v):
            x[i] = v

        _in_place(self, assign, _to_device(index), value)

    # ----------------------------------------------------------------------------------- methods

    def fill(self, value) -> None:
        self[...] = value

    def copy(self, order: str = "C") -> ndarray:
        return compute(lambda x: x.copy(order), self)

    __copy__ = copy

    def __deepcopy__(self, memo) -> ndarray:
        return self.copy()

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        return compute(lambda x: x.astype(dtype, order, copy=copy), self)

    def nonzero(self):
        synchronize("nonzero")
        return compute(np.nonzero, self)


def _method(name: str):
    def method(self, *args, out=None, **options):
        return compute(
            lambda x, *a, **o: getattr(x, name)(*a, **o), self, *args, out=out, **options
        )

    method.__name__ = name
    return method


for _name in [
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "clip",
    "conj",
    "cumsum",
    "diagonal",
    "flatten",
    "max",
    "mean",
    "min",
    "prod",
    "ravel",
    "repeat",
    "reshape",
    "round",
    "squeeze",
    "std",
    "sum",
    "swapaxes",
    "take",
    "trace",
    "transpose",
    "var",
    "view",
]:
    setattr(ndarray, _name, _method(_name))


def compute(function: Callable, *args, out: ndarray | None = None, **options) -> Any:
    """A NumPy function of device arrays, as work of the current stream; results on the device.

    A result that shares an argument's memory is a view of it. Where the work is not done at once,
    it is done twice: now, on whatever the memory holds, to learn the results' shapes.
    """
    if function in _CUBLAS:
        refuse_in_capture("cuBLAS", NotImplementedError)
    arguments = (args, options)
    for value in _leaves(arguments):
        if isinstance(value, np.ndarray) and (value.ndim or function not in _COMPARISONS):
            raise TypeError(f"Unsupported type {type(value)}: move it to the device first")

    def evaluate():
        with np.errstate(all="ignore"):
            host_args, host_options = _to_host(arguments)
            return function(*host_args, **host_options)

    if out is not None:
        enqueue(lambda: np.copyto(out._host, evaluate(), casting="same_kind"))
        return out
    value = evaluate()
    return _wrap(value, evaluate, [a for a in _leaves(arguments) if isinstance(a, ndarray)])


def from_host(array: np.ndarray) -> ndarray:
    """A device array with a NumPy array's values, C-contiguous unless that is Fortran's order."""
    refuse_in_capture("a copy from pageable host memory")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    device = ndarray(array.shape, array.dtype, order="F" if fortran else "C")
    copied = array.copy()
    enqueue(lambda: np.copyto(device._host, copied))
    return device


def _wrap(value, evaluate: Callable, arguments: list[ndarray]):
    if isinstance(value, (tuple, list)):
        return type(value)(
            _wrap(v, lambda i=i: evaluate()[i], arguments) for i, v in enumerate(value)
        )
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    value = np.asarray(value)
    for argument in arguments:
        if value.size and np.may_share_memory(value, argument._host):
            return argument._like(value)
    result = _empty_like(value)
    stream = current()
    if stream.queue is None and not stream.is_capturing():
        np.copyto(result._host, value)
    else:
        enqueue(lambda: np.copyto(result._host, evaluate()))
    return result


def _in_place(target: ndarray, function: Callable, *args) -> None:
    for value in _leaves(args):
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}: move it to the device first")
    enqueue(lambda: function(target._host, *_to_host(args)))


def _leaves(value):
    if isinstance(value, (tuple, list)):
        for v in value:
            yield from _leaves(v)
    elif isinstance(value, dict):
        yield from _leaves(tuple(value.values()))
    else:
        yield value


def _to_host(value):
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, (tuple, list)):
        return type(value)(_to_host(v) for v in value)
    if isinstance(value, dict):
        return {k: _to_host(v) for k, v in value.items()}
    return value


def _to_device(index):
    """Lists and NumPy arrays in an index are sent to the device."""
    if isinstance(index, tuple):
        return tuple(map(_to_device, index))
    return from_host(np.asarray(index)) if isinstance(index, (list, np.ndarray)) else index


def _is_basic(index) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, ndarray) and part.dtype == bool:
            synchronize("a boolean mask as an index")
    return all(
        p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in parts
    )


def _empty_like(array: np.ndarray) -> ndarray:
    like = np.empty_like(array)  # dense, in the order of the array's axes
    return ndarray(like.shape, like.dtype, strides=like.strides)


def _strides(shape: tuple[int, ...], itemsize: int, order: str) -> tuple[int, ...]:
    if 0 in shape:
        return (0,) * len(shape)
    return np.empty(shape, np.dtype(f"V{itemsize}"), order=order).strides
