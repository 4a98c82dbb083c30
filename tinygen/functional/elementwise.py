"""Arithmetic, powers, exponentials and selections, with broadcasting.

Every function takes Tensors, arrays or numbers; with arrays only it computes and returns an array.
"""

from __future__ import annotations

import math

import numpy as np

from ..autograd import Op
from ..device import array_module
from ..tensor import Tensor, tensor

__all__ = [
    "abs", "add", "astype", "clip", "clone", "cos", "div", "exp", "expm1", "log", "log1p",
    "maximum", "minimum", "mul", "neg", "pow", "sign", "sin", "sqrt", "square", "sub",
    "to_device", "where",
]  # fmt: skip


def _number(x):
    """A NumPy scalar as a Python number: np.float64(2) must not turn float32 into float64.

    A float32 one, which may be a result of ours, stays what it is.
    """
    return x.item() if isinstance(x, np.generic) and x.dtype != np.float32 else x


class Add(Op):
    broadcasts = True

    def forward(self, a, b):
        return a + b

    def backward(self, grad):
        return grad, grad


class Sub(Op):
    broadcasts = True

    def forward(self, a, b):
        return a - b

    def backward(self, grad):
        return grad, -grad if self.needs_grad(1) else None


class Mul(Op):
    broadcasts = True

    def forward(self, a, b):
        self.save(a, b)  # each factor is the other one's derivative
        return a * b

    def backward(self, grad):
        a, b = self.saved
        return (
            grad * b if self.needs_grad(0) else None,
            grad * a if self.needs_grad(1) else None,
        )


class Div(Op):
    broadcasts = True

    def forward(self, a, b):
        self.save(a, b)
        return a / b

    def backward(self, grad):
        a, b = self.saved
        grad_a = grad / b
        return grad_a, -grad_a * a / b if self.needs_grad(1) else None


class Pow(Op):
    broadcasts = True

    def forward(self, a, b):
        out = a**b
        self.save(a, b, out)
        return out

    def backward(self, grad):
        a, b, out = self.saved
        grad_a = grad_b = None
        if self.needs_grad(0):
            # 0**0 does not move with a: its derivative is 0, not 0 * 0**-1.
            exponent = where(equal_zero(a) & equal_zero(b), 1.0, b - 1)
            grad_a = grad * b * pow(a, exponent)
        if self.needs_grad(1):
            # 0**b does not move with b: its derivative is 0, not 0 * log(0).
            safe = where(equal_zero(a), 1.0, a)
            grad_b = grad * out * log(safe)
        return grad_a, grad_b


class PowN(Op):
    """x**n with a constant exponent."""

    def __init__(self, n: float):
        self.n = n

    def forward(self, x):
        self.save(x)
        return x**self.n

    def backward(self, grad):
        (x,) = self.saved
        n = self.n
        if n == 0:
            return grad * 0.0
        return grad * n if n == 1 else grad * (n * pow(x, n - 1))


class Neg(Op):
    def forward(self, x):
        return -x

    def backward(self, grad):
        return -grad


class Exp(Op):
    def forward(self, x):
        out = array_module(x).exp(x)
        self.save(out)
        return out

    def backward(self, grad):
        (out,) = self.saved
        return grad * out


class Expm1(Op):
    def forward(self, x):
        out = array_module(x).expm1(x)
        self.save(out)
        return out

    def backward(self, grad):
        (out,) = self.saved
        return grad * (out + 1)


class Log(Op):
    def forward(self, x):
        self.save(x)
        return array_module(x).log(x)

    def backward(self, grad):
        (x,) = self.saved
        return grad / x


class Log1p(Op):
    def forward(self, x):
        self.save(x)
        return array_module(x).log1p(x)

    def backward(self, grad):
        (x,) = self.saved
        return grad / (1 + x)


class Sqrt(Op):
    def forward(self, x):
        out = array_module(x).sqrt(x)
        self.save(out)
        return out

    def backward(self, grad):
        (out,) = self.saved
        return grad * 0.5 / out


class Sin(Op):
    def forward(self, x):
        self.save(x)
        return array_module(x).sin(x)

    def backward(self, grad):
        (x,) = self.saved
        return grad * cos(x)


class Cos(Op):
    def forward(self, x):
        self.save(x)
        return array_module(x).cos(x)

    def backward(self, grad):
        (x,) = self.saved
        return -grad * sin(x)


class Abs(Op):
    def forward(self, x):
        self.save(array_module(x).sign(x))
        return array_module(x).abs(x)

    def backward(self, grad):
        (sign,) = self.saved
        return grad * sign


class Clip(Op):
    def __init__(self, low, high):
        self.low, self.high = low, high

    def forward(self, x):
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        self.save((x >= low) & (x <= high))
        return array_module(x).clip(x, self.low, self.high)

    def backward(self, grad):
        (inside,) = self.saved
        return where(inside, grad, 0.0)


