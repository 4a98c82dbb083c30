"""Gradients of weights that a loop uses again and again."""

from __future__ import annotations

from .. import device

__all__ = ["OuterProducts"]


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
