"""Starting values, written into a tensor in place; drawn from `tinygen.random`'s generator."""

from __future__ import annotations

import math

import numpy as np

from .. import random
from ..autograd import no_grad
from ..device import move
from ..tensor import Tensor

__all__ = [
    "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_",
    "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip


def _write(tensor: Tensor, values) -> Tensor:
    with no_grad():
        return tensor.copy_(move(values, tensor.device) if hasattr(values, "shape") else values)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """U(a, b)."""
    return _write(tensor, random.uniform(tensor.shape, a, b, dtype=tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """N(mean, std²)."""
    return _write(tensor, random.normal(tensor.shape, mean, std, dtype=tensor.dtype))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    return _write(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return _write(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return _write(tensor, 1.0)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) of one unit: for a kernel, channels times its size."""
    if tensor.ndim < 2:
        raise ValueError(f"init: shape {tensor.shape} has no fan-in and fan-out; needs two axes")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(±gain √(6 / (fan_in + fan_out))) (Glorot & Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, gain² · 2 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    gains = {
        "leaky_relu": math.sqrt(2 / (1 + a * a)), "relu": math.sqrt(2),
        "linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3,
    }  # fmt: skip
    if mode not in ("fan_in", "fan_out") or nonlinearity not in gains:
        raise ValueError(
            f"kaiming: mode={mode!r} must be 'fan_in' or 'fan_out', "
            f"nonlinearity={nonlinearity!r} one of {', '.join(gains)}"
        )
    fan_in, fan_out = _fans(tensor)
    return gains[nonlinearity] / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """U(±gain √(3 / fan)), gain √(2 / (1 + a²)) for leaky relu (He et al. 2015)."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """N(0, gain² / fan), gain √(2 / (1 + a²)) for leaky relu (He et al. 2015)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Orthonormal rows (or columns, if there are more rows), times gain (Saxe et al. 2013)."""
    if tensor.ndim < 2:
        raise ValueError(f"init: shape {tensor.shape} is no matrix; needs two axes")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    draw = random.normal((max(rows, columns), min(rows, columns)), 0.0, 1.0, dtype=np.float64)
    q, r = np.linalg.qr(draw)
    q *= np.sign(np.diag(r))  # makes the factorisation, and so the distribution, unique
    matrix = q if rows >= columns else q.T
    return _write(tensor, (gain * matrix).astype(tensor.dtype).reshape(tensor.shape))
