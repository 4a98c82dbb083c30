"""Activation functions and their gradients.

| name       | y                                          | saved  | dy/dx                       |
| ---------- | ------------------------------------------ | ------ | --------------------------- |
| relu       | max(x, 0)                                  | output | [y > 0]                     |
| leaky_relu | x if x > 0 else a x                        | output | 1 if y > 0 else a           |
| elu        | x if x > 0 else a (eˣ - 1)                 | output | 1 if y > 0 else y + a       |
| softplus   | log(1 + eˣ)                                | output | 1 - e⁻ʸ                     |
| sigmoid    | σ(x) = 1 / (1 + e⁻ˣ)                       | output | y (1 - y)                   |
| tanh       | tanh x                                     | output | 1 - y²                      |
| silu       | x σ(x)                                     | input  | σ(x) (1 + x (1 - σ(x)))     |
| gelu       | x Φ(x), Φ the normal distribution          | input  | Φ(x) + x φ(x), φ = Φ′       |
| gelu_tanh  | x (1 + t) / 2, t = tanh(√(2/π) (x + c x³)) | input  | (1 + t + x (1 - t²) t′) / 2 |

with a = `param`, c = 0.044715 and t′ = √(2/π) (1 + 3 c x²). `saved` is what the gradient reads:
the output wherever it says enough, because the next layer keeps it as its input anyway. That is
why a negative `param`, where y no longer tells the sign of x, is refused. At a kink the slope is
the one from below. Source of gelu: Hendrycks & Gimpel 2016, Gaussian error linear units.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

__all__ = ["SAVED", "activation", "activation_grad", "check_activation"]

SAVED = {
    "relu": "output",
    "leaky_relu": "output",
    "elu": "output",
    "softplus": "output",
    "sigmoid": "output",
    "tanh": "output",
    "silu": "input",
    "gelu": "input",
    "gelu_tanh": "input",
}
"""What `activation_grad` reads: the input or the output of the activation."""

_SQRT_2_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def check_activation(name: str, param: float) -> None:
    """Raise ValueError for an unknown name or a negative param."""
    if name not in SAVED:
        raise ValueError(f"activation: {name!r} is not one of {', '.join(SAVED)}")
    if param < 0:
        raise ValueError(
            f"activation: {name} with the parameter {param}: it must be at least 0, since the "
            "gradient is computed from the output, which then no longer shows the sign of x"
        )


def activation(x: np.ndarray, name: str, param: float = 0.0) -> np.ndarray:
    """y of the table above, in the shape and dtype of x."""
    check_activation(name, param)
    if name == "relu":
        return np.where(x <= 0, 0, x)
    if name == "leaky_relu":
        return np.where(x <= 0, param * x, x)
    if name == "elu":
        return np.where(x <= 0, param * np.expm1(np.minimum(x, 0)), x)
    if name == "softplus":
        return np.logaddexp(x, 0)
    if name == "sigmoid":
        return special.expit(x)
    if name == "tanh":
        return np.tanh(x)
    if name == "silu":
        return x * special.expit(x)
    if name == "gelu":
        return x * special.ndtr(x)
    return x * (1 + np.tanh(_SQRT_2_PI * (x + _CUBIC * x**3))) / 2


def activation_grad(
    grad: np.ndarray, saved: np.ndarray, name: str, param: float = 0.0
) -> np.ndarray:
    """grad · dy/dx of the table above, where `saved` is x or y as `SAVED[name]` says."""
    check_activation(name, param)
    x = y = saved
    if name == "relu":
        return np.where(y <= 0, 0, grad)
    if name == "leaky_relu":
        return np.where(y <= 0, param * grad, grad)
    if name == "elu":
        return np.where(y <= 0, (y + param) * grad, grad)
    if name == "softplus":
        return -np.expm1(-y) * grad
    if name == "sigmoid":
        return y * (1 - y) * grad
    if name == "tanh":
        return (1 - y * y) * grad
    if name == "silu":
        s = special.expit(x)
        return s * (1 + x * (1 - s)) * grad
    if name == "gelu":
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return (special.ndtr(x) + x * density) * grad
    t = np.tanh(_SQRT_2_PI * (x + _CUBIC * x**3))
    slope = _SQRT_2_PI * (1 + 3 * _CUBIC * x * x)
    return (1 + t + x * (1 - t * t) * slope) / 2 * grad
