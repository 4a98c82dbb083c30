"""MADE: dense networks whose i-th output sees only the inputs before the i-th."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .. import functional as F
from ..autograd import no_grad
from ..tensor import Tensor
from .activation import ELU
from .containers import Sequential
from .linear import Linear
from .module import Module, Parameter

__all__ = ["MADE", "MaskedLinear"]


class MaskedLinear(Linear):
    """y = x (W ⊙ M)ᵀ + b, where M keeps the weights from low degrees to high ones.

    `in_degrees` and `out_degrees` are integers, one for each feature: M is 1 from a feature of
    degree d to one of degree e if d <= e, with `strict` if d < e. The others' weights are 0 and
    stay 0, so that `utils.weight_norm` normalises by the length of what is left.
    """

    def __init__(
        self,
        in_degrees: Sequence[int],
        out_degrees: Sequence[int],
        *,
        strict: bool = False,
        bias: bool = True,
    ):
        low, high = np.asarray(in_degrees)[None, :], np.asarray(out_degrees)[:, None]
        mask = (low < high) if strict else (low <= high)
        super().__init__(low.size, high.size, bias)
        self.register_buffer("mask", Tensor(mask.astype(np.float32)))
        with no_grad():
            self.weight.mul_(self.mask)

    def effective_weight(self) -> Tensor:
        """W ⊙ M. A weight that is no parameter was computed, by `utils.weight_norm`, from one that
        the mask was applied to."""
        weight = self.weight
        return weight * self.mask if isinstance(weight, Parameter) else weight


class MADE(Module):
    """A masked autoregressive network (Germain et al. 2015, arXiv 1502.03509), with context.

    (N, features) and a context (N, context_features) -> (N, outputs · features): `outputs` numbers
    for each feature, all the first ones, then all the second ones. Those of feature i depend on
    the features before i (with `reverse` on those after it) and on the whole context.

    The context enters as inputs of degree 0, beside features of degrees 1 to D; hidden units take
    the degrees 0 to D - 1 in turn, so that the first feature's outputs see the context as well.

    >>> import tinygen as tg
    >>> net = MADE(3, [16, 16], context_features=2)
    >>> net(tg.zeros(5, 3), tg.zeros(5, 2)).shape
    (5, 6)
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        *,
        context_features: int = 0,
        outputs: int = 2,
        reverse: bool = False,
    ):
        super().__init__()
        if min(features, outputs, *hidden) < 1 or context_features < 0:
            raise ValueError(
                f"MADE: features={features}, hidden={list(hidden)}, outputs={outputs} and "
                f"context_features={context_features}: sizes must be above 0 (a context may be 0)"
            )
        self.features, self.context_features = features, context_features
        order = np.arange(1, features + 1)
        own = order[::-1] if reverse else order
        # Without a context a unit of degree 0 would be a constant.
        lowest = 0 if context_features else min(1, features - 1)
        degrees = [np.concatenate([own, np.zeros(context_features, int)])]
        degrees += [lowest + np.arange(n) % max(features - lowest, 1) for n in hidden]
        layers = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear(before, after), ELU()]
        self.net = Sequential(
            *layers, MaskedLinear(degrees[-1], np.tile(own, outputs), strict=True)
        )

    def forward(self, input, context=None):
        widths = input.shape[-1], 0 if context is None else context.shape[-1]
        if widths != (self.features, self.context_features):
            raise ValueError(
                f"MADE: expected {self.features} features and a context of "
                f"{self.context_features}, got {widths[0]} and {widths[1]}"
            )
        return self.net(input if context is None else F.cat([input, context], -1))
