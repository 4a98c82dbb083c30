"""Log-probabilities and samples of the likelihood models, each one pass over memory."""

from __future__ import annotations

from .activation import softplus
from .elementwise import exp, expm1, log, where

__all__ = ["discretized_logistic_log_prob"]


def _discretized_logistic(x, mean, log_scale, levels: int, low: float, high: float):
    """With a and b the upper and the lower edge of the bin in units of s, and d = a - b,

    log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - exp(-d)):

    no difference of nearly equal numbers is taken, so far tails need no case of their own.
    """
    half = (high - low) / (levels - 1) / 2
    inverse_scale = exp(-log_scale)
    centred = x - mean
    below_top = -softplus((centred + half) * -inverse_scale)
    above_bottom = -softplus((centred - half) * inverse_scale)
    width = log(-expm1(inverse_scale * (-2 * half)))
    lowest, highest = x < low + half, x > high - half
    inner = below_top + above_bottom + width
    return where(lowest, below_top, where(highest, above_bottom, inner))


def discretized_logistic_log_prob(
    x, mean, log_scale, *, levels: int = 256, low: float = -1.0, high: float = 1.0
):
    """log P of the bin around each level x for a logistic distribution; the three broadcast."""
    return _discretized_logistic(x, mean, log_scale, levels, low, high)
