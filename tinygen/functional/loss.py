"""Losses. `reduction`: "mean" (the default), "sum", or "none" for one value per element."""

from __future__ import annotations

import math

from ..autograd import Op
from ..device import array_module, kernels
from ..tensor import Tensor
from .activation import sigmoid
from .checks import check_floats
from .elementwise import where
from .reduce import mean, sum
from .shape import as_array, permute, reshape, unsqueeze
from .softmax import Softmax

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss"]


class CrossEntropy(Op):
    """-log softmax(logits)[target] for each row of (M, K) -> (M,)."""

    def __init__(self, ignore_index: int):
        self.ignore_index = ignore_index

    def forward(self, logits, targets):
        losses, lse = kernels("softmax", logits).cross_entropy(
            logits, targets, ignore_index=self.ignore_index
        )
        self.save(logits, targets, lse)
        return losses

    def backward(self, grad):
        logits, targets, lse = self.saved
        if isinstance(grad, Tensor):
            targets = targets[:, None]
            one_hot = targets == array_module(targets).arange(logits.shape[1])
            difference = Softmax()(logits) - one_hot.astype(logits.dtype)
            counted = where(targets != self.ignore_index, difference, 0.0)
            return unsqueeze(grad, 1) * counted, None
        grad_logits = kernels("softmax", grad).cross_entropy_grad(
            grad, logits, targets, lse, ignore_index=self.ignore_index
        )
        return grad_logits, None


class BinaryCrossEntropyWithLogits(Op):
    """-t log σ(x) - (1 - t) log(1 - σ(x)) = max(x, 0) - x t + log(1 + exp(-|x|))."""

    def forward(self, logits, targets):
        self.save(logits, targets)
        return kernels("softmax", logits).binary_cross_entropy_with_logits(logits, targets)

    def backward(self, grad):
        logits, targets = self.saved
        grad_targets = -grad * logits if self.needs_grad(1) else None
        if not self.needs_grad(0):
            return None, grad_targets
        if isinstance(grad, Tensor):
            return grad * (sigmoid(logits) - targets), grad_targets
        kernel = kernels("softmax", logits)
        grad_logits = kernel.binary_cross_entropy_with_logits_grad(grad, logits, targets)
        return grad_logits, grad_targets


class SquaredError(Op):
    """(a - b)²."""

    def forward(self, a, b):
        difference = a - b
        self.save(a, b, difference)
        return difference * difference

    def backward(self, grad):
        a, b, difference = self.saved
        if isinstance(grad, Tensor):
            difference = a - b
        grad_a = 2 * grad * difference
        return grad_a, -grad_a if self.needs_grad(1) else None


def _reduce(losses, reduction: str, op: str):
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum(losses)
    if reduction != "none":
        raise ValueError(f"{op}: reduction={reduction!r} must be 'mean', 'sum' or 'none'")
    return losses


def cross_entropy(input, target, *, reduction: str = "mean", ignore_index: int = -100):
    """-log softmax(logits)[target], in nats.

    input: logits (N, K) or (N, K, d1, ...); target: integers in [0, K) of shape (N,) or
    (N, d1, ...). Where it is `ignore_index` the loss is 0, and the mean is over the others.
    Raises ValueError for another number outside of [0, K); on a GPU, where the host would have to
    wait for a look at it, its loss is NaN.
    """
    check_floats("cross_entropy", input=input)
    target = target if isinstance(target, Tensor) else as_array(target)
    data = target.data if isinstance(target, Tensor) else target
    if data.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: expected integer classes as target, got {data.dtype}")
    if input.ndim < 2 or data.shape != (input.shape[0], *input.shape[2:]):
        raise ValueError(
            f"cross_entropy: logits {input.shape} are (N, K, ...), so the target must have shape "
            f"{(*input.shape[:1], *input.shape[2:])}, got {data.shape}"
        )
    classes = input.shape[1]
    if input.ndim > 2:
        input = permute(input, 0, *range(2, input.ndim), 1)
    rows = reshape(input, math.prod(data.shape), classes)
    losses = CrossEntropy(ignore_index)(rows, reshape(target, -1) if data.ndim > 1 else target)
    losses = reshape(losses, data.shape)
    if reduction == "mean":
        return sum(losses) / sum((data != ignore_index).astype(losses.dtype))
    return _reduce(losses, reduction, "cross_entropy")


def binary_cross_entropy_with_logits(input, target, *, reduction: str = "mean"):
    """-t log σ(x) - (1 - t) log(1 - σ(x)) for logits x and targets t in [0, 1], in nats.

    Never infinite for finite logits. The target has the input's shape.
    """
    if not hasattr(target, "shape") or tuple(target.shape) != tuple(input.shape):
        raise ValueError(
            "binary_cross_entropy_with_logits: input and target must have one shape, got "
            f"{tuple(input.shape)} and {getattr(target, 'shape', type(target).__name__)}"
        )
    check_floats("binary_cross_entropy_with_logits", input=input)
    losses = BinaryCrossEntropyWithLogits()(input, target)
    return _reduce(losses, reduction, "binary_cross_entropy_with_logits")


def mse_loss(input, target, *, reduction: str = "mean"):
    """(x - t)²; input and target have one shape."""
    if tuple(getattr(target, "shape", ())) != tuple(input.shape):
        raise ValueError(
            f"mse_loss: input {tuple(input.shape)} and target "
            f"{tuple(getattr(target, 'shape', ()))} must have one shape"
        )
    return _reduce(SquaredError()(input, target), reduction, "mse_loss")
