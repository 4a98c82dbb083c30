"""The softmax family on the GPU against the definition: every size class, layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import softmax as reference

INF, NAN = np.inf, np.nan
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}

dtypes = st.sampled_from(sorted(TOLERANCE, key=str))
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**20)
# One lane to a row up to a warp, with and without vectors; a block with one vector to a thread and
# with several. Rows of several warps and blocks.
shapes = st.one_of(
    st.tuples(st.sampled_from([0, 1, 5, 33, 70]), st.sampled_from([1, 2, 7, 8, 10, 16, 31])),
    st.tuples(st.sampled_from([1, 3, 9]), st.sampled_from([100, 127, 255, 256])),
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([257, 260, 509, 1024, 2500, 4001])),
)
plains = pytest.mark.parametrize("plain", [False, True])
few = settings(max_examples=15)
ignore_warnings = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about inf - inf

EXTREME = np.array(
    [
        [1e4, -1e4, 1e4 - 1, 0],
        [-1e4, -1e4, -1e4, -1e4],
        [-INF, 2, 3, -INF],
        [-INF, -INF, -INF, -INF],
        [INF, 1, 2, 3],
        [INF, -INF, INF, 0],
        [NAN, 1, INF, -INF],
        [120, 119.5, 0, -90],
    ]
)


def draw(shape, dtype, seed, scale=3.0):
    """Logits whose rows lie at very different levels, and gradients."""
    rng = np.random.default_rng(seed)
    offset = rng.choice([-1000, 0, 1000], size=(shape[0], 1))
    x = (scale * rng.normal(size=shape) + offset).astype(dtype)
    return x, rng.normal(size=shape).astype(dtype)


def draw_targets(rows, classes, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < 0.2, -100, rng.integers(0, classes, size=rows))


def assert_close(got, expected, tolerance):
    """Compared with the largest element too: sums of many terms of both signs cancel."""
    got = to_cpu(got)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    scale = max(1.0, np.nanmax(np.abs(expected[np.isfinite(expected)]), initial=0))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)


@plains
@few
@given(shape=shapes, dtype=dtypes, layout=layouts, seed=seeds, log_space=st.booleans())
def test_softmax(cuda_kernels, plain, shape, dtype, layout, seed, log_space):
    cuda = cuda_kernels("softmax")
    x, grad = draw(shape, dtype, seed)
    name = "log_softmax" if log_space else "softmax"
    output = getattr(reference, name)(x)
    options = {"log_space": log_space, "plain": plain}
    got = cuda._softmax(to_gpu(in_layout(x, layout)), **options)
    assert_close(got, output, 4 * TOLERANCE[dtype])
    got = cuda._softmax_grad(to_gpu(in_layout(grad, layout)), to_gpu(output), **options)
    expected = getattr(reference, f"{name}_grad")(grad, output)
    assert_close(got, expected, 16 * TOLERANCE[dtype])


@few
@given(shape=shapes, dtype=dtypes, layout=layouts, seed=seeds)
def test_logsumexp(cuda_kernels, shape, dtype, layout, seed):
    x, _ = draw(shape, dtype, seed)
    got = cuda_kernels("softmax").logsumexp(to_gpu(in_layout(x, layout)))
    assert_close(got, reference.logsumexp(x), TOLERANCE[dtype])


@plains
@few
@given(shape=shapes, dtype=dtypes, layout=layouts, seed=seeds, ignore=st.booleans())
def test_cross_entropy(cuda_kernels, plain, shape, dtype, layout, seed, ignore):
    cuda = cuda_kernels("softmax")
    logits, grad = draw(shape, dtype, seed)
    targets = draw_targets(*shape, seed)
    ignore_index = -100
    if ignore:
        targets = np.where(targets == -100, 0, targets).astype(np.int32)
        ignore_index = shape[1] // 2
    losses, lse = reference.cross_entropy(logits, targets, ignore_index=ignore_index)
    on_gpu = to_gpu(in_layout(logits, layout)), to_gpu(targets)
    got, got_lse = cuda._cross_entropy(*on_gpu, ignore_index, plain=plain)
    assert_close(got, losses, 8 * TOLERANCE[dtype])
    assert_close(got_lse, lse, TOLERANCE[dtype])
    got = cuda._cross_entropy_grad(
        to_gpu(grad)[:, 0], *on_gpu, to_gpu(lse), ignore_index, plain=plain
    )
    expected = reference.cross_entropy_grad(
        grad[:, 0], logits, targets, lse, ignore_index=ignore_index
    )
    assert_close(got, expected, 4 * TOLERANCE[dtype])


@few
@given(
    shape=st.lists(st.integers(0, 7), max_size=3),
    dtype=dtypes,
    layout=layouts,
    other=layouts,
    seed=seeds,
)
def test_binary_cross_entropy(cuda_kernels, shape, dtype, layout, other, seed):
    cuda = cuda_kernels("softmax")
    rng = np.random.default_rng(seed)
    logits = np.asarray(10 * rng.normal(size=shape), dtype)
    grad = np.asarray(rng.normal(size=shape), dtype)
    targets = np.asarray(rng.random(shape), dtype)
    x, t, g = (
        to_gpu(in_layout(a, order))
        for a, order in ((logits, layout), (targets, other), (grad, "C"))
    )
    got = cuda.binary_cross_entropy_with_logits(x, t)
    expected = reference.binary_cross_entropy_with_logits(logits, targets)
    assert_close(got, expected, TOLERANCE[dtype])
    got = cuda.binary_cross_entropy_with_logits_grad(g, x, t)
    expected = reference.binary_cross_entropy_with_logits_grad(grad, logits, targets)
    assert_close(got, expected, TOLERANCE[dtype])


def test_binary_cross_entropy_keeps_its_digits_when_saturated(cuda_kernels):
    cuda = cuda_kernels("softmax")
    x = np.array([30, -30, 80, -80, 1e4, -1e4, INF, -INF, NAN])
    right = (x > 0).astype(float)
    losses = to_cpu(cuda.binary_cross_entropy_with_logits(to_gpu(x[:6]), to_gpu(right[:6])))
    np.testing.assert_allclose(losses, np.exp(-np.abs(x[:6])), rtol=1e-13)
    grad = cuda.binary_cross_entropy_with_logits_grad(to_gpu(np.ones(9)), to_gpu(x), to_gpu(right))
    expected = [*(-np.sign(x[:6]) * np.exp(-np.abs(x[:6]))), 0, 0, NAN]
    np.testing.assert_allclose(to_cpu(grad), expected, rtol=1e-13, atol=1e-300)


@plains
@ignore_warnings
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("copies", [1, 100])  # a lane to a row, and a block
def test_extreme_values(cuda_kernels, plain, dtype, copies):
    cuda = cuda_kernels("softmax")
    tolerance = 8 * TOLERANCE[dtype]
    x = np.tile(EXTREME, copies).astype(dtype)
    grad = np.linspace(-1, 1, x.size, dtype=dtype).reshape(x.shape)
    for log_space in (False, True):
        name = "log_softmax" if log_space else "softmax"
        expected = getattr(reference, name)(x)
        options = {"log_space": log_space, "plain": plain}
        assert_close(cuda._softmax(to_gpu(x), **options), expected, tolerance)
        got = cuda._softmax_grad(to_gpu(grad), to_gpu(expected), **options)
        expected = getattr(reference, f"{name}_grad")(grad, expected)
        assert_close(got, expected, 8 * tolerance)
    assert_close(cuda.logsumexp(to_gpu(x)), reference.logsumexp(x), tolerance)
    for targets in (np.zeros(8, int), np.array([-100, 2, 3, 2, 0, 1, 2, -100])):
        losses, lse = reference.cross_entropy(x, targets)
        got, got_lse = cuda._cross_entropy(to_gpu(x), to_gpu(targets), -100, plain=plain)
        assert_close(got, losses, tolerance)
        assert_close(got_lse, lse, tolerance)
        expected = reference.cross_entropy_grad(grad[:, 0], x, targets, lse)
        arrays = [to_gpu(a) for a in (grad[:, 0].copy(), x, targets, lse)]
        got = cuda._cross_entropy_grad(*arrays, -100, plain=plain)
        # The float64 lse is rounded to half an ulp of 1e4.
        assert_close(got, expected, max(tolerance, 2e-12))


def test_small_losses_keep_their_digits(cuda_kernels):
    """Of a nearly certain answer 1e-13 is left, which float32 would round away beside 1."""
    x = to_gpu(np.array([[30, 0], [0, 30]], np.float32))
    losses, _ = cuda_kernels("softmax").cross_entropy(x, to_gpu(np.array([0, 1])))
    np.testing.assert_allclose(to_cpu(losses), np.exp(-30.0), rtol=1e-6)
    log_softmax = to_cpu(cuda_kernels("softmax").log_softmax(x))
    np.testing.assert_allclose(np.diag(log_softmax), -np.exp(-30.0), rtol=1e-6)


@plains
@pytest.mark.parametrize("target", [5, -1, 2**40, -(2**40)])
def test_a_target_that_is_no_class_is_nan_and_reads_nothing(cuda_kernels, plain, target):
    cuda = cuda_kernels("softmax")
    targets = np.array([0, -100, 4, target])
    x, grad = np.zeros((4, 5), np.float32), np.ones(4, np.float32)
    losses, lse = cuda._cross_entropy(to_gpu(x), to_gpu(targets), -100, plain=plain)
    np.testing.assert_allclose(to_cpu(losses), [np.log(5), 0, np.log(5), NAN], rtol=1e-6)
    got = to_cpu(
        cuda._cross_entropy_grad(to_gpu(grad), to_gpu(x), to_gpu(targets), lse, -100, plain=plain)
    )
    assert np.isnan(got[3]).all()
    assert np.isfinite(got[:3]).all()


def test_empty_inputs(cuda_kernels):
    cuda = cuda_kernels("softmax")
    for shape in ((0, 5), (3, 0)):
        x = to_gpu(np.zeros(shape, np.float32))
        assert cuda.softmax(x).shape == shape
        assert cuda.softmax_grad(x, x).shape == shape
        assert cuda.log_softmax_grad(x, x).shape == shape
        np.testing.assert_array_equal(to_cpu(cuda.logsumexp(x)), np.full(shape[0], -INF))
        assert cuda.binary_cross_entropy_with_logits(x, x).shape == shape
    empty = to_gpu(np.zeros((0, 5))), to_gpu(np.zeros(0, int))
    losses, lse = cuda.cross_entropy(*empty)
    assert losses.shape == lse.shape == (0,)
    assert cuda.cross_entropy_grad(losses, *empty, lse).shape == (0, 5)


def test_a_mixture_of_dtypes_is_refused(cuda_kernels):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="grad is float64, the kernel reads float32"):
        cuda_kernels("softmax").softmax_grad(to_gpu(x.astype(np.float64)), to_gpu(x))


@pytest.mark.parametrize("columns", [8, 512])
def test_rows_that_start_between_vectors(cuda_kernels, columns):
    cuda = cuda_kernels("softmax")
    _, x = draw((3, columns), np.float32, 0)
    shifted = to_gpu(np.append(np.float32(0), x))[1:]  # 4 bytes after a multiple of 16
    rows = shifted.reshape(x.shape)
    y = reference.softmax(x)
    assert_close(cuda.softmax(rows), y, 2e-6)
    assert_close(cuda.softmax_grad(rows, to_gpu(y)), reference.softmax_grad(x, y), 2e-6)
    assert_close(cuda.logsumexp(rows), reference.logsumexp(x), 2e-6)
    targets = np.array([1, 0, 5])
    losses, lse = cuda.cross_entropy(rows, to_gpu(targets))
    assert_close(losses, reference.cross_entropy(x, targets)[0], 2e-6)
    ones = np.ones(3, np.float32)
    got = cuda.cross_entropy_grad(to_gpu(ones), rows, to_gpu(targets), lse)
    assert_close(got, reference.cross_entropy_grad(ones, x, targets, to_cpu(lse)), 2e-6)
    got = cuda.binary_cross_entropy_with_logits(shifted, to_gpu(y.ravel()))
    assert_close(got, reference.binary_cross_entropy_with_logits(x, y).ravel(), 2e-6)
