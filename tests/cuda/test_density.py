"""Densities on the GPU against the definition, and as differentiable functions."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import density as reference

from tinygen import Tensor
from tinygen import functional as F

TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}
LEVELS = {"half": 1 / 255, "low": -1.0, "high": 1.0}

dtypes = st.sampled_from(sorted(TOLERANCE, key=str))
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**20)
# A lane to a row up to a warp, with and without vectors; a block with one vector to a thread and
# with several.
columns = st.sampled_from([1, 2, 7, 8, 20, 31, 100, 127, 256, 260, 784, 2500])
plains = pytest.mark.parametrize("plain", [False, True])
few = settings(max_examples=10)
ignore_warnings = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about inf - inf


def compare(got, expected, dtype, scale=1.0):
    got = to_cpu(got)
    assert (got.shape, got.dtype) == (expected.shape, np.dtype(dtype))
    np.testing.assert_allclose(got, expected, TOLERANCE[dtype], atol=scale * TOLERANCE[dtype])


def normals(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


@plains
@few
@given(rows=st.sampled_from([0, 1, 5, 33]), size=columns, dtype=dtypes, layout=layouts, seed=seeds)
def test_reparameterize(cuda_kernels, plain, rows, size, dtype, layout, seed):
    cuda = cuda_kernels("density")
    rng = np.random.default_rng(seed)
    rows = min(rows, 3) if size > 256 else rows
    mean, log_std, noise, grad = (
        in_layout(normals(rng, dtype, rows, size), layout) for _ in range(4)
    )
    grad_kl = normals(rng, dtype, rows)
    on_gpu = [to_gpu(a) for a in (mean, log_std, noise)]
    expected = reference.reparameterize(mean, log_std, noise)
    for got, value in zip(cuda._reparameterize(*on_gpu, plain=plain), expected, strict=True):
        compare(got, value, dtype, scale=size)
    grads = to_gpu(grad), to_gpu(grad_kl)
    expected = reference.reparameterize_grad(grad, grad_kl, mean, log_std, noise)
    found = cuda._reparameterize_grad(*grads, *on_gpu, plain=plain)
    for got, value in zip(found, expected, strict=True):
        compare(got, value, dtype, scale=100)


@plains
@few
@given(
    targets=st.sampled_from([1, 3, 7]),
    repeats=st.sampled_from([0, 1, 2, 5]),
    size=columns,
    dtype=dtypes,
    layout=layouts,
    seed=seeds,
)
def test_bernoulli(cuda_kernels, plain, targets, repeats, size, dtype, layout, seed):
    cuda = cuda_kernels("density")
    rng = np.random.default_rng(seed)
    targets = min(targets, 2) if size > 256 else targets
    logits = normals(rng, dtype, targets * repeats, size) * rng.choice([1, 50]).astype(dtype)
    logits = in_layout(logits, layout)
    x = rng.integers(0, 2, (targets, size)).astype(dtype)
    grad = normals(rng, dtype, targets * repeats)
    on_gpu = to_gpu(logits), to_gpu(x)
    expected = reference.bernoulli_log_likelihood(logits, x)
    compare(cuda._bernoulli(*on_gpu, plain=plain), expected, dtype, scale=size)
    expected = reference.bernoulli_log_likelihood_grad(grad, logits, x)
    compare(cuda._bernoulli_grad(to_gpu(grad), *on_gpu, plain=plain), expected, dtype)


@plains
@few
@given(n=st.sampled_from([0, 1, 5, 1000, 1027]), dtype=dtypes, layout=layouts, seed=seeds)
def test_discretized_logistic(cuda_kernels, plain, n, dtype, layout, seed):
    cuda = cuda_kernels("density")
    rng = np.random.default_rng(seed)
    shape = n, 1, 3
    x = (rng.choice([0, 255, *range(256)], shape) / 127.5 - 1).astype(dtype)
    mean, grad = normals(rng, dtype, *shape), normals(rng, dtype, *shape)
    log_scale = rng.uniform(-7, 2, shape).astype(dtype)
    arrays = [in_layout(x, layout), mean, in_layout(log_scale, layout)]
    on_gpu = [to_gpu(a) for a in arrays]
    edges = LEVELS.values()
    expected = reference.discretized_logistic(*arrays, **LEVELS)
    compare(cuda._discretized_logistic(*on_gpu, *edges, plain=plain), expected, dtype)
    expected = reference.discretized_logistic_grad(grad, *arrays, **LEVELS)
    found = cuda._discretized_logistic_grad(to_gpu(grad), *on_gpu, *edges, plain=plain)
    for got, value in zip(found, expected, strict=True):
        # Where a - b is small, σ(-a) and σ(b) nearly cancel in the mean's gradient.
        compare(got, value, dtype, scale=np.exp(7))


@ignore_warnings
def test_nan_and_infinity_travel(cuda_kernels):
    cuda = cuda_kernels("density")
    bad = np.array([[np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [1.0, 0.0, 1.0]], np.float32)
    ones = np.ones_like(bad)
    for inputs in [(bad, ones, ones), (ones, bad, ones), (ones, ones, bad)]:
        expected = reference.reparameterize(*inputs)
        for got, value in zip(cuda.reparameterize(*map(to_gpu, inputs)), expected, strict=True):
            np.testing.assert_allclose(to_cpu(got), value, rtol=1e-5)
    for logits in (bad, -bad):
        got = cuda.bernoulli_log_likelihood(to_gpu(logits), to_gpu(ones[:1]))
        expected = reference.bernoulli_log_likelihood(logits, ones[:1])
        np.testing.assert_allclose(to_cpu(got), expected, rtol=1e-5)
    for inputs in [(0 * ones, bad, ones), (0 * ones, ones, -bad)]:
        got = cuda.discretized_logistic(*map(to_gpu, inputs), **LEVELS)
        expected = reference.discretized_logistic(*inputs, **LEVELS)
        np.testing.assert_allclose(to_cpu(got), expected, rtol=1e-5)


@plains
def test_a_very_wide_logistic_has_a_finite_density(cuda_kernels, plain):
    cuda = cuda_kernels("density")
    log_scale = np.array([1, 15, 80, 95, 120, 800], np.float32)
    x, mean = np.zeros((2, *log_scale.shape), np.float32)
    arrays = [to_gpu(a) for a in (x, mean, log_scale)]
    got = cuda._discretized_logistic(*arrays, *LEVELS.values(), plain=plain)
    np.testing.assert_allclose(to_cpu(got), np.log(0.5 / 255) - log_scale, rtol=1e-5)
    ones = to_gpu(np.ones_like(x))
    _, got = cuda._discretized_logistic_grad(ones, *arrays, *LEVELS.values(), plain=plain)
    np.testing.assert_allclose(to_cpu(got), -1, rtol=1e-5)


def test_the_functions_and_their_gradients(cuda_kernels):
    """Through the tape: values and gradients are those of the CPU, of one output alone too."""
    cuda_kernels("density")
    rng = np.random.default_rng(0)
    mean, log_std, noise, logits = (normals(rng, np.float64, 6, 20) for _ in range(4))
    x = rng.integers(0, 2, (3, 20)).astype(np.float64)
    levels = np.broadcast_to(np.linspace(-1, 1, 20), (6, 20)).copy()

    def values(device):
        leaves = [Tensor(a).to(device).detach().requires_grad_() for a in (mean, log_std, logits)]
        m, s, ell = leaves
        z, kl = F.reparameterize(m, s, Tensor(noise).to(device))
        total = z.sum() + 2 * kl.sum()
        total = total + F.bernoulli_log_likelihood(ell, Tensor(x).to(device)).sum()
        inputs = Tensor(levels).to(device), m, s[:1]
        total = total + F.discretized_logistic_log_prob(*inputs, levels=20).sum()
        total = total + F.reparameterize(m, s, Tensor(noise).to(device))[1].sum()
        total.backward()
        return [total, *(leaf.grad for leaf in leaves)]

    for here, there in zip(values("cpu"), values("cuda"), strict=True):
        np.testing.assert_allclose(there.detach().cpu().numpy(), here.detach().numpy(), rtol=1e-9)
