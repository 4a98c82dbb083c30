"""Log-probabilities and samples of models with latents, each one formula forward and backward."""

from __future__ import annotations

import numpy as np

__all__ = [
    "bernoulli_log_likelihood",
    "bernoulli_log_likelihood_grad",
    "discretized_logistic",
    "discretized_logistic_grad",
    "reparameterize",
    "reparameterize_grad",
]

_TINY = 1e-30
"""A bin of this width or less in units of the scale, subnormal numbers among them, has the
probability density · width to the last bit."""


def reparameterize(
    mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """z = μ + σ ε, and KL(N(μ, σ²) ‖ N(0, 1)) of each row: (N, D) each -> (N, D), (N,).

    KL = Σ ½ (μ² + σ² - 1) - log σ, with σ = exp(log_std). By expm1: σ² - 1 and 2 log σ nearly
    cancel where the posterior is close to the prior.
    """
    kl = 0.5 * (mean * mean + np.expm1(2 * log_std)) - log_std
    return mean + np.exp(log_std) * noise, kl.sum(axis=1, dtype=np.float64).astype(mean.dtype)


def reparameterize_grad(
    grad: np.ndarray, grad_kl: np.ndarray, mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients for mean and log_std: g + g_kl μ and g σ ε + g_kl (σ² - 1)."""
    grad_kl = grad_kl[:, None]
    grad_log_std = grad * np.exp(log_std) * noise + grad_kl * np.expm1(2 * log_std)
    return grad + grad_kl * mean, grad_log_std


def bernoulli_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Σ_d x_d ℓ_d - log(1 + exp ℓ_d) for each row of logits: (R, D), (N, D) -> (R,).

    R is a multiple of N: row r belongs to target r mod N, so that many samples of a model share
    one copy of the data. Computed as -Σ w |ℓ| + log(1 + exp(-|ℓ|)), where w is the target's part
    on the other side than ℓ: no term cancels another.
    """
    size = np.abs(logits)
    terms = _wrong(logits, _repeated(targets, logits)) * size + np.log1p(np.exp(-size))
    return -terms.sum(axis=1, dtype=np.float64).astype(logits.dtype)


def bernoulli_log_likelihood_grad(
    grad: np.ndarray, logits: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """g_r (x_d - σ(ℓ_d)) for the logits, from the gradient (R,) of the sums."""
    e = np.exp(-np.abs(logits))
    difference = e / (1 + e) - _wrong(logits, _repeated(targets, logits))
    return grad[:, None] * np.where(logits > 0, difference, -difference)


def discretized_logistic(
    x: np.ndarray, mean: np.ndarray, log_scale: np.ndarray, *, half: float, low: float, high: float
) -> np.ndarray:
    """log(σ(a) - σ(b)), a and b = (x ± half - mean) / exp(log_scale): arrays of one shape.

    The bin of the level `low` begins at -∞ (b = -∞), that of `high` ends at +∞ (a = ∞). By

        σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(-(a - b)))

    the logarithm is a sum of negative terms: no difference of nearly equal numbers is taken, and
    a far tail needs no case of its own. Where exp(-log_scale) is too small for a number, the
    limit is finite: log(2 half) - log_scale - log 4.
    """
    upper, lower, width = _edges(x, mean, log_scale, half)
    inner, lowest, highest = _bins(x, half, low, high)
    log_width = np.where(inner, _log_width(width, log_scale, half), 0)
    below_top = np.where(highest, 0, _softplus(-upper))
    above_bottom = np.where(lowest, 0, _softplus(lower))
    return (log_width - below_top - above_bottom).astype(x.dtype)


def discretized_logistic_grad(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    log_scale: np.ndarray,
    *,
    half: float,
    low: float,
    high: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients for mean and log_scale; that for x is the negative of the mean's.

    ∂/∂a = σ(-a), ∂/∂b = -σ(b) and d / (exp(d) - 1) for the width d = a - b; ∂a/∂mean = -1/s and
    ∂a/∂log s = -a, as for b, and ∂d/∂log s = -d.
    """
    upper, lower, width = _edges(x, mean, log_scale, half)
    inner, lowest, highest = _bins(x, half, low, high)
    of_upper = np.where(highest, 0, _sigmoid(-upper))
    of_lower = np.where(lowest, 0, -_sigmoid(lower))
    with np.errstate(over="ignore", invalid="ignore"):
        of_width = np.where(width < _TINY, 1, width / np.expm1(width))
    grad_mean = -grad * (of_upper + of_lower) * np.exp(-log_scale)
    grad_log_scale = -grad * (of_upper * upper + of_lower * lower + inner * of_width)
    return grad_mean.astype(x.dtype), grad_log_scale.astype(x.dtype)


def _repeated(targets, logits):
    return np.tile(targets, (len(logits) // max(len(targets), 1), 1))


def _wrong(logits, targets):
    return np.where(logits > 0, 1 - targets, targets)


def _edges(x, mean, log_scale, half):
    """The upper and the lower edge of each bin, and its width, in units of the scale."""
    inverse = np.exp(-log_scale)
    return (x - mean + half) * inverse, (x - mean - half) * inverse, 2 * half * inverse


def _log_width(width, log_scale, half):
    """log(1 - exp(-d)) of the width d; of a small one as log d + log((1 - exp(-d)) / d)."""
    probability = -np.expm1(-width)
    with np.errstate(divide="ignore", invalid="ignore"):
        shrunk = np.where(width < _TINY, 1, probability / width)
        narrow = np.log(2 * half) - log_scale + np.log(shrunk)
        return np.where(width < 1, narrow, np.log(probability))


def _bins(x, half, low, high):
    lowest, highest = x < low + half, x > high - half
    return ~(lowest | highest), lowest, highest


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1, e) / (1 + e)
