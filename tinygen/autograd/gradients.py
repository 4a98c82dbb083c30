"""Gradients on their way: made to fit, copied where memory is shared, added up."""

from __future__ import annotations

from collections.abc import Sequence

from .. import device
from ..tensor import Tensor
from .modes import no_grad
from .op import Leaf, Node, Op

__all__ = ["OuterProducts", "accumulate", "fit", "is_shared"]


def fit(g, parent: Node, op: Op):
    """The gradient in its input's shape and dtype."""
    if g.shape != parent.shape:
        if not op.broadcasts:
            raise RuntimeError(
                f"{op.name}.backward returned shape {g.shape} for an input of {parent.shape}"
            )
        g = F.sum_to(g, parent.shape)
    if g.dtype != parent.dtype:
        g = g.astype(parent.dtype)
    return g


def is_shared(g, op: Op, grads: Sequence, results: Sequence) -> bool:
    """Whether a gradient may be seen under another name, so that who gets it must take a copy."""
    array = _data(g)
    if any(g is x for x in grads) or sum(g is x for x in results) > 1:
        return True
    if array.base is None or 0 in array.strides:  # memory of its own; one element at many places
        return array.base is not None
    # A view: harmless if what it views is known to nobody else, as a kernel's fresh result is.
    others = [x for x in (*grads, *results, *(entry[0] for entry in op._saved)) if x is not g]
    share = device.array_module(array).may_share_memory
    return any(share(array, _data(x)) for x in others if _has_memory(x))


def _has_memory(x) -> bool:
    return hasattr(x, "shape") and type(x) is not OuterProducts


def _data(x):
    return x.data if isinstance(x, Tensor) else x


def accumulate(leaf: Leaf, g) -> None:
    """Add to the `.grad` of a leaf that is still there."""
    tensor = leaf.tensor()
    if tensor is None:
        return
    if tensor.grad is None:
        tensor.grad = g if isinstance(g, Tensor) else Tensor._make(g)
    elif isinstance(g, Tensor) or tensor.grad.requires_grad:
        tensor.grad = tensor.grad + g  # a gradient that is on a tape itself stays as it is
    else:
        with no_grad():
            tensor.grad.add_(g)


class OuterProducts:
    """A weight's gradient Σ gᵀ x over rows g (n, out) and x (n, in), not computed yet.

    A weight that a loop uses T times gets T of them. Kept until the last one has come, they are
    one product of all rows; at once they would be T products of a few rows, and T - 1 sums.
    """

    def __init__(self, grad, x):
        self.pairs, self.known = [(grad, x)], None
        self.shape, self.dtype = (grad.shape[1], x.shape[1]), x.dtype

    def after(self, known):
        """This and what is known already: None, an array, or other products."""
        if type(known) is OuterProducts:
            known.pairs += self.pairs
            return known
        self.known = known
        return self

    def __add__(self, array):
        return self.sum() + array

    def sum(self):
        """The gradient, (out, in)."""
        grad, x = (
            parts[0] if len(parts) == 1 else device.array_module(parts[0]).concatenate(parts)
            for parts in zip(*self.pairs, strict=True)
        )
        total = device.kernels("matmul", x).matmul(grad.T, x)
        return total if self.known is None else self.known + total


from .. import functional as F  # noqa: E402 - its ops derive from Op
