"""Batch norm (with its activation) and layer norm, forward and backward.

z = (x - mean) · rstd · weight + bias with rstd = 1 / sqrt(var + eps), then y = activation(z).
The variance is the biased one, the mean of the squared deviations, as both papers have it.
Sources: Ioffe & Szegedy 2015 (batch norm, algorithm 1), Ba, Kiros & Hinton 2016 (layer norm).
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "batch_norm",
    "batch_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "leaky_slope",
    "scale_shift",
    "scale_shift_grad",
    "update_running",
]


def leaky_slope(activation: str, param: float) -> float:
    """The slope below zero of an activation that can be fused: all of them are leaky relus."""
    slopes = {"identity": 1.0, "relu": 0.0, "leaky_relu": param}
    if activation not in slopes:
        raise ValueError(f"norm: activation {activation!r} is not one of {', '.join(slopes)}")
    return slopes[activation]


def _axes(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _per_channel(vector: np.ndarray | None, x: np.ndarray, default: float) -> np.ndarray:
    """A (C,) vector, or the default, in a shape that broadcasts with (N, C, ...), in float64."""
    values = np.full(x.shape[1], default) if vector is None else vector.astype(np.float64)
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _activate(z: np.ndarray, slope: float) -> np.ndarray:
    return np.where(z <= 0, 0 if slope == 0 else slope * z, z)


def _activate_grad(grad: np.ndarray, z: np.ndarray, slope: float) -> np.ndarray:
    """The slope at 0 is the one below 0, as in PyTorch."""
    return np.where(z <= 0, 0 if slope == 0 else slope * grad, grad)


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise (N, C, ...) over all axes but C: y = activation(z), mean (C,), variance (C,).

    `activation` is identity, relu or leaky_relu (`param` is its slope). `weight` and `bias` (C,)
    default to 1 and 0. No values at all (N = 0) have mean and variance 0.
    """
    wide = x.astype(np.float64)
    count = max(x.size // max(x.shape[1], 1), 1)
    mean = wide.sum(_axes(x)) / count
    var = np.square(wide - _per_channel(mean, x, 0)).sum(_axes(x)) / count
    rstd = 1 / np.sqrt(var + eps)
    normal = (wide - _per_channel(mean, x, 0)) * _per_channel(rstd, x, 1)
    z = normal * _per_channel(weight, x, 1) + _per_channel(bias, x, 0)
    y = _activate(z, leaky_slope(activation, param))
    return y.astype(x.dtype), mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm_grad(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    eps: float,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Gradients for x, weight and bias (None where the argument is None).

    With g = grad · activation'(z) and n = (x - mean) · rstd, means over all axes but C:
    grad_x = weight · rstd · (g - mean(g) - n · mean(g · n)),
    grad_weight = Σ g · n, grad_bias = Σ g.
    """
    wide = x.astype(np.float64)
    count = max(x.size // max(x.shape[1], 1), 1)
    rstd = 1 / np.sqrt(_per_channel(var, x, 0) + eps)
    gain = _per_channel(weight, x, 1)
    normal = (wide - _per_channel(mean, x, 0)) * rstd
    z = normal * gain + _per_channel(bias, x, 0)
    g = _activate_grad(grad.astype(np.float64), z, leaky_slope(activation, param))
    grad_bias = g.sum(_axes(x), keepdims=True)
    grad_weight = (g * normal).sum(_axes(x), keepdims=True)
    grad_x = gain * rstd * (g - grad_bias / count - normal * grad_weight / count)
    return (
        grad_x.astype(x.dtype),
        None if weight is None else grad_weight.ravel().astype(x.dtype),
        None if bias is None else grad_bias.ravel().astype(x.dtype),
    )


def scale_shift(
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> np.ndarray:
    """y = activation(x · scale + shift) per channel: batch norm with known statistics."""
    z = x.astype(np.float64) * _per_channel(scale, x, 1) + _per_channel(shift, x, 0)
    return _activate(z, leaky_slope(activation, param)).astype(x.dtype)


def scale_shift_grad(
    grad: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    activation: str = "identity",
    param: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients for x, scale and shift."""
    wide = x.astype(np.float64)
    z = wide * _per_channel(scale, x, 1) + _per_channel(shift, x, 0)
    g = _activate_grad(grad.astype(np.float64), z, leaky_slope(activation, param))
    return (
        (g * _per_channel(scale, x, 1)).astype(x.dtype),
        (g * wide).sum(_axes(x)).astype(x.dtype),
        g.sum(_axes(x)).astype(x.dtype),
    )


def update_running(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    momentum: float,
    count: int,
) -> None:
    """Move running statistics (C,) towards a batch's, in place; `count` values per channel, >= 2.

    r ← r + momentum (statistic - r), with the unbiased variance var · count / (count - 1).
    """
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var * (count / (count - 1)) - running_var)


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, *, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise each row of (M, D): y (M, D), mean (M,) and rstd = 1 / sqrt(var + eps) (M,)."""
    wide = x.astype(np.float64)
    count = max(x.shape[1], 1)
    mean = wide.sum(1, keepdims=True) / count
    rstd = 1 / np.sqrt(np.square(wide - mean).sum(1, keepdims=True) / count + eps)
    y = (wide - mean) * rstd * (1 if weight is None else weight) + (0 if bias is None else bias)
    return y.astype(x.dtype), mean.ravel().astype(x.dtype), rstd.ravel().astype(x.dtype)


def layer_norm_grad(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    weight: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients for x (M, D), weight and bias (D,), the last two whether there are any or not.

    With n = (x - mean) · rstd, h = grad · weight and means over the row:
    grad_x = rstd · (h - mean(h) - n · mean(h · n)), grad_weight = Σ grad · n, grad_bias = Σ grad.
    """
    count = max(x.shape[1], 1)
    inverse = rstd.astype(np.float64)[:, None]
    normal = (x.astype(np.float64) - mean[:, None]) * inverse
    h = grad.astype(np.float64) * (1 if weight is None else weight)
    along = (h * normal).sum(1, keepdims=True) / count
    grad_x = inverse * (h - h.sum(1, keepdims=True) / count - normal * along)
    return (
        grad_x.astype(x.dtype),
        (grad * normal).sum(0).astype(x.dtype),
        grad.sum(0, dtype=np.float64).astype(x.dtype),
    )
