"""Probability distributions over arrays, and what models with latents are trained and judged by.

Parameters are Tensors or arrays that broadcast; everything is in nats and element by element:
`log_prob` of images (N, C, H, W) has that shape, and `per_example` adds up all axes but the first.
(Adding up the pixels but averaging over the latents, or the reverse, is the classic mistake.)
A spread is always `log_std` or `log_scale`, never a variance.

>>> import tinygen
>>> from tinygen.distributions import Normal, kl_divergence, per_example
>>> q = Normal(tinygen.zeros(3, 20), tinygen.zeros(3, 20) - 1.0)
>>> z = q.sample()
>>> per_example(kl_divergence(q, Normal())).shape
(3,)
"""

from .basic import Bernoulli, Categorical, Normal, binarize, per_example
from .bounds import LogMeanExp, bits_per_dim, iwae_bound, log_mean_exp
from .kl import kl_by_sample, kl_divergence
from .logistic import DiscretizedLogistic, LogisticMixture

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogistic",
    "LogMeanExp",
    "LogisticMixture",
    "Normal",
    "binarize",
    "bits_per_dim",
    "iwae_bound",
    "kl_by_sample",
    "kl_divergence",
    "log_mean_exp",
    "per_example",
]
