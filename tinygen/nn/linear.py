"""Affine layers, tables, and layers that only reshape or drop."""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F
from . import init
from .module import Module, Parameter

__all__ = ["Dropout", "Embedding", "Flatten", "Linear", "Unflatten"]


class Linear(Module):
    """y = x Wᵀ + b; weight (out_features, in_features), bias (out_features,).

    Both start uniform in ±1/√in_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(np.empty((out_features, in_features), np.float32))
        self.register_parameter(
            "bias", Parameter(np.empty(out_features, np.float32)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values."""
        bound = 1 / math.sqrt(max(self.in_features, 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def effective_weight(self):
        """The weight that inputs are multiplied by; overridden where it is not the parameter."""
        return self.weight

    def forward(self, input, *, activation: str | None = None, param: float = 0.0):
        weight = self.effective_weight()
        return F.linear(input, weight, self.bias, activation=activation, param=param)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Vectors looked up by integers; weight (num_embeddings, embedding_dim) starts as N(0, 1)."""

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), np.float32))
        init.normal_(self.weight)

    def forward(self, input):
        return F.embedding(input, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Dropout(Module):
    """Zero elements with probability p while training; see `F.dropout`. `inplace` is accepted for
    PyTorch's sake and has no effect."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        self.p = p

    def forward(self, input):
        return F.dropout(input, self.p, training=self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """Several axes as one (`dim`, PyTorch's word); by default all but the batch's."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input):
        return F.flatten(input, self.start_dim, self.end_dim)


class Unflatten(Module):
    """One axis as several, the opposite of Flatten."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]):
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input):
        axis = self.dim % input.ndim
        shape = input.shape
        return F.reshape(input, *shape[:axis], *self.unflattened_size, *shape[axis + 1 :])
