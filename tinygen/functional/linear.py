"""Matrix products, the affine map, and the table look-up."""

from __future__ import annotations

import math

from ..autograd import Op
from ..autograd.gradients import OuterProducts
from ..device import kernels
from ..tensor import Tensor
from . import reduce as R
from .activation import activation_grad
from .shape import as_array, reshape, transpose

__all__ = ["embedding", "linear", "matmul"]

FUSED = ("relu", "leaky_relu", "elu", "softplus", "sigmoid", "tanh")
"""The activations whose slope follows from their value."""


class Matmul(Op):
    broadcasts = True  # over the axes before the last two

    def forward(self, a, b):
        self.save(a, b)
        return kernels("matmul", a).matmul(a, b)

    def backward(self, grad):
        a, b = self.saved
        return (
            Matmul()(grad, transpose(b, -1, -2)) if self.needs_grad(0) else None,
            Matmul()(transpose(a, -1, -2), grad) if self.needs_grad(1) else None,
        )


class Linear(Op):
    """y = f(x Wᵀ + b) on rows: x (M, in), W (out, in), b (out,) or None, f an activation or None
    whose slope its value tells: what it is applied to is not kept."""

    def __init__(self, activation: str | None = None, param: float = 0.0):
        self.activation, self.param = activation, param

    def forward(self, x, weight, bias):
        y = kernels("matmul", x).linear(x, weight, bias)
        if self.activation is None:
            self.save(x, weight)
        else:
            y = kernels("elementwise", y).activation(y, self.activation, self.param)
            self.save(x, weight, y)
        return y

    def backward(self, grad):
        x, weight, *y = self.saved
        if y:
            grad = activation_grad(grad, *y, self.activation, self.param)
        return (
            Matmul()(grad, weight) if self.needs_grad(0) else None,
            weight_grad(self, 1, grad, x),
            R.sum(grad, 0) if self.needs_grad(2) else None,
        )


def weight_grad(op: Op, index: int, grad, x):
    """The gradient Σ gᵀ x of an op's input W, from that of y = x Wᵀ and the rows x: None if nobody
    asked for it, kept as products if the op isn't the only one that uses W and the rows, which
    will be copied, are smaller than the sum that is saved."""
    if not op.needs_grad(index):
        return None
    one_dtype = grad.dtype == x.dtype == op.parents[index].dtype
    if one_dtype and grad.size + x.size <= grad.shape[1] * x.shape[1] and op.may_defer(index):
        return OuterProducts(grad, x)
    return Matmul()(grad.T, x)


class Embedding(Op):
    """Rows of a table: weight (K, D), index (M,) -> (M, D)."""

    def forward(self, weight, index):
        self.save(index)
        self.rows = weight.shape[0]
        return kernels("index", weight).take(weight, index)

    def backward(self, grad):
        (index,) = self.saved
        return EmbeddingGrad(self.rows)(grad, index), None


class EmbeddingGrad(Op):
    """Row k of the result is the sum of the gradient's rows with index k."""

    def __init__(self, rows: int):
        self.rows = rows

    def forward(self, grad, index):
        self.save(index)
        return kernels("index", grad).take_grad(grad, index, self.rows)

    def backward(self, grad):
        (index,) = self.saved
        return Embedding()(grad, index), None


def matmul(a, b):
    """Matrix product over the last two axes, the others broadcasting; vectors as in NumPy.

    (..., n, k) @ (..., k, m) -> (..., n, m).
    """
    inner = a.shape[-1] if a.ndim else None, b.shape[-2 if b.ndim > 1 else 0] if b.ndim else None
    if None in inner or inner[0] != inner[1]:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape} do not align: the first's last axis "
            f"must equal the second's {'last but one' if b.ndim > 1 else 'only one'}"
        )
    if a.ndim == 1:
        out = matmul(reshape(a, 1, -1), b)
        return reshape(out, (*out.shape[:-2], out.shape[-1]) if b.ndim > 1 else out.shape[1:])
    if b.ndim == 1:
        out = matmul(a, reshape(b, -1, 1))
        return reshape(out, out.shape[:-1])
    if a.ndim > 2 and b.ndim == 2:
        # One large product instead of many small ones, and b's gradient needs no sum afterwards.
        out = Matmul()(reshape(a, math.prod(a.shape[:-1]), a.shape[-1]), b)
        return reshape(out, *a.shape[:-1], b.shape[-1])
    try:
        return Matmul()(a, b)
    except ValueError:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape}: "
            "the axes before the last two do not broadcast"
        ) from None


def linear(input, weight, bias=None, *, activation: str | None = None, param: float = 0.0):
    """y = x Wᵀ + b, or f(x Wᵀ + b) with an activation f as one operation.

    input (..., in_features), weight (out_features, in_features), bias (out_features,);
    returns (..., out_features). `activation`: "relu", "leaky_relu", "elu", "softplus", "sigmoid"
    or "tanh"; `param` is the slope or the α of those that have one.
    """
    if activation is not None and activation not in FUSED:
        raise ValueError(f"linear: activation={activation!r} is not one of {', '.join(FUSED)}")
    if weight.ndim != 2 or input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: input {input.shape} and weight {weight.shape} do not align: "
            "weight is (out_features, in_features), input's last axis must be in_features"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {bias.shape} for {weight.shape[0]} out_features")
    lead = input.shape[:-1]
    rows = input if input.ndim == 2 else reshape(input, math.prod(lead), input.shape[-1])
    out = Linear(activation, param)(rows, weight, bias)
    return out if input.ndim == 2 else reshape(out, *lead, weight.shape[0])


def embedding(input, weight):
    """Rows of `weight` (num_embeddings, D) picked by integers `input` of any shape: (..., D).

    IndexError for an index outside [0, num_embeddings); on a GPU, where the host would have to
    wait for a look at it, its row is NaN.
    """
    index = input if isinstance(input, Tensor) else as_array(input)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must be (num_embeddings, D), got {weight.shape}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: expected integer indices, got {index.dtype}")
    out = Embedding()(weight, reshape(index, -1))
    return reshape(out, *index.shape, weight.shape[1])
