"""Batch and layer normalisation."""

from __future__ import annotations

import numpy as np

from .. import functional as F
from ..tensor import Tensor
from .module import Module, Parameter

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "LayerNorm"]


class BatchNorm(Module):
    """Normalise every channel over the batch (Ioffe & Szegedy 2015); see `F.batch_norm`.

    `weight` and `bias` (num_features,); the buffers `running_mean`, `running_var` move by
    `momentum` in training and take the batch's place in evaluation.
    """

    ndims: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        ones = np.ones(num_features, np.float32)
        self.register_parameter("weight", Parameter(ones.copy()) if affine else None)
        self.register_parameter("bias", Parameter(0 * ones) if affine else None)
        track = track_running_stats
        self.register_buffer("running_mean", Tensor(0 * ones) if track else None)
        self.register_buffer("running_var", Tensor(ones.copy()) if track else None)
        self.register_buffer(
            "num_batches_tracked", Tensor(np.zeros((), np.int64)) if track else None
        )

    def forward(self, input, *, activation: str = "identity", param: float = 0.0):
        if input.ndim not in self.ndims or input.shape[1] != self.num_features:
            axes = " or ".join(str(n) for n in self.ndims)
            raise ValueError(
                f"{type(self).__name__}: input {input.shape} must have {axes} axes and "
                f"{self.num_features} channels (axis 1)"
            )
        momentum = self.momentum
        if self.training and self.running_mean is not None:
            self.num_batches_tracked.data += 1
            if momentum is None:  # the plain average of all batches so far
                momentum = 1 / int(self.num_batches_tracked.data)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training, momentum=momentum, eps=self.eps,
            activation=activation, negative_slope=param,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(BatchNorm):
    """For (N, C) or (N, C, L)."""

    ndims = (2, 3)


class BatchNorm2d(BatchNorm):
    """For (N, C, H, W)."""

    ndims = (4,)


class LayerNorm(Module):
    """Normalise over the last axes (Ba et al. 2016); see `F.layer_norm`."""

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
    ):
        super().__init__()
        shape = normalized_shape
        self.normalized_shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        ones = np.ones(self.normalized_shape, np.float32)
        self.register_parameter("weight", Parameter(ones.copy()) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(0 * ones) if elementwise_affine else None)

    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"
