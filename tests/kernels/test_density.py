"""Kernels of the likelihood models: reference against SciPy, CPU against reference."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from tinygen_kernels.cpu import density as cpu
from tinygen_kernels.reference import density as reference

TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}
LEVELS = {"half": 1 / 255, "low": -1.0, "high": 1.0}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
modules = pytest.mark.parametrize("module", [cpu, reference])


def assert_close(got, expected, dtype, scale=1.0):
    assert got.dtype == dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, TOLERANCE[dtype], atol=scale * TOLERANCE[dtype])


def gaussians(rows, size, dtype, seed):
    """mean, log_std, noise, grad (rows, size), grad_kl (rows,)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rows, size)).astype(dtype) for _ in range(4)], rng.normal(
        size=rows
    ).astype(dtype)


def images(rows, repeats, size, dtype, seed):
    """logits (rows · repeats, size), some of them saturated; targets (rows, size); grad."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (rows * repeats, size)) * rng.choice([1, 30], (1, size))
    targets = rng.integers(0, 2, (rows, size))
    return [a.astype(dtype) for a in (logits, targets, rng.normal(size=rows * repeats))]


def pixels(shape, dtype, seed):
    """x on the 256 levels, both outer ones among them, mean, log_scale and grad."""
    rng = np.random.default_rng(seed)
    index = rng.choice([0, 255, *range(256)], shape)
    x = index / 127.5 - 1
    others = rng.normal(0, 1, shape), rng.uniform(-7, 2, shape), rng.normal(0, 1, shape)
    return [a.astype(dtype) for a in (x, *others)]


@dtypes
@settings(max_examples=10)
@given(rows=st.integers(0, 7), size=st.integers(0, 40), seed=st.integers(0, 99))
def test_reparameterize_on_the_cpu(dtype, rows, size, seed):
    (mean, log_std, noise, grad), grad_kl = gaussians(rows, size, dtype, seed)
    for got, expected in zip(
        [
            *cpu.reparameterize(mean, log_std, noise),
            *cpu.reparameterize_grad(grad, grad_kl, mean, log_std, noise),
        ],
        [
            *reference.reparameterize(mean, log_std, noise),
            *reference.reparameterize_grad(grad, grad_kl, mean, log_std, noise),
        ],
        strict=True,
    ):
        assert_close(got, expected, dtype, scale=20)


@modules
def test_kl_is_that_of_the_paper_and_exact_near_the_prior(module):
    (mean, log_std, noise, _), _ = gaussians(50, 20, np.float64, 1)
    z, kl = module.reparameterize(mean, log_std, noise)
    paper = -0.5 * (1 + 2 * log_std - mean**2 - np.exp(2 * log_std)).sum(axis=1)
    np.testing.assert_allclose(kl, paper)
    np.testing.assert_allclose((z - mean) / np.exp(log_std), noise)
    tiny = np.full((1, 4), 1e-4, np.float32)
    _, kl = module.reparameterize(0 * tiny, tiny, tiny)
    np.testing.assert_allclose(kl, 4e-8, rtol=1e-3)  # KL = s² + O(s³) per latent


@dtypes
@settings(max_examples=10)
@given(
    rows=st.integers(1, 5),
    repeats=st.integers(0, 4),
    size=st.sampled_from([0, 1, 7, 784, 1500]),
    seed=st.integers(0, 99),
)
def test_bernoulli_log_likelihood_on_the_cpu(dtype, rows, repeats, size, seed):
    logits, targets, grad = images(rows, repeats, size, dtype, seed)
    expected = reference.bernoulli_log_likelihood(logits, targets)
    assert_close(cpu.bernoulli_log_likelihood(logits, targets), expected, dtype, scale=size)
    expected = reference.bernoulli_log_likelihood_grad(grad, logits, targets)
    assert_close(cpu.bernoulli_log_likelihood_grad(grad, logits, targets), expected, dtype)


@modules
def test_bernoulli_log_likelihood_is_that_of_scipy(module):
    logits, targets, grad = images(3, 2, 30, np.float64, 5)
    p, x = special.expit(logits), np.concatenate([targets, targets])
    expected = np.where(x == 1, special.log_expit(logits), special.log_expit(-logits)).sum(axis=1)
    np.testing.assert_allclose(module.bernoulli_log_likelihood(logits, targets), expected)
    got = module.bernoulli_log_likelihood_grad(grad, logits, targets)
    np.testing.assert_allclose(got, grad[:, None] * (x - p), atol=1e-15)


@dtypes
@settings(max_examples=10)
@given(
    n=st.sampled_from([0, 1, 6, 1001, 20_000]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
def test_discretized_logistic_on_the_cpu(dtype, n, layout, seed):
    if n > 1001 and dtype == np.float64:
        n = 7  # the parallel driver takes seconds to compile, and is the same for both
    *arrays, grad = pixels((n, 2, 1, 3), dtype, seed)
    arrays[0] = in_layout(arrays[0], layout)
    expected = reference.discretized_logistic(*arrays, **LEVELS)
    assert_close(cpu.discretized_logistic(*arrays, **LEVELS), expected, dtype)
    got = cpu.discretized_logistic_grad(grad, *arrays, **LEVELS)
    expected = reference.discretized_logistic_grad(grad, *arrays, **LEVELS)
    for g, e in zip(got, expected, strict=True):
        # Where a - b is small, σ(-a) and σ(b) nearly cancel in the mean's gradient.
        assert_close(g, e, dtype, scale=np.exp(7))


@modules
def test_discretized_logistic_is_that_of_scipy(module):
    x, mean, _, _ = pixels(2000, np.float64, 3)
    log_scale = np.full_like(x, -1.0)
    q = stats.logistic(mean, np.exp(log_scale))
    upper = np.where(x > 1 - 1 / 255, np.inf, x + 1 / 255)
    lower = np.where(x < -1 + 1 / 255, -np.inf, x - 1 / 255)
    np.testing.assert_allclose(
        module.discretized_logistic(x, mean, log_scale, **LEVELS),
        np.log(q.cdf(upper) - q.cdf(lower)),
        rtol=1e-9,
    )


@modules
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about inf - inf
def test_nan_and_infinity_travel(module):
    bad = np.array([[np.nan, 0.0], [np.inf, 0.0], [1.0, 0.0]])
    z, kl = module.reparameterize(bad, np.full_like(bad, 0.5), np.ones_like(bad))
    np.testing.assert_array_equal(np.isfinite(z[:, 0]), [False, False, True])
    assert np.isnan(kl[0])
    assert kl[1] == np.inf
    likelihood = module.bernoulli_log_likelihood(bad, np.zeros((1, 2)))
    assert np.isnan(likelihood[0])
    assert np.isfinite(likelihood[2])
    log_p = module.discretized_logistic(0 * bad[2], bad[0], bad[2], **LEVELS)
    assert np.isnan(log_p[0])
    assert np.isfinite(log_p[1])


@dtypes
@modules
def test_a_very_wide_logistic_has_a_finite_density(module, dtype):
    """exp(-log_scale) is 0 there, but the logarithm of a bin's probability is not infinite."""
    log_scale = np.array([1, 15, 80, 95, 120, 800, 3000], dtype)
    x, mean, grad = np.zeros((3, *log_scale.shape), dtype)
    grad += 1
    log_p = module.discretized_logistic(x, mean, log_scale, **LEVELS)
    expected = np.log(2 / 255) - log_scale - np.log(4)
    np.testing.assert_allclose(log_p, expected, rtol=1e-6)
    grad_mean, grad_log_scale = module.discretized_logistic_grad(
        grad, x, mean, log_scale, **LEVELS
    )
    np.testing.assert_allclose(grad_log_scale, -1, rtol=1e-5)
    np.testing.assert_array_equal(grad_mean, 0)
    outer = [a.astype(dtype) for a in (x - 1, x + 1)]
    for at_the_end in outer:
        log_p = module.discretized_logistic(at_the_end, mean, log_scale, **LEVELS)
        np.testing.assert_allclose(log_p[2:], -np.log(2), rtol=1e-6)