class Where(Op):
    broadcasts = True

    def forward(self, condition, a, b):
        self.save(condition)
        return array_module(condition).where(condition, a, b)

    def backward(self, grad):
        (condition,) = self.saved
        return (
            None,
            where(condition, grad, 0.0) if self.needs_grad(1) else None,
            where(condition, 0.0, grad) if self.needs_grad(2) else None,
        )


class _Extremum(Op):
    """`minimum`, `maximum`: the chosen operand takes the gradient, equal ones half of it each."""

    broadcasts = True

    def backward(self, grad):
        (share,) = self.saved  # a's; the rest is b's
        return (
            grad * share if self.needs_grad(0) else None,
            grad * (1 - share) if self.needs_grad(1) else None,
        )


class Maximum(_Extremum):
    def forward(self, a, b):
        xp = _module(a, b)
        out = xp.maximum(a, b)
        self.save(xp.where(a == b, out.dtype.type(0.5), a > b))
        return out


class Minimum(_Extremum):
    def forward(self, a, b):
        xp = _module(a, b)
        out = xp.minimum(a, b)
        self.save(xp.where(a == b, out.dtype.type(0.5), a < b))
        return out


class Astype(Op):
    def __init__(self, dtype):
        self.dtype_out = np.dtype(dtype)

    def forward(self, x):
        return x.astype(self.dtype_out)

    def backward(self, grad):
        return grad  # the engine casts every gradient to its input's dtype


class Clone(Op):
    def forward(self, x):
        return x.copy(order="K") if isinstance(x, np.ndarray) else x.copy()

    def backward(self, grad):
        return grad


class ToDevice(Op):
    def __init__(self, device: str):
        self.device = device

    def forward(self, x):
        from ..device import device_of, move

        self.source = device_of(x)
        return move(x, self.device)

    def backward(self, grad):
        return to_device(grad, self.source)


def _module(*operands):
    for x in operands:
        if hasattr(x, "shape"):
            return array_module(x)
    return np


def zeros_like(x):
    """An array of zeros with x's shape and dtype."""
    data = x.data if isinstance(x, Tensor) else x
    return array_module(data).zeros_like(data)


def equal_zero(x):
    """A boolean array, true where x (Tensor, array or number) is 0."""
    return (x.data if isinstance(x, Tensor) else x) == 0


def add(a, b):
    """a + b."""
    return Add()(a, b)


def sub(a, b):
    """a - b."""
    return Sub()(a, b)


def mul(a, b):
    """a * b, element by element."""
    return Mul()(a, b)


def div(a, b):
    """a / b, element by element; integers give floats."""
    return Div()(a, b)


def neg(x):
    """-x."""
    return Neg()(x)


def pow(a, b):
    """a**b. For a negative base the exponent must be an integer (else NaN, as in NumPy)."""
    if isinstance(b, (int, float, np.generic)):
        return PowN(_number(b))(a)
    return Pow()(a, b)


def square(x):
    """x**2."""
    return x * x


def exp(x):
    """e**x."""
    return Exp()(x)


def expm1(x):
    """e**x - 1, accurate near 0."""
    return Expm1()(x)


def log(x):
    """Natural logarithm; log(0) = -inf, of a negative number NaN."""
    return Log()(x)


def log1p(x):
    """log(1 + x), accurate near 0."""
    return Log1p()(x)


def sqrt(x):
    """Square root; its gradient at 0 is infinite."""
    return Sqrt()(x)


def sin(x):
    """Sine, x in radians."""
    return Sin()(x)


def cos(x):
    """Cosine, x in radians."""
    return Cos()(x)


def abs(x):
    """|x|; the gradient at 0 is 0."""
    return Abs()(x)


def sign(x):
    """-1, 0 or 1. Piecewise constant: the result needs no gradient."""
    if isinstance(x, Tensor):
        return Tensor._make(array_module(x.data).sign(x.data))
    return array_module(x).sign(x)


def clip(x, low=None, high=None):
    """x limited to [low, high] (numbers); inside, ends included, the gradient passes."""
    if low is None and high is None:
        raise ValueError("clip: give low, high or both")
    return Clip(_number(low), _number(high))(x)


def where(condition, a, b):
    """a where the condition holds, else b; all three broadcast. Two floats give float32."""
    if isinstance(condition, Tensor) and not (hasattr(a, "shape") or hasattr(b, "shape")):
        a, b = tensor([a, b], device=condition.device)
    return Where()(condition, a, b)


def maximum(a, b):
    """The larger of two, element by element; NaN if either is. Equal ones share the gradient."""
    return Maximum()(a, b)


def minimum(a, b):
    """The smaller of two, element by element; NaN if either is. Equal ones share the gradient."""
    return Minimum()(a, b)


def astype(x, dtype):
    """x with another dtype. Gradients come back in x's own."""
    return Astype(dtype)(x)


def clone(x):
    """A copy in memory of its own."""
    return Clone()(x)


def to_device(x, device: str):
    """x on `"cpu"`, `"cuda"` or `"cuda:<index>"`."""
    return ToDevice(device)(x)
