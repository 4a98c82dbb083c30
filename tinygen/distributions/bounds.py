"""Bounds on log p(x) by importance weights w = p(x, z) / q(z|x), z ~ q(z|x), and units.

    L_k = E[log 1/k Σ w_i],    ELBO = L_1 <= L_k <= L_(k+1) <= log p(x)

(Burda, Grosse & Salakhutdinov 2015, arXiv 1509.00519). An estimate of log p(x) by k samples is
one of L_k: say the k with the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from .. import functional as F
from ..device import move
from .basic import array_of

__all__ = ["LogMeanExp", "bits_per_dim", "iwae_bound", "log_mean_exp"]


def iwae_bound(log_w):
    """log 1/k Σ_i exp(log w_i) over the first axis: (k, ...) -> (...), unbiased for L_k.

    The gradient weighs that of each log w_i with softmax(log w)_i. The weights must be sampled
    ones, log p(x|z) + log p(z) - log q(z|x): a KL in closed form is right for k = 1 only.
    """
    if log_w.ndim < 1 or log_w.shape[0] < 1:
        raise ValueError(
            f"iwae_bound: log weights of shape {tuple(log_w.shape)}; expected (k, ...) with k >= 1"
        )
    return F.logsumexp(log_w, 0) - math.log(log_w.shape[0])


class LogMeanExp:
    """log 1/k Σ exp over samples that come in parts, each (m, N): no more than one is in memory.

    Keeps, per column, the largest value so far and the sum of the others relative to it, in
    float64 on the CPU.

    >>> running = LogMeanExp()
    >>> running.add(np.array([[-1000.0], [-1001.0]]))
    >>> running.add(np.array([[-1002.0]]))
    >>> running.value().round(4)
    array([-1000.691])
    """

    def __init__(self) -> None:
        self.count = 0
        self._largest = np.array(-np.inf)
        self._sum = np.array(0.0)

    def add(self, log_values) -> None:
        """Take in m more values for each column."""
        part = np.asarray(move(array_of(log_values), "cpu"), np.float64)
        largest = np.maximum(self._largest, part.max(axis=0, initial=-np.inf))
        shift = np.where(np.isinf(largest), 0.0, largest)
        rescaled = self._sum * np.exp(np.minimum(self._largest - shift, 0.0))
        self._sum = rescaled + np.exp(part - shift).sum(axis=0)
        self._largest = largest
        self.count += len(part)

    def value(self) -> np.ndarray:
        """log of the mean so far, (N,) float64."""
        if self.count == 0:
            raise ValueError("LogMeanExp: no values were added, and nothing has no mean")
        shift = np.where(np.isinf(self._largest), 0.0, self._largest)
        with np.errstate(divide="ignore"):
            return shift + np.log(self._sum) - math.log(self.count)


def log_mean_exp(parts: Iterable) -> np.ndarray:
    """The value of a LogMeanExp after all parts (m, N)."""
    running = LogMeanExp()
    for part in parts:
        running.add(part)
    return running.value()


def bits_per_dim(nats, dims: int):
    """nats / (dims · log 2): from a loss per image of `dims` = C·H·W values to bits per value."""
    if dims < 1:
        raise ValueError(f"bits_per_dim: dims={dims} must be at least 1")
    return nats / (dims * math.log(2))
