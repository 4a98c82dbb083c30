"""Weights as a direction and a length, in one pass over memory forward and backward."""

from __future__ import annotations

from ..autograd import Op
from ..device import kernels
from .checks import check_floats
from .elementwise import sqrt, where
from .reduce import sum

__all__ = ["weight_norm"]


class WeightNorm(Op):
    """w = g · v / |v|, slice by slice along an axis; where the mask is 0, v counts as 0."""

    def __init__(self, dim: int):
        self.dim = dim

    def forward(self, v, g, mask):
        w, self.length = kernels("weight_norm", v).weight_norm(v, g, mask, dim=self.dim)
        self.save(v, g, mask)
        return w

    def backward(self, grad):
        v, g, mask = self.saved
        kernel = kernels("weight_norm", v)
        return *kernel.weight_norm_grad(grad, v, g, self.length, mask, dim=self.dim), None

    def composite(self, v, g, mask):
        v = v if mask is None else v * mask
        squares = sum(v * v, tuple(i for i in range(v.ndim) if i != self.dim), keepdims=True)
        empty = squares == 0
        return where(empty, 0.0, v * (g / sqrt(where(empty, 1.0, squares))))


def weight_norm(v, g, *, dim: int = 0, mask=None):
    """w = g · v / |v| for each slice along the axis `dim` (Salimans & Kingma 2016, equation 2).

    v of any shape; g has v's size along `dim` and 1 along the other axes; returns w of v's shape.
    Where `mask` (v's shape, zeros and ones; it gets no gradient) is 0, v counts as 0. A slice of
    zeros has no direction: its weights and gradients are 0.
    """
    if not -v.ndim <= dim < v.ndim:
        raise ValueError(f"weight_norm: dim={dim} is no axis of v {v.shape}")
    dim %= v.ndim
    lengths = tuple(n if i == dim else 1 for i, n in enumerate(v.shape))
    if tuple(g.shape) != lengths:
        raise ValueError(
            f"weight_norm: g {g.shape} for v {v.shape} and dim={dim}: expected {lengths}"
        )
    if mask is not None and tuple(mask.shape) != tuple(v.shape):
        raise ValueError(f"weight_norm: mask {mask.shape} must have the shape of v {v.shape}")
    check_floats("weight_norm", v=v, g=g, mask=mask)
    return WeightNorm(dim)(v, g, mask)
