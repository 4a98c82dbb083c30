"""Steps of inverse autoregressive flows: a new z, and log |det dz'/dz| of each row."""

from __future__ import annotations

import math

from ..autograd import Op
from ..device import array_module, kernels
from .activation import sigmoid, softplus
from .checks import check_floats
from .elementwise import exp
from .reduce import sum
from .shape import reshape, split

__all__ = ["iaf_affine", "iaf_gate"]


class IAFGate(Op):
    """σ z + (1 - σ) m and Σ log σ, with σ = sigmoid(s + bias): z (M, D), m and s in (M, 2D)."""

    def __init__(self, bias: float):
        self.bias = bias

    def forward(self, z, ms):
        self.save(z, ms)
        return kernels("flow", z).iaf_gate(z, ms, bias=self.bias)

    def backward(self, grad, grad_log_det):
        z, ms = self.saved
        zeros = array_module(z).zeros
        grad = zeros(z.shape, z.dtype) if grad is None else grad
        grad_log_det = zeros(len(z), z.dtype) if grad_log_det is None else grad_log_det
        return kernels("flow", z).iaf_gate_grad(grad, grad_log_det, z, ms, bias=self.bias)

    def composite(self, z, ms):
        m, s = split(ms, z.shape[1], 1)
        keep = sigmoid(s + self.bias)
        return keep * z + (1 - keep) * m, -sum(softplus(-(s + self.bias)), 1)


def iaf_gate(z, ms, *, bias: float = 1.5):
    """The gated step of an inverse autoregressive flow: returns (z', log_det).

    z' = σ z + (1 - σ) m,  log_det = Σ log σ,  σ = sigmoid(s + bias)

    z (N, D), or maps (N, D, ...); `ms` holds m and s, which must be autoregressive in z (as from
    `nn.MADE`), one after the other along axis 1: (N, 2D, ...). z' has the shape of z, log_det is
    (N,): log q(z') = log q(z) - log_det. A bias of 1 to 2 starts near the identity. (Kingma et al.
    2016, arXiv 1606.04934, equations 12 to 14.)
    """
    _check("iaf_gate", z, ms)
    if z.ndim == 2:
        return IAFGate(bias)(z, ms)
    rows, size = z.shape[0], math.prod(z.shape[1:])
    out, log_det = IAFGate(bias)(reshape(z, rows, size), reshape(ms, rows, 2 * size))
    return reshape(out, z.shape), log_det


def iaf_affine(z, ms, *, scale: float = 0.1):
    """The affine step of an inverse autoregressive flow: returns (z', log_det).

    z' = (z - m) / exp(s),  log_det = -Σ s,  where m and s are `scale` times what is in `ms`

    Shapes are those of `iaf_gate`. The scale keeps exp(s) from overflowing early in training.
    (The form of the authors' code for CIFAR-10, which has no gate.)
    """
    _check("iaf_affine", z, ms)
    m, s = split(ms * scale, z.shape[1], 1)
    return (z - m) * exp(-s), -sum(s, tuple(range(1, s.ndim)))


def _check(op: str, z, ms) -> None:
    if z.ndim < 2 or ms.shape != (z.shape[0], 2 * z.shape[1], *z.shape[2:]):
        raise ValueError(
            f"{op}: z {z.shape} is (N, D, ...), so ms must hold m and s as (N, 2D, ...), "
            f"got {ms.shape}"
        )
    check_floats(op, z=z, ms=ms)
