"""Normalisation over a batch or over features, as fused kernels."""

from __future__ import annotations

import math

from ..autograd import Op, is_grad_enabled
from ..device import array_module, kernels
from ..tensor import Tensor
from . import activation as A
from . import elementwise as E
from . import reduce as R
from .checks import check_floats
from .shape import reshape

__all__ = ["batch_norm", "layer_norm"]

_FUSED = {"identity", "relu", "leaky_relu"}


def _activate(x, activation: str, negative_slope: float):
    if activation == "relu":
        return A.relu(x)
    return x if activation == "identity" else A.leaky_relu(x, negative_slope)


class BatchNorm(Op):
    """activation(γ (x - mean) / sqrt(var + eps) + β) with the batch's own statistics.

    After the call `mean` and `var` (biased), both (C,), are the statistics that were used.
    """

    def __init__(self, eps: float, activation: str = "identity", negative_slope: float = 0.0):
        self.eps, self.activation, self.negative_slope = eps, activation, negative_slope

    def forward(self, x, weight, bias):
        y, self.mean, self.var = kernels("norm", x).batch_norm(
            x, weight, bias, eps=self.eps, activation=self.activation, param=self.negative_slope
        )
        self.save(x, weight, bias)  # the sign before the activation is computed anew
        return y

    def backward(self, grad):
        x, weight, bias = self.saved
        return kernels("norm", x).batch_norm_grad(
            grad, x, self.mean, self.var, weight, bias,
            eps=self.eps, activation=self.activation, param=self.negative_slope,
        )  # fmt: skip

    def composite(self, x, weight, bias):
        axes = (0, *range(2, x.ndim))
        centred = x - R.mean(x, axes, keepdims=True)
        var = R.mean(centred * centred, axes, keepdims=True)
        y = _affine(centred / E.sqrt(var + self.eps), weight, bias)
        return _activate(y, self.activation, self.negative_slope)


class LayerNorm(Op):
    """γ (x - mean) / sqrt(var + eps) + β over the last axis of (M, D)."""

    def __init__(self, eps: float):
        self.eps = eps

    def forward(self, x, weight, bias):
        y, self.mean, self.rstd = kernels("norm", x).layer_norm(x, weight, bias, eps=self.eps)
        self.save(x, weight, bias)
        return y

    def backward(self, grad):
        x, weight, bias = self.saved
        grad_x, grad_weight, grad_bias = kernels("norm", x).layer_norm_grad(
            grad, x, self.mean, self.rstd, weight
        )
        return grad_x, grad_weight, None if bias is None else grad_bias

    def composite(self, x, weight, bias):
        centred = x - R.mean(x, 1, keepdims=True)
        y = centred / E.sqrt(R.mean(centred * centred, 1, keepdims=True) + self.eps)
        if weight is not None:
            y = y * weight
        return y if bias is None else y + bias


def _affine(x, weight, bias):
    """γ x + β with one value for each channel (axis 1)."""
    along_channels = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        x = x * reshape(weight, along_channels)
    return x if bias is None else x + reshape(bias, along_channels)


def batch_norm(
    input,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight=None,
    bias=None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "identity",
    negative_slope: float = 0.0,
):
    """y = activation(γ (x - mean) / sqrt(var + eps) + β) for each channel (Ioffe & Szegedy 2015).

    input (N, C) or (N, C, ...); weight γ and bias β (C,), each may be None; running_mean and
    running_var (C,), both or neither. In training the statistics are the batch's (biased
    variance), and the running ones, if given, move towards them by `momentum` (with the unbiased
    variance, as in PyTorch); otherwise the running ones are used. `activation` ("identity",
    "relu", "leaky_relu") is fused: it costs no pass over memory of its own.
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input {input.shape} must be (N, C) or (N, C, ...)")
    channels = input.shape[1]
    for name, value in [
        ("running_mean", running_mean), ("running_var", running_var),
        ("weight", weight), ("bias", bias),
    ]:  # fmt: skip
        if value is not None and tuple(value.shape) != (channels,):
            raise ValueError(
                f"batch_norm: input {input.shape} is (N, C, ...), so {name} must have shape "
                f"({channels},), got {value.shape}"
            )
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: give both running_mean and running_var, or neither")
    check_floats("batch_norm", input=input, weight=weight, bias=bias)
    if activation not in _FUSED:
        raise ValueError(f"batch_norm: activation {activation!r} is none of {sorted(_FUSED)}")
    if not training and running_mean is not None:
        return _with_running_statistics(
            input, running_mean, running_var, weight, bias, eps, activation, negative_slope
        )
    count = math.prod(input.shape) // max(channels, 1)
    if training and count == 1:
        raise ValueError(
            f"batch_norm: one value per channel in {input.shape} has no variance; "
            "use a larger batch, or eval mode"
        )
    op = BatchNorm(eps, activation, negative_slope)
    y = op(input, weight, bias)
    if training and running_mean is not None and count:
        mean, var = _array(running_mean), _array(running_var)
        kernels("norm", mean).update_running(
            mean, var, op.mean, op.var, momentum=momentum, count=count
        )
    return y


def _array(x):
    return x.data if isinstance(x, Tensor) else x


def _with_running_statistics(
    input, running_mean, running_var, weight, bias, eps, activation, negative_slope
):
    mean, var = _array(running_mean), _array(running_var)
    rstd = 1 / array_module(var).sqrt(var + eps)
    scale = rstd if weight is None else weight * rstd
    shift = -mean * scale if bias is None else bias - scale * mean
    tensors = [x for x in (input, weight, bias) if isinstance(x, Tensor)]
    if is_grad_enabled() and any(x.requires_grad for x in tensors):
        return _activate(_affine(input, scale, shift), activation, negative_slope)
    arrays = [_array(x) for x in (input, scale, shift)]
    kernel = kernels("norm", arrays[0])
    y = kernel.scale_shift(*arrays, activation=activation, param=negative_slope)
    return Tensor._make(y) if tensors else y


def layer_norm(input, normalized_shape, weight=None, bias=None, *, eps: float = 1e-5):
    """y = γ (x - mean) / sqrt(var + eps) + β over the last axes (Ba et al. 2016).

    `normalized_shape`: the sizes of those axes; weight γ and bias β have that shape.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ValueError(
            f"layer_norm: the last axes of input {input.shape} must be normalized_shape {shape}"
        )
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"layer_norm: {name} {value.shape} must have shape {shape}")
    check_floats("layer_norm", input=input, weight=weight, bias=bias)
    size = math.prod(shape)
    flat = [None if x is None else reshape(x, size) for x in (weight, bias)]
    rows = math.prod(input.shape[: input.ndim - len(shape)])
    return reshape(LayerNorm(eps)(reshape(input, rows, size), *flat), *input.shape)
