"""Activation functions, their gradients, and chains of element-wise operations.

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

A chain applies steps from left to right; each takes the value x so far and perhaps an operand b:

| without operand | neg, abs, square, sqrt, exp, log, activations; (name, a) sets one's `param` |
| with operand    | add, sub: x - b, rsub: b - x, mul, div: x / b, rdiv: b / x, max, min       |

Maximum and minimum are NaN where either side is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

__all__ = [
    "SAVED",
    "STEPS",
    "activation",
    "activation_grad",
    "apply_step",
    "axis_of",
    "chain",
    "check_activation",
    "read_chain",
]

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

_UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
}
_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "rsub": lambda x, b: b - x,
    "mul": np.multiply,
    "div": np.divide,
    "rdiv": lambda x, b: b / x,
    "max": np.maximum,
    "min": np.minimum,
}
STEPS = (*SAVED, *_UNARY, *_BINARY)
"""The names of a chain's steps."""

Step = tuple[str] | tuple[str, float | np.ndarray]

MAX_STEPS, MAX_ARRAYS = 8, 6  # what one launch on a GPU takes; everywhere, so that code moves

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


def chain(x: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """The steps of the table above applied to x from left to right, in x's shape and dtype.

    `mean + exp(log_std) * eps` is `chain(log_std, [("exp",), ("mul", eps), ("add", mean)])`. An
    operand is a number, or an array of x's dtype that has x's shape or varies along one axis of
    it, as a bias does; at most 8 steps and 6 arrays.
    """
    y = x.copy()
    for name, operand in read_chain(x, steps):
        y = apply_step(y, name, operand)
    return y


def apply_step(x: np.ndarray, name: str, operand: float | np.ndarray | None) -> np.ndarray:
    """One step of a chain."""
    if name in SAVED:
        return activation(x, name, operand or 0.0)
    return _UNARY[name](x) if name in _UNARY else _BINARY[name](x, operand)


def read_chain(
    x: np.ndarray, steps: Sequence[Step]
) -> list[tuple[str, float | np.ndarray | None]]:
    """The steps as (name, operand or None). Raises ValueError or TypeError if one is not legal."""
    read = [(name, _operand(x, name, *operands)) for name, *operands in steps]
    arrays = sum(hasattr(operand, "shape") for _, operand in read)
    if len(read) > MAX_STEPS or arrays > MAX_ARRAYS:
        raise ValueError(
            f"chain: {len(read)} steps with {arrays} arrays, at most {MAX_STEPS} with"
            f" {MAX_ARRAYS}; make two chains of it"
        )
    return read


def _operand(x: np.ndarray, name: str, *operands) -> float | np.ndarray | None:
    if name not in STEPS:
        raise ValueError(f"chain: {name!r} is not one of {', '.join(STEPS)}")
    least, most = int(name in _BINARY), int(name not in _UNARY)
    if not least <= len(operands) <= most:
        raise ValueError(f"chain: {name} got {len(operands)} operands, expected {most}")
    operand = operands[0] if operands else None
    if isinstance(operand, (int, float, np.generic)):
        operand = float(operand)
    if name in SAVED:
        check_activation(name, operand or 0.0)
    elif operand is not None and not isinstance(operand, float):
        if operand.dtype != x.dtype:
            raise TypeError(f"chain: {name} of {operand.dtype} to {x.dtype}; convert it first")
        if operand.shape != x.shape:
            axis_of(operand, x)
    return operand


def axis_of(operand: np.ndarray, x: np.ndarray) -> int:
    """The axis of x along which an operand of another shape varies; 0 if it has one element.

    Raises ValueError if there is no such axis.
    """
    shape = (1,) * (x.ndim - operand.ndim) + operand.shape
    axes = [i for i, n in enumerate(shape) if n != 1]
    if len(shape) != x.ndim or len(axes) > 1 or any(shape[i] != x.shape[i] for i in axes):
        raise ValueError(
            f"chain: an operand of shape {operand.shape} for x of shape {x.shape}, expected that"
            " shape or one that varies along one axis, as a bias does"
        )
    return axes[0] if axes else 0
