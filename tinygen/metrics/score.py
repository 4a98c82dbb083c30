"""Inception-style score: are single samples clear, and all of them together diverse?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Score", "inception_style_score"]


class Score(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_style_score(probs: Any, *, splits: int = 10, seed: int = 0) -> Score:
    """exp E_x KL(p(y|x) ‖ p(y)), between 1 and the number of classes K; probs is (N, K).

    Salimans et al. 2016 (arXiv 1606.03498) take the Inception network's classes; here a classifier
    of the data at hand. p(y) is the mean over a split. Samples are shuffled (with `seed`) before
    they are split: sorted by class, each split would hold few classes and score too low.

    >>> import numpy as np
    >>> inception_style_score(np.tile(np.eye(4), (25, 1)), splits=1).mean
    4.0
    """
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or not 1 <= splits <= len(probs):
        raise ValueError(
            f"inception_style_score: expected (N, K) with N >= {splits} splits, got {probs.shape}"
        )
    if not (np.all(probs >= 0) and np.allclose(probs.sum(axis=1), 1, atol=1e-3)):
        raise ValueError(
            "inception_style_score: rows must be probabilities that sum to 1 (softmax of logits)"
        )
    order = np.random.default_rng(seed).permutation(len(probs))
    scores = [_score(part) for part in np.array_split(probs[order], splits)]
    return Score(float(np.mean(scores)), float(np.std(scores)))


def _score(p: np.ndarray) -> float:
    marginal = p.mean(axis=0)
    # 0 log 0 = 0: where p is 0 the logarithm is taken of 1 instead.
    log_ratio = np.log(np.where(p > 0, p, 1)) - np.log(np.where(marginal > 0, marginal, 1))
    return np.exp(np.sum(p * log_ratio, axis=1).mean())
