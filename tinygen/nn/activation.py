"""Activation functions as modules. `inplace` is accepted for PyTorch's sake and has no effect.

Those with a `kind` can be computed together with the layer before them, see `Sequential`; `param`
is the number that the function takes.
"""

from __future__ import annotations

from .. import functional as F
from .module import Module

__all__ = [
    "ELU", "GELU", "Identity", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax",
    "Softplus", "Tanh",
]  # fmt: skip


class Identity(Module):
    """x. Takes any arguments, to stand in for any other module."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input


class ReLU(Module):
    """max(x, 0)."""

    kind, param = "relu", 0.0

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input):
        return F.relu(input)


class LeakyReLU(Module):
    """x if x > 0 else negative_slope · x."""

    kind = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope = negative_slope

    @property
    def param(self) -> float:
        return self.negative_slope

    def forward(self, input):
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """x if x > 0 else α(eˣ - 1)."""

    kind = "elu"

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha

    @property
    def param(self) -> float:
        return self.alpha

    def forward(self, input):
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Softplus(Module):
    """log(1 + eˣ)."""

    kind, param = "softplus", 0.0

    def forward(self, input):
        return F.softplus(input)


class Sigmoid(Module):
    """1 / (1 + e⁻ˣ)."""

    kind, param = "sigmoid", 0.0

    def forward(self, input):
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    kind, param = "tanh", 0.0

    def forward(self, input):
        return F.tanh(input)


class GELU(Module):
    """x Φ(x), or its tanh approximation."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input):
        return F.gelu(input, approximate=self.approximate)


class SiLU(Module):
    """x · sigmoid(x)."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input):
        return F.silu(input)


class Softmax(Module):
    """exp(x) / Σ exp(x) along an axis (`dim`, PyTorch's word)."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.softmax(input, self.dim)


class LogSoftmax(Module):
    """x - log Σ exp(x) along an axis (`dim`, PyTorch's word)."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.log_softmax(input, self.dim)
