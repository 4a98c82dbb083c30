"""Log-probabilities and samples of models with latents: one pass over memory each.

Rows (or elements) are independent, so tasks of about CHUNK values share them out without races,
and where one task ends changes no result.
"""

from __future__ import annotations

import math

import numpy as np

from ..layout import dense, dense_like, flat
from .jit import CHUNK, kernel, prange, serial_kernel
from .math import exp, expm1, log1p, sigmoid

__all__ = [
    "bernoulli_log_likelihood",
    "bernoulli_log_likelihood_grad",
    "discretized_logistic",
    "discretized_logistic_grad",
    "reparameterize",
    "reparameterize_grad",
]


def reparameterize(
    mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(μ + σ ε, KL of each row), see `reference.density.reparameterize`."""
    mean, log_std, noise = map(np.ascontiguousarray, (mean, log_std, noise))
    z, kl = np.empty_like(mean), np.empty(len(mean), mean.dtype)
    _run(_reparameterize_rows, _reparameterize_blocks, mean, mean, log_std, noise, z, kl)
    return z, kl


def reparameterize_grad(
    grad: np.ndarray, grad_kl: np.ndarray, mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients for mean and log_std."""
    arrays = [np.ascontiguousarray(a) for a in (grad, grad_kl, mean, log_std, noise)]
    grad_mean, grad_log_std = np.empty_like(arrays[2]), np.empty_like(arrays[2])
    rows, blocks = _reparameterize_grad_rows, _reparameterize_grad_blocks
    _run(rows, blocks, grad_mean, *arrays, grad_mean, grad_log_std)
    return grad_mean, grad_log_std


def bernoulli_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Σ x ℓ - log(1 + exp ℓ) of each row, see `reference.density.bernoulli_log_likelihood`."""
    logits, targets = map(np.ascontiguousarray, (logits, targets))
    out = np.empty(len(logits), logits.dtype)
    _run(_bernoulli_rows, _bernoulli_blocks, logits, logits, targets, out)
    return out


def bernoulli_log_likelihood_grad(
    grad: np.ndarray, logits: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Gradient for the logits, from the gradient (R,) of the sums."""
    grad, logits, targets = map(np.ascontiguousarray, (grad, logits, targets))
    out = np.empty_like(logits)
    _run(_bernoulli_grad_rows, _bernoulli_grad_blocks, logits, grad, logits, targets, out)
    return out


def discretized_logistic(
    x: np.ndarray, mean: np.ndarray, log_scale: np.ndarray, *, half: float, low: float, high: float
) -> np.ndarray:
    """log P of each bin, see `reference.density.discretized_logistic`."""
    mean = dense(mean)
    out = np.empty_like(mean)
    arrays = [flat(dense_like(a, mean)) for a in (x, mean, log_scale)]
    edges = _edges(mean.dtype, half, low, high)
    _run(_logistic_elements, _logistic_blocks, arrays[0], *arrays, *edges, flat(out))
    return out


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
    """Gradients for mean and log_scale."""
    mean = dense(mean)
    outs = np.empty_like(mean), np.empty_like(mean)
    arrays = [flat(dense_like(a, mean)) for a in (grad, x, mean, log_scale)]
    edges = _edges(mean.dtype, half, low, high)
    rows, blocks = _logistic_grad_elements, _logistic_grad_blocks
    _run(rows, blocks, arrays[0], *arrays, *edges, *map(flat, outs))
    return outs


def _edges(dtype, half: float, low: float, high: float) -> tuple:
    """Half a bin, and where the outer bins end, in the kernel's precision."""
    return dtype.type(half), dtype.type(low + half), dtype.type(high - half)


def _run(rows, blocks, x: np.ndarray, *arguments) -> None:
    """Call a kernel for the rows of x (numbers, if it is 1-D), on all threads if it is large."""
    if x.size > CHUNK:
        blocks(max(1, CHUNK * len(x) // x.size), len(x), *arguments)
    else:
        rows(0, len(x), *arguments)


@serial_kernel
def _reparameterize_rows(first, last, mean, log_std, noise, z, kl):
    half, two = mean.dtype.type(0.5), mean.dtype.type(2)
    for n in range(first, last):
        total = mean.dtype.type(0)
        for j in range(mean.shape[1]):
            m, s = mean[n, j], log_std[n, j]
            z[n, j] = m + exp(s) * noise[n, j]
            total += half * (m * m + expm1(two * s)) - s
        kl[n] = total


@kernel
def _reparameterize_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _reparameterize_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _reparameterize_grad_rows(
    first, last, grad, grad_kl, mean, log_std, noise, grad_mean, grad_log_std
):
    two = mean.dtype.type(2)
    for n in range(first, last):
        g_kl = grad_kl[n]
        for j in range(mean.shape[1]):
            g, s = grad[n, j], log_std[n, j]
            grad_mean[n, j] = g + g_kl * mean[n, j]
            grad_log_std[n, j] = g * exp(s) * noise[n, j] + g_kl * expm1(two * s)


@kernel
def _reparameterize_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _reparameterize_grad_rows(block * rows, min(block * rows + rows, total), *arguments)


_PART = 1024  # values that are summed up in the arrays' precision; the parts' sums are float64


@serial_kernel
def _bernoulli_part(logits, targets):
    one, total = logits.dtype.type(1), logits.dtype.type(0)
    for j in range(len(logits)):
        x = logits[j]
        wrong = one - targets[j] if x > 0 else targets[j]
        total += wrong * abs(x) + log1p(exp(-abs(x)))
    return total


@serial_kernel
def _bernoulli_rows(first, last, logits, targets, out):
    size = logits.shape[1]
    for r in range(first, last):
        of_row = targets[r % len(targets)]
        total = 0.0
        for start in range(0, size, _PART):
            end = min(start + _PART, size)
            total += _bernoulli_part(logits[r, start:end], of_row[start:end])
        out[r] = -total


@kernel
def _bernoulli_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _bernoulli_rows(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _bernoulli_grad_rows(first, last, grad, logits, targets, out):
    one = logits.dtype.type(1)
    for r in range(first, last):
        g = grad[r]
        of_row = targets[r % len(targets)]
        for j in range(logits.shape[1]):
            x = logits[r, j]
            e = exp(-abs(x))
            wrong = one - of_row[j] if x > 0 else of_row[j]
            difference = e / (one + e) - wrong
            out[r, j] = g * (difference if x > 0 else -difference)


@kernel
def _bernoulli_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _bernoulli_grad_rows(block * rows, min(block * rows + rows, total), *arguments)


_TINY = 1e-30
"""A bin of this width or less in units of the scale, subnormal numbers among them, has the
probability density · width to the last bit."""


@serial_kernel
def _logistic_elements(first, last, x, mean, log_scale, half, lowest, highest, out):
    inverse, ratio = np.empty(_PART, x.dtype), np.empty(_PART, x.dtype)
    for start in range(first, last, _PART):
        part = slice(start, min(start + _PART, last))
        _logistic_part(
            x[part], mean[part], log_scale[part], half, lowest, highest, inverse, ratio, out[part]
        )  # fmt: skip


@serial_kernel
def _logistic_part(x, mean, log_scale, half, lowest, highest, inverse, ratio, out):
    """Several loops, since one long chain of operations would keep a CPU waiting for each link."""
    zero, one, two = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2)
    tiny = x.dtype.type(_TINY)
    log_width = x.dtype.type(math.log(two * half))
    n = len(x)
    for i in range(n):
        inverse[i] = exp(-log_scale[i])
    for i in range(n):
        is_lowest, is_highest = x[i] < lowest, x[i] > highest
        upper, lower = (x[i] - mean[i] + half) * inverse[i], (x[i] - mean[i] - half) * inverse[i]
        e_upper = zero if is_highest else exp(-abs(upper))
        e_lower = zero if is_lowest else exp(-abs(lower))
        upper = zero if is_highest else upper
        lower = zero if is_lowest else lower
        # log σ(a) + log σ(-b), by (1 + e_a) (1 + e_b): one logarithm for the two, and for d.
        ratio[i] = e_upper + e_lower + e_upper * e_lower
        out[i] = (upper if upper < zero else zero) - (lower if lower > zero else zero)
    for i in range(n):
        # log(1 - exp(-d)): for small d, log d + log((1 - exp(-d)) / d), and log d is known.
        d = two * half * inverse[i]
        minus = expm1(-d)
        narrow, outer = d < one, (x[i] < lowest) | (x[i] > highest)
        shrunk = -(minus + d) / d if d > tiny else zero
        inner = shrunk if narrow else -(minus + one)
        inner = zero if outer else inner
        known = log_width - log_scale[i] if narrow else zero
        out[i] += zero if outer else known
        # Of 1 + a small number, which is kept to its last bit.
        ratio[i] = (inner - ratio[i]) / (one + ratio[i])
    for i in range(n):
        out[i] += log1p(ratio[i])


@kernel
def _logistic_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _logistic_elements(block * rows, min(block * rows + rows, total), *arguments)


@serial_kernel
def _logistic_grad_elements(
    first, last, grad, x, mean, log_scale, half, lowest, highest, grad_mean, grad_log_scale
):
    zero, one, two = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2)
    tiny = x.dtype.type(_TINY)
    grad, x = grad[first:last], x[first:last]
    mean, log_scale = mean[first:last], log_scale[first:last]
    grad_mean, grad_log_scale = grad_mean[first:last], grad_log_scale[first:last]
    for i in range(last - first):
        grad_mean[i] = exp(-log_scale[i])
    for i in range(last - first):
        inverse, centred = grad_mean[i], x[i] - mean[i]
        upper, lower = (centred + half) * inverse, (centred - half) * inverse
        is_lowest, is_highest = x[i] < lowest, x[i] > highest
        of_upper = zero if is_highest else sigmoid(-upper)
        of_lower = zero if is_lowest else -sigmoid(lower)
        width = two * half * inverse
        of_width = width / expm1(width) if width > tiny else one
        of_width = zero if is_lowest or is_highest else of_width
        grad_mean[i] = -grad[i] * (of_upper + of_lower) * inverse
        grad_log_scale[i] = -grad[i] * (of_upper * upper + of_lower * lower + of_width)


@kernel
def _logistic_grad_blocks(rows, total, *arguments):
    for block in prange(-(-total // rows)):
        _logistic_grad_elements(block * rows, min(block * rows + rows, total), *arguments)
