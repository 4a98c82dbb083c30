"""Tensor's arithmetic operators: the functions themselves, not methods that call them, since small
networks feel every call."""

from __future__ import annotations

from ..tensor import Tensor
from .elementwise import abs, add, div, mul, neg, pow, sub
from .linear import matmul

__all__: list[str] = []


def _reflected(function):
    return lambda self, other: function(other, self)


Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = mul
Tensor.__sub__, Tensor.__rsub__ = sub, _reflected(sub)
Tensor.__truediv__, Tensor.__rtruediv__ = div, _reflected(div)
Tensor.__pow__, Tensor.__rpow__ = pow, _reflected(pow)
Tensor.__matmul__, Tensor.__rmatmul__ = matmul, _reflected(matmul)
Tensor.__neg__, Tensor.__abs__ = neg, abs
Tensor.__pos__ = lambda self: self
