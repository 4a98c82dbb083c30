"""Log-probabilities and samples of models with latents, each one pass over memory."""

from __future__ import annotations

import math

import numpy as np

from ..autograd import Op
from ..device import array_module, kernels
from .activation import softplus
from .checks import check_floats
from .elementwise import exp, expm1, log, where
from .reduce import sum
from .shape import expand, reshape

__all__ = ["bernoulli_log_likelihood", "discretized_logistic_log_prob", "reparameterize"]


class Reparameterize(Op):
    """μ + σ ε, and KL(N(μ, σ²) ‖ N(0, 1)) of each row; all (N, D)."""

    def forward(self, mean, log_std, noise):
        self.save(mean, log_std, noise)
        return kernels("density", mean).reparameterize(mean, log_std, noise)

    def backward(self, grad, grad_kl):
        mean, log_std, noise = self.saved
        zeros = array_module(mean).zeros
        grad = zeros(mean.shape, mean.dtype) if grad is None else grad
        grad_kl = zeros(len(mean), mean.dtype) if grad_kl is None else grad_kl
        kernel = kernels("density", mean)
        grads = kernel.reparameterize_grad(grad, grad_kl, mean, log_std, noise)
        return *grads, grad * exp(log_std) if self.needs_grad(2) else None

    def composite(self, mean, log_std, noise):
        kl = (mean * mean + expm1(log_std * 2)) * 0.5 - log_std
        return mean + exp(log_std) * noise, sum(kl, 1)


class BernoulliLogLikelihood(Op):
    """Σ x ℓ - log(1 + exp ℓ) of each row: logits (R, D), targets (N, D), row r of target r mod N.

    Targets are data: they get no gradient.
    """

    def forward(self, logits, targets):
        self.save(logits, targets)
        return kernels("density", logits).bernoulli_log_likelihood(logits, targets)

    def backward(self, grad):
        logits, targets = self.saved
        kernel = kernels("density", logits)
        return kernel.bernoulli_log_likelihood_grad(grad, logits, targets), None

    def composite(self, logits, targets):
        samples = reshape(logits, -1, *targets.shape)
        return reshape(sum(samples * targets - softplus(samples), 2), -1)


class DiscretizedLogistic(Op):
    """log(σ(a) - σ(b)) for the edges a and b of the bin around x; arrays of one shape."""

    def __init__(self, half: float, low: float, high: float):
        self.options = {"half": half, "low": low, "high": high}

    def forward(self, x, mean, log_scale):
        self.save(x, mean, log_scale)
        return kernels("density", x).discretized_logistic(x, mean, log_scale, **self.options)

    def backward(self, grad):
        x, mean, log_scale = self.saved
        kernel = kernels("density", x)
        grads = kernel.discretized_logistic_grad(grad, x, mean, log_scale, **self.options)
        return -grads[0] if self.needs_grad(0) else None, *grads

    def composite(self, x, mean, log_scale):
        half, low, high = (self.options[name] for name in ("half", "low", "high"))
        inverse_scale = exp(-log_scale)
        below_top = -softplus((x - mean + half) * -inverse_scale)
        above_bottom = -softplus((x - mean - half) * inverse_scale)
        width = log(-expm1(inverse_scale * (-2 * half)))
        inner = below_top + above_bottom + width
        return where(x < low + half, below_top, where(x > high - half, above_bottom, inner))


def reparameterize(mean, log_std, noise):
    """A sample of N(mean, exp(log_std)²) that gradients pass through, and its KL from N(0, 1).

    z = μ + σ ε, KL = Σ ½ (μ² + σ² - 1) - log σ: mean, log_std and noise ε ~ N(0, 1) (N, ...) of
    one shape and dtype -> z (N, ...) and kl (N,), in nats. (Kingma & Welling 2013, appendix B.)
    """
    if not mean.ndim or not mean.shape == log_std.shape == noise.shape:
        raise ValueError(
            f"reparameterize: mean {mean.shape}, log_std {log_std.shape} and noise {noise.shape} "
            "must have one shape (N, ...)"
        )
    check_floats("reparameterize", mean=mean, log_std=log_std, noise=noise)
    if mean.ndim == 2:
        return Reparameterize()(mean, log_std, noise)
    rows = mean.shape[0], math.prod(mean.shape[1:])
    z, kl = Reparameterize()(*(reshape(a, rows) for a in (mean, log_std, noise)))
    return reshape(z, mean.shape), kl


def bernoulli_log_likelihood(logits, targets):
    """Σ log p of targets in {0, 1} under independent Bernoulli logits: one number per image.

    Σ x ℓ - log(1 + exp ℓ) over all axes but the first, in nats: logits (R, ...) and targets
    (N, ...) -> (R,), where R is a multiple of N. Image r belongs to target r mod N: k samples of a
    model (k, N, ...), their first two axes as one, need no k copies of the data.
    """
    n, size = targets.shape[0] if targets.ndim else 0, math.prod(targets.shape[1:])
    fits = logits.ndim and logits.shape[1:] == targets.shape[1:]
    if not fits or n == 0 or logits.shape[0] % n:
        raise ValueError(
            f"bernoulli_log_likelihood: logits {logits.shape} must be (k · N, ...) for targets "
            f"(N, ...), here {targets.shape}"
        )
    check_floats("bernoulli_log_likelihood", logits=logits, targets=targets)
    rows = reshape(logits, logits.shape[0], size)
    return BernoulliLogLikelihood()(rows, reshape(targets, n, size))


def discretized_logistic_log_prob(
    x, mean, log_scale, *, levels: int = 256, low: float = -1.0, high: float = 1.0
):
    """log P of the bin around each level x under a logistic distribution; the three broadcast.

    P = σ((x + h - mean) / s) - σ((x - h - mean) / s), s = exp(log_scale), with h half the distance
    of two of the `levels` from `low` to `high`; the outer bins reach to infinity.
    """
    shape = np.broadcast_shapes(x.shape, mean.shape, log_scale.shape)
    check_floats("discretized_logistic_log_prob", x=x, mean=mean, log_scale=log_scale)
    half = (high - low) / (levels - 1) / 2
    x, mean, log_scale = (
        a if a.shape == shape else expand(a, shape) for a in (x, mean, log_scale)
    )
    return DiscretizedLogistic(half, low, high)(x, mean, log_scale)
