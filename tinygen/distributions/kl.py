"""Kullback-Leibler divergences KL(q ‖ p) = E_q[log q - log p], element by element."""

from __future__ import annotations

from .. import functional as F
from .basic import Bernoulli, Categorical, Normal, array_of

__all__ = ["kl_by_sample", "kl_divergence"]


def kl_divergence(q, p):
    """KL(q ‖ p) in closed form, for two of one family: Normal, Bernoulli or Categorical.

    Raises TypeError for any other pair: see `kl_by_sample`.
    """
    for family, formula in _FORMULAE.items():
        if isinstance(q, family) and isinstance(p, family):
            return formula(q, p)
    raise TypeError(
        f"kl_divergence: no closed form for {type(q).__name__} and {type(p).__name__}; "
        "average kl_by_sample(q, p, x) over samples x of q"
    )


def kl_by_sample(q, p, x):
    """log q(x) - log p(x): an unbiased estimate of KL(q ‖ p) where x is a sample of q."""
    return q.log_prob(x) - p.log_prob(x)


def _normals(q: Normal, p: Normal):
    """log(σ_p / σ_q) + (σ_q² + (μ_q - μ_p)²) / 2σ_p² - ½."""
    log_ratio = q.log_std - p.log_std
    distance = (q.mean - p.mean) * F.exp(-p.log_std)
    return (F.exp(log_ratio * 2) + distance * distance - 1) * 0.5 - log_ratio


def _bernoullis(q: Bernoulli, p: Bernoulli):
    """σ(ℓ_q) (ℓ_q - ℓ_p) + log(1 + exp ℓ_p) - log(1 + exp ℓ_q)."""
    return q.mean * (q.logits - p.logits) + F.softplus(p.logits) - F.softplus(q.logits)


def _categoricals(q: Categorical, p: Categorical):
    """Σ q log(q / p) over the classes."""
    log_q = F.log_softmax(q.logits)
    probability = F.exp(log_q)
    possible = array_of(probability) > 0
    log_ratio = F.where(possible, log_q - F.log_softmax(p.logits), 0.0)
    return F.sum(probability * log_ratio, -1)


_FORMULAE = {Normal: _normals, Bernoulli: _bernoullis, Categorical: _categoricals}
