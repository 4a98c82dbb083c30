"""Normal with a diagonal covariance, and Bernoulli and Categorical from logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import functional as F
from .. import random
from ..device import device_of
from ..random import Generator
from ..tensor import Tensor

__all__ = ["Bernoulli", "Categorical", "Normal", "binarize", "per_example"]

_LOG_2PI = math.log(2 * math.pi)


def _is_zero(parameter: Any) -> bool:
    return isinstance(parameter, float) and parameter == 0


class Normal:
    """N(mean, exp(log_std)²) in each element, independent of the others; by default N(0, 1)."""

    def __init__(self, mean: Any = 0.0, log_std: Any = 0.0):
        self.mean, self.log_std = mean, log_std
        self.shape = common_shape("Normal", mean=mean, log_std=log_std)

    def log_prob(self, x):
        """-½ ((x - mean) / std)² - log std - ½ log 2π."""
        # N(0, 1) takes no operations for its zeros: on small arrays they are what time goes into.
        centred = x if _is_zero(self.mean) else x - self.mean
        standard = centred if _is_zero(self.log_std) else centred * F.exp(-self.log_std)
        return standard * standard * -0.5 - (self.log_std + 0.5 * _LOG_2PI)

    def sample(self, shape: tuple[int, ...] = (), *, generator: Generator | None = None) -> Tensor:
        """mean + std · ε with ε ~ N(0, 1), on the parameters' device: gradients flow to both.

        `shape` puts axes in front: `sample((k,))` makes k draws of each element.
        """
        draw = (generator or random.default_generator()).normal
        like = self.mean if hasattr(self.mean, "shape") else self.log_std
        noise = draw((*shape, *self.shape), dtype=dtype_of(like), device=device(like))
        return self.mean + F.exp(self.log_std) * Tensor(noise)

    def entropy(self):
        """log std + ½ log 2πe."""
        return self.log_std + 0.5 * (1 + _LOG_2PI)


class Bernoulli:
    """1 with probability σ(logits), else 0."""

    def __init__(self, logits: Any):
        self.logits = logits
        self.shape = common_shape("Bernoulli", logits=logits)

    @property
    def mean(self):
        """σ(logits), the probability of 1."""
        return F.sigmoid(self.logits)

    def log_prob(self, x):
        """x ℓ - log(1 + exp ℓ) for logits ℓ and x in {0, 1}; never infinite for finite logits.

        For grey values x in (0, 1) this is a cross entropy, not the probability of anything.
        """
        shape = np.broadcast_shapes(self.shape, x.shape)
        logits, x = F.expand(self.logits, shape), F.expand(x, shape)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")

    def sample(self, shape: tuple[int, ...] = (), *, generator: Generator | None = None) -> Tensor:
        """Zeros and ones of the logits' dtype, without a gradient; `shape` as in Normal."""
        p, draw = F.sigmoid(array_of(self.logits)), (generator or random.default_generator())
        return Tensor(draw.bernoulli((*shape, *self.shape), p, p.dtype, device=device(p)))

    def entropy(self):
        """log(1 + exp ℓ) - σ(ℓ) ℓ."""
        # By symmetry of -|ℓ|: there the two terms don't cancel.
        size = -F.abs(self.logits)
        return F.softplus(size) - F.sigmoid(size) * size


class Categorical:
    """One of K classes with probabilities softmax(logits) along the last axis, (..., K)."""

    def __init__(self, logits: Any):
        self.logits = logits
        self.shape = common_shape("Categorical", logits=logits)[:-1]

    def log_prob(self, classes):
        """log softmax(logits)[class] for integers (...) in [0, K)."""
        if tuple(classes.shape) != self.shape:
            raise ValueError(
                f"Categorical.log_prob: logits (..., K) of shape {tuple(self.logits.shape)} need "
                f"classes of shape {self.shape}, got {tuple(classes.shape)}"
            )
        rows = F.reshape(self.logits, math.prod(self.shape), self.logits.shape[-1])
        losses = F.cross_entropy(rows, F.reshape(classes, -1), reduction="none")
        return F.reshape(-losses, self.shape)

    def sample(self, shape: tuple[int, ...] = (), *, generator: Generator | None = None) -> Tensor:
        """Classes (*shape, ...), int64: the first whose cumulative probability exceeds a uniform
        number."""
        p, draw = F.softmax(array_of(self.logits)), (generator or random.default_generator())
        cumulative = F.cumsum(p, -1)
        size = (*shape, *self.shape, 1)
        # Of the sum as it was rounded; and the last class takes whatever reaches it.
        u = draw.uniform(size, dtype=p.dtype, device=device(p)) * cumulative[..., -1:]
        passed = (cumulative[..., :-1] <= u).astype(np.int64)
        return Tensor(F.sum(passed, -1))

    def entropy(self):
        """-Σ p log p, (...)."""
        log_p = F.log_softmax(self.logits)
        p = F.exp(log_p)
        # A class of probability 0 has log p = -inf, and adds nothing.
        return -F.sum(p * F.where(array_of(p) > 0, log_p, 0.0), -1)


def binarize(pixels: Any, *, generator: Generator | None = None) -> Tensor:
    """A draw of 1 with probability `pixel` for each pixel in [0, 1], else 0.

    Anew for every batch: dynamic binarisation (Salakhutdinov & Murray 2008). Once: a static one.
    """
    return Tensor(
        (generator or random.default_generator()).bernoulli(
            pixels.shape, array_of(pixels), pixels.dtype, device=device(pixels)
        )
    )


def per_example(values):
    """The sum over all axes but the first: (N, ...) -> (N,)."""
    return F.sum(values, tuple(range(1, values.ndim)))


# ------------------------------------------------------------------- what the families share


def array_of(x):
    """The array of a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def device(x) -> str:
    """Where a parameter lies."""
    return device_of(array_of(x))


def dtype_of(x) -> np.dtype:
    """Of an array or Tensor; float32 for a number."""
    return getattr(x, "dtype", np.dtype(np.float32))


def common_shape(name: str, **parameters) -> tuple[int, ...]:
    """The shape to which parameters (arrays, Tensors, numbers) broadcast."""
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in parameters.items()}
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ValueError(f"{name}: the shapes of {given} do not broadcast") from None
