"""Tensors from sizes, ranges, random numbers and other libraries' arrays.

Floating-point ones are float32 unless `dtype` says otherwise. Shapes are given as separate sizes
or as one tuple: `zeros(2, 3)` or `zeros((2, 3))`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import random
from .device import array_module, move, use
from .tensor import Tensor

__all__ = [
    "arange", "empty", "eye", "from_dlpack", "from_numpy", "full", "linspace", "ones",
    "ones_like", "rand", "randint", "randn", "randperm", "zeros", "zeros_like",
]  # fmt: skip


def _shape(sizes: tuple) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return Tensor(move(array, device))


def zeros(*shape, dtype=np.float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """0 everywhere."""
    return Tensor(use(device).zeros(_shape(shape), dtype), requires_grad=requires_grad)


def ones(*shape, dtype=np.float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """1 everywhere."""
    return Tensor(use(device).ones(_shape(shape), dtype), requires_grad=requires_grad)


def empty(*shape, dtype=np.float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Whatever the memory held."""
    return Tensor(use(device).empty(_shape(shape), dtype), requires_grad=requires_grad)


def full(
    shape, value: float, *, dtype=np.float32, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """One value everywhere."""
    return Tensor(use(device).full(shape, value, dtype), requires_grad=requires_grad)


def zeros_like(x: Tensor) -> Tensor:
    """0 everywhere, in x's shape, dtype and device."""
    return Tensor(array_module(x.data).zeros_like(x.data))


def ones_like(x: Tensor) -> Tensor:
    """1 everywhere, in x's shape, dtype and device."""
    return Tensor(array_module(x.data).ones_like(x.data))


def arange(start, stop=None, step=1, *, dtype=None, device: str = "cpu") -> Tensor:
    """start, start + step, ... below stop: int64 for integers, else float32."""
    array = np.arange(*((0, start) if stop is None else (start, stop)), step, dtype=dtype)
    if dtype is None and array.dtype == np.float64:
        array = array.astype(np.float32)
    return _tensor(array, device)


def linspace(start: float, stop: float, num: int, *, dtype=np.float32, device="cpu") -> Tensor:
    """`num` equally spaced values, both ends included."""
    return _tensor(np.linspace(start, stop, num, dtype=dtype), device)


def eye(n: int, *, dtype=np.float32, device: str = "cpu") -> Tensor:
    """The n × n identity matrix."""
    return _tensor(np.eye(n, dtype=dtype), device)


def rand(*shape, dtype=np.float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), from the default generator (`tinygen.manual_seed`)."""
    array = random.uniform(_shape(shape), 0.0, 1.0, dtype=dtype, device=device)
    return Tensor(array, requires_grad=requires_grad)


def randn(*shape, dtype=np.float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and variance 1, from the default generator."""
    array = random.normal(_shape(shape), 0.0, 1.0, dtype=dtype, device=device)
    return Tensor(array, requires_grad=requires_grad)


def randint(low: int, high: int, shape, *, device: str = "cpu") -> Tensor:
    """Integers (int64) in [low, high), from the default generator."""
    return _tensor(random.integers(low, high, shape), device)


def randperm(n: int, *, device: str = "cpu") -> Tensor:
    """0 ... n - 1 in random order, from the default generator."""
    return _tensor(random.permutation(n), device)


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor over the array's own memory: writes to one are seen in the other."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A Tensor over the memory of another library's array, by the DLPack protocol.

    >>> import numpy as np
    >>> import tinygen
    >>> tinygen.from_dlpack(np.arange(3))
    tensor([0, 1, 2])
    """
    if not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: {type(source).__name__} does not speak the DLPack protocol")
    kind = source.__dlpack_device__()[0]
    if kind == 2:  # kDLCUDA
        return Tensor(use("cuda").from_dlpack(source))
    return Tensor(np.from_dlpack(source))
