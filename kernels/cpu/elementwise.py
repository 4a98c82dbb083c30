"""Activation functions in one pass over memory, forward and backward; and chains of operations.

One source of the loop serves all of them: `name` is a constant to the compiler, which drops the
other branches, so that only the functions a program calls are compiled, each on its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from ..layout import dense, dense_like, flat
from ..reference.elementwise import Step, apply_step, check_activation, read_chain
from .jit import CHUNK, kernel, prange, serial_kernel
from .math import erf, exp, expm1, sigmoid, softplus, tanh

__all__ = ["activation", "activation_grad", "chain"]

_SQRT_HALF = math.sqrt(1 / 2)
_SQRT_2_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def activation(x: np.ndarray, name: str, param: float = 0.0) -> np.ndarray:
    """See the table in `reference.elementwise`."""
    check_activation(name, param)
    x = dense(x)
    y = np.empty_like(x)
    _forward(name, x.size > 2 * CHUNK)(flat(x), param, flat(y))
    return y


def activation_grad(
    grad: np.ndarray, saved: np.ndarray, name: str, param: float = 0.0
) -> np.ndarray:
    """See the table in `reference.elementwise`."""
    check_activation(name, param)
    saved = dense(saved)
    grad_x = np.empty_like(saved)
    backward = _backward(name, saved.size > 2 * CHUNK)
    backward(flat(dense_like(grad, saved)), flat(saved), param, flat(grad_x))
    return grad_x


def chain(x: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """See `reference.elementwise`: all steps on one chunk that stays in the cache, then the next.

    What lies between two steps never goes through memory, and NumPy's loops run at full speed.
    """
    names, operands = zip(*read_chain(x, steps), strict=True) if steps else ((), ())
    x = dense(x)
    y = np.empty_like(x)
    arrays = [x, *(b for b in operands if isinstance(b, np.ndarray)), y]
    walk = np.nditer(
        arrays,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"]] * (len(arrays) - 1) + [["writeonly"]],
        buffersize=CHUNK,
    )
    with walk:
        for value, *parts, out in walk:
            part = iter(parts)
            for name, b in zip(names, operands, strict=True):
                value = apply_step(value, name, next(part) if isinstance(b, np.ndarray) else b)
            out[...] = value
    return y


# Waking the threads takes 10 to 100 µs, in which one thread does two chunks: so long it is one.
# The loops must mention `parallel`: the disk cache tells closures apart by what they capture.
# They run from 0 over slices: with another start Numba tests every index for being negative, which
# kept LLVM from vectorising (relu's gradient took 7 times longer).


@functools.cache
def _forward(name: str, parallel: bool):
    @(kernel if parallel else serial_kernel)
    def forward(x, param, y):
        real = x.dtype.type  # a bare number would lift float32 to float64
        a = real(param)
        one = real(1)
        half = real(0.5)
        chunk = CHUNK if parallel else max(x.size, 1)
        for block in prange(-(-x.size // chunk)):
            part = slice(block * chunk, (block + 1) * chunk)
            source, target = x[part], y[part]
            for i in range(source.size):
                v = source[i]
                if name == "relu":
                    target[i] = real(0) if v <= 0 else v
                elif name == "leaky_relu":
                    target[i] = a * v if v <= 0 else v
                elif name == "elu":
                    target[i] = a * expm1(v) if v <= 0 else v
                elif name == "softplus":
                    target[i] = softplus(v)
                elif name == "sigmoid":
                    target[i] = sigmoid(v)
                elif name == "tanh":
                    target[i] = tanh(v)
                elif name == "silu":
                    target[i] = v * sigmoid(v)
                elif name == "gelu":
                    target[i] = half * v * (one + erf(v * real(_SQRT_HALF)))
                elif name == "gelu_tanh":
                    # (1 + tanh u) / 2 = σ(2u), which keeps its digits where the tanh nears -1
                    u = real(2 * _SQRT_2_PI) * v * (one + real(_CUBIC) * v * v)
                    target[i] = v * sigmoid(u)

    return forward


@functools.cache
def _backward(name: str, parallel: bool):
    @(kernel if parallel else serial_kernel)
    def backward(grad, saved, param, grad_x):
        real = saved.dtype.type
        a = real(param)
        one = real(1)
        half = real(0.5)
        chunk = CHUNK if parallel else max(saved.size, 1)
        for block in prange(-(-saved.size // chunk)):
            part = slice(block * chunk, (block + 1) * chunk)
            upper, source, target = grad[part], saved[part], grad_x[part]
            for i in range(source.size):
                g = upper[i]
                v = source[i]
                if name == "relu":
                    target[i] = real(0) if v <= 0 else g
                elif name == "leaky_relu":
                    target[i] = a * g if v <= 0 else g
                elif name == "elu":
                    target[i] = (v + a) * g if v <= 0 else g
                elif name == "softplus":
                    target[i] = -expm1(-v) * g
                elif name == "sigmoid":
                    target[i] = v * (one - v) * g
                elif name == "tanh":
                    target[i] = (one - v * v) * g
                elif name == "silu":
                    s = sigmoid(v)
                    target[i] = s * (one + v * (one - s)) * g
                elif name == "gelu":
                    density = real(_SQRT_2_PI / 2) * exp(-half * v * v)
                    cdf = half * (one + erf(v * real(_SQRT_HALF)))
                    target[i] = (cdf + v * density) * g
                elif name == "gelu_tanh":
                    s = sigmoid(real(2 * _SQRT_2_PI) * v * (one + real(_CUBIC) * v * v))
                    slope = real(2 * _SQRT_2_PI) * (one + real(3 * _CUBIC) * v * v)
                    target[i] = s * (one + v * (one - s) * slope) * g

    return backward
