"""CuPy's functions, each the NumPy function of the same name applied to device memory."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
from scipy import special

from .array import compute, from_host, ndarray
from .stream import refuse_in_capture, synchronize

__all__ = ["NAMESPACE", "erf"]

# What the package uses; each of them exists in CuPy under the same name (a test checks it).
SAME_AS_NUMPY = [
    "abs",
    "add",
    "all",
    "any",
    "arctan2",
    "argmax",
    "argmin",
    "argsort",
    "atleast_1d",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "broadcast_to",
    "ceil",
    "clip",
    "copysign",
    "cos",
    "cumsum",
    "diff",
    "divide",
    "dot",
    "einsum",
    "equal",
    "exp",
    "expand_dims",
    "expm1",
    "flip",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "invert",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "matmul",
    "max",
    "maximum",
    "mean",
    "median",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "pad",
    "permute_dims",
    "power",
    "prod",
    "ravel",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "roll",
    "round",
    "searchsorted",
    "sign",
    "sin",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tanh",
    "tensordot",
    "tile",
    "trace",
    "transpose",
    "tril",
    "triu",
    "true_divide",
    "var",
    "where",
]
SYNCHRONISING = ["argwhere", "array_equal", "flatnonzero", "nonzero", "unique"]
DTYPES = [
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "dtype",
]


def _synchronising(name: str):
    def function(*args, **options):
        synchronize(name)
        return compute(getattr(np, name), *args, **options)

    return function


def empty(shape, dtype=float, order="C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def full(shape, fill_value, dtype=None, order="C") -> ndarray:
    dtype = np.asarray(fill_value).dtype if dtype is None else dtype
    array = ndarray(shape, dtype, order=order)
    array.fill(fill_value)
    return array


def zeros(shape, dtype=float, order="C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(array, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    like = np.empty_like(array._host, dtype, order, shape=shape)
    return ndarray(like.shape, like.dtype, strides=like.strides)


def full_like(array, fill_value, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    result = empty_like(array, dtype, order, shape=shape)
    result.fill(fill_value)
    return result


def zeros_like(array, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    return full_like(array, 0, dtype, order, shape=shape)


def ones_like(array, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    return full_like(array, 1, dtype, order, shape=shape)


def asarray(a: Any, dtype=None, order=None, *, blocking=False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    return from_host(np.asarray(a, dtype, order=order))


def array(a: Any, dtype=None, copy=True, order="K") -> ndarray:
    device = asarray(a, dtype)
    return device.copy(order) if device is a and copy else device


def ascontiguousarray(a: Any, dtype=None) -> ndarray:
    device = asarray(a, dtype)
    return device if device.flags.c_contiguous else device.copy()


def _from_numpy(name: str):
    """A function that makes an array out of numbers."""

    def function(*args, **options):
        return compute(getattr(np, name), *args, **options)

    return function


def asnumpy(a: Any, stream=None, order="C", out=None, *, blocking=True) -> np.ndarray:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def concatenate(arrays, axis=0, **options) -> ndarray:
    if len(arrays) > 8 and len({a.dtype for a in arrays}) == 1:  # one kernel, and for it a table
        refuse_in_capture("a table of addresses for concatenate, copied from the host,")
    return compute(np.concatenate, arrays, axis, **options)


def as_strided(x: ndarray, shape=None, strides=None) -> ndarray:
    return x._like(np.lib.stride_tricks.as_strided(x._host, shape, strides))


def may_share_memory(a: ndarray, b: ndarray, max_work=None) -> bool:
    return np.may_share_memory(a._host, b._host)


def copyto(dst: ndarray, src, casting="same_kind", where=None) -> None:
    dst[...] = src


def erf(x: ndarray) -> ndarray:
    """`cupyx.scipy.special.erf`."""
    return compute(special.erf, x)


class _Grid:
    def __getitem__(self, key):
        return [compute(lambda part=part: part.copy()) for part in np.ogrid[key]]


NAMESPACE: dict[str, Any] = {
    **{name: functools.partial(compute, getattr(np, name)) for name in SAME_AS_NUMPY},
    **{name: _synchronising(name) for name in SYNCHRONISING},
    **{name: _from_numpy(name) for name in ("arange", "eye", "linspace")},
    **{name: getattr(np, name) for name in DTYPES},
    "array": array,
    "asarray": asarray,
    "ascontiguousarray": ascontiguousarray,
    "asnumpy": asnumpy,
    "concatenate": concatenate,
    "copyto": copyto,
    "empty": empty,
    "empty_like": empty_like,
    "full": full,
    "full_like": full_like,
    "get_array_module": lambda *arrays: __import__("cupy"),
    "inf": np.inf,
    "may_share_memory": may_share_memory,
    "lib": types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided)),
    "nan": np.nan,
    "newaxis": None,
    "ogrid": _Grid(),
    "ones": ones,
    "ones_like": ones_like,
    "pi": np.pi,
    "zeros": zeros,
    "zeros_like": zeros_like,
}
for _ufunc in ("add", "maximum", "minimum", "multiply"):
    NAMESPACE[_ufunc] = getattr(np, _ufunc)  # with its methods; finds the array's __array_ufunc__
