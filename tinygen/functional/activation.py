"""Activation functions, each one pass over memory forward and backward; and dropout."""

from __future__ import annotations

import math

import numpy as np

from .. import random
from ..autograd import Op
from ..device import array_module, device_of, kernels
from ..tensor import Tensor
from . import elementwise as E

__all__ = [
    "dropout", "elu", "erf", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh",
]  # fmt: skip

_SQRT_2_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


class Activation(Op):
    """One of the functions in the table of `tinygen_kernels.reference.elementwise`."""

    def __init__(self, kind: str, param: float = 0.0):
        self.kind, self.param = kind, param

    @property
    def name(self) -> str:
        return self.kind

    def forward(self, x):
        y = kernels("elementwise", x).activation(x, self.kind, self.param)
        # The output wherever it says enough: the next layer keeps it as its input anyway.
        self.save(x if self.kind in _SLOPES_OF_INPUT else y)
        return y

    def backward(self, grad):
        (saved,) = self.saved
        return activation_grad(grad, saved, self.kind, self.param)


def activation_grad(grad, saved, kind: str, param: float):
    """grad · dy/dx, in one pass, or from differentiable ops; `saved` as `Activation` saves it."""
    if isinstance(grad, Tensor):
        return grad * slope(kind, saved, param)
    return kernels("elementwise", grad).activation_grad(grad, saved, kind, param)


def slope(kind: str, saved, param: float):
    """dy/dx from differentiable ops, as a function of what `Activation` saves."""
    if kind == "relu":
        return E.where(saved > 0, 1.0, E.zeros_like(saved))
    if kind == "leaky_relu":
        return E.where(saved > 0, 1.0, E.zeros_like(saved) + param)
    if kind == "elu":
        return E.where(saved > 0, 1.0, saved + param)
    if kind == "softplus":
        return 1 - E.exp(-saved)
    if kind == "sigmoid":
        return saved * (1 - saved)
    if kind == "tanh":
        return 1 - saved * saved
    return _SLOPES_OF_INPUT[kind](saved)


def _silu_slope(x):
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_slope(x):
    density = E.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density


def _gelu_tanh_slope(x):
    t = tanh(_SQRT_2_PI * (x + _CUBIC * x * x * x))
    return 0.5 * (1 + t + x * (1 - t * t) * _SQRT_2_PI * (1 + 3 * _CUBIC * x * x))


_SLOPES_OF_INPUT = {"silu": _silu_slope, "gelu": _gelu_slope, "gelu_tanh": _gelu_tanh_slope}


class Erf(Op):
    def forward(self, x):
        self.save(x)
        if array_module(x) is np:
            from scipy.special import erf
        else:
            from cupyx.scipy.special import erf
        return erf(x)

    def backward(self, grad):
        (x,) = self.saved
        return grad * (2 / math.sqrt(math.pi)) * E.exp(-x * x)


class Dropout(Op):
    """x · keep / (1 - p), with `keep` of zeros and ones: linear, so its own gradient."""

    def __init__(self, keep, scale: float):
        self.keep, self.scale = keep, scale

    def forward(self, x):
        steps = [("mul", self.keep), ("mul", self.scale)]
        return kernels("elementwise", x).chain(x, steps)

    def backward(self, grad):
        return Dropout(self.keep, self.scale)(grad)


def relu(input):
    """max(x, 0); the gradient at 0 is 0."""
    return Activation("relu")(input)


def leaky_relu(input, negative_slope: float = 0.01):
    """x if x > 0 else negative_slope · x; the slope, at least 0, is also the gradient at 0."""
    return Activation("leaky_relu", negative_slope)(input)


def elu(input, alpha: float = 1.0):
    """x if x > 0 else α(eˣ - 1), α >= 0 (Clevert et al. 2015)."""
    return Activation("elu", alpha)(input)


def softplus(input):
    """log(1 + eˣ), without overflow."""
    return Activation("softplus")(input)


def sigmoid(input):
    """1 / (1 + e⁻ˣ), in (0, 1)."""
    return Activation("sigmoid")(input)


def tanh(input):
    """Hyperbolic tangent, in (-1, 1)."""
    return Activation("tanh")(input)


def silu(input):
    """x · sigmoid(x), also called swish."""
    return Activation("silu")(input)


def gelu(input, *, approximate: str = "none"):
    """x Φ(x) with the normal distribution function Φ, or its `approximate="tanh"` form
    (Hendrycks & Gimpel 2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate={approximate!r} must be 'none' or 'tanh'")
    return Activation("gelu" if approximate == "none" else "gelu_tanh")(input)


def erf(input):
    """The error function 2/√π ∫₀ˣ exp(-t²) dt."""
    return Erf()(input)


def dropout(input, p: float = 0.5, *, training: bool = True):
    """Zero each element with probability p and divide the others by 1 - p; nothing in evaluation.

    Draws from `tinygen.random`'s default generator.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p={p} must be a probability")
    if not training or p == 0:
        return input
    if p == 1:
        return input * 0.0
    data = input.data if isinstance(input, Tensor) else input
    keep = random.bernoulli(input.shape, 1 - p, data.dtype, device=device_of(data))
    return Dropout(keep, 1 / (1 - p))(input)
