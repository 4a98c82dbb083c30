"""Batch and layer norm on the GPU against the definition, in every layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import norm as reference

ACTIVATIONS = {"identity": 0.0, "relu": 0.0, "leaky_relu": 0.2}
EPS = 1e-5
EXAMPLES = settings(max_examples=40)

activations = st.sampled_from(sorted(ACTIVATIONS))
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
# Channels with and without packs of 4, more than a block is wide; a single value, a prime number
# of them, more than a thread takes at once; none.
shapes = st.tuples(
    st.sampled_from([0, 1, 2, 5, 7]),
    st.sampled_from([0, 1, 3, 4, 12, 37, 132]),
    st.sampled_from([(), (1,), (5,), (1, 1), (2, 2), (3, 4), (7, 3), (8, 9)]),
).map(lambda drawn: (*drawn[:2], *drawn[2]))


def draw(shape, dtype, seed, activation="identity", absent=()):
    """x, weight, bias, grad, options; the gradient is 0 where rounding decides the slope."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 2 + 1).astype(dtype)
    weight = rng.uniform(0.5, 1.5, shape[1]).astype(dtype)
    bias = rng.standard_normal(shape[1]).astype(dtype)
    weight = None if "weight" in absent else weight
    bias = None if "bias" in absent else bias
    options = {"activation": activation, "param": ACTIVATIONS[activation]}
    z = reference.batch_norm(x.astype(np.float64), weight, bias, eps=EPS)[0]
    grad = np.where(np.abs(z) < 1e-3, 0, rng.standard_normal(shape)).astype(dtype)
    return x, weight, bias, grad, options


def on_gpu(*arrays):
    return [None if a is None else to_gpu(a) for a in arrays]


def assert_all_close(actual, expected, dtype, scale=1.0):
    rtol = {np.float32: 3e-5, np.float64: 1e-10}[dtype]
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert (a.dtype, a.shape) == (dtype, e.shape)
            # Sums cancel: compare with the largest element, not with each one.
            atol = rtol * scale * np.abs(e).max(initial=1.0)
            np.testing.assert_allclose(to_cpu(a), e, rtol, atol)


def condition(x):
    """By how much normalising may magnify rounding errors: values per channel may be equal."""
    _, _, var = reference.batch_norm(x.astype(np.float64), None, None, eps=EPS)
    return np.abs(x).max(initial=1) / np.sqrt(var.min(initial=1) + EPS)


@EXAMPLES
@given(
    shapes, dtypes, activations, st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS),
    st.sets(st.sampled_from(["weight", "bias"])), seeds,
)  # fmt: skip
def test_batch_norm_equals_reference(
    cuda_kernels, shape, dtype, activation, layout, grad_layout, absent, seed
):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, options = draw(shape, dtype, seed, activation, absent)
    arranged = to_gpu(in_layout(x, layout))
    forward = cuda.batch_norm(arranged, *on_gpu(weight, bias), eps=EPS, **options)
    expected = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    assert_all_close(forward, expected, dtype, condition(x))

    statistics = (*expected[1:], weight, bias)
    grads = to_gpu(in_layout(grad, grad_layout))
    backward = cuda.batch_norm_grad(grads, arranged, *on_gpu(*statistics), eps=EPS, **options)
    expected = reference.batch_norm_grad(grad, x, *statistics, eps=EPS, **options)
    assert_all_close(backward, expected, dtype, condition(x))


@EXAMPLES
@given(shapes, dtypes, activations, st.sampled_from(LAYOUTS), seeds)
def test_scale_shift_equals_reference(cuda_kernels, shape, dtype, activation, layout, seed):
    cuda = cuda_kernels("norm")
    x, scale, shift, grad, options = draw(shape, dtype, seed, activation)
    grad[np.abs(reference.scale_shift(x, scale, shift)) < 1e-3] = 0
    arrays = to_gpu(in_layout(x, layout)), *on_gpu(scale, shift)
    y = cuda.scale_shift(*arrays, **options)
    assert_all_close([y], [reference.scale_shift(x, scale, shift, **options)], dtype)
    gradients = cuda.scale_shift_grad(to_gpu(grad), *arrays, **options)
    expected = reference.scale_shift_grad(grad, x, scale, shift, **options)
    assert_all_close(gradients, expected, dtype)


@EXAMPLES
@given(shapes.filter(np.prod), dtypes, activations, st.sampled_from(["C", "channels_last"]), seeds)
def test_plain_batch_norm_equals_reference(cuda_kernels, shape, dtype, activation, layout, seed):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, options = draw(shape, dtype, seed, activation)
    arranged = to_gpu(in_layout(x, layout))
    y = cuda._batch_norm_plain(arranged, *on_gpu(weight, bias), eps=EPS, **options)
    expected = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    assert_all_close(y, expected, dtype, condition(x))
    vectors = (*expected[1:], weight, bias)
    gradients = cuda._batch_norm_grad_plain(
        to_gpu(grad), arranged, *on_gpu(*vectors), eps=EPS, **options
    )
    expected = reference.batch_norm_grad(grad, x, *vectors, eps=EPS, **options)
    assert_all_close(gradients, expected, dtype, condition(x))


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_results_have_the_order_of_their_input(cuda_kernels, layout):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, _ = draw((2, 4, 3, 5), np.float32, 0)
    arranged = to_gpu(in_layout(x, layout))
    y, mean, var = cuda.batch_norm(arranged, *on_gpu(weight, bias), eps=EPS)
    vectors = mean, var, *on_gpu(weight, bias)
    grad_x, _, _ = cuda.batch_norm_grad(to_gpu(grad), arranged, *vectors, eps=EPS)
    assert y.strides == grad_x.strides == arranged.strides


@pytest.mark.parametrize("shape", [(1300, 4), (3, 3, 50, 60), (2, 520, 3, 3)])
@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_blocks_share_large_inputs(cuda_kernels, shape, layout):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, options = draw(shape, np.float32, 1, "leaky_relu")
    arranged, vectors = to_gpu(in_layout(x, layout)), on_gpu(weight, bias)
    y, mean, var = cuda.batch_norm(arranged, *vectors, eps=EPS, **options)
    expected = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    assert_all_close((y, mean, var), expected, np.float32)
    gradients = cuda.batch_norm_grad(
        to_gpu(grad), arranged, mean, var, *vectors, eps=EPS, **options
    )
    expected = reference.batch_norm_grad(grad, x, *expected[1:], weight, bias, eps=EPS, **options)
    assert_all_close(gradients, expected, np.float32)


def test_a_mean_far_from_zero_costs_no_digits(cuda_kernels):
    rng = np.random.default_rng(2)
    x = (1e4 + rng.standard_normal((600, 5))).astype(np.float32)
    _, mean, var = cuda_kernels("norm").batch_norm(to_gpu(x), None, None, eps=EPS)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(to_cpu(mean), wide.mean(0), rtol=2e-7)
    np.testing.assert_allclose(to_cpu(var), wide.var(0), rtol=1e-3)


def test_nan_stays_in_its_channel(cuda_kernels):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, options = draw((6, 8, 3, 3), np.float32, 3, "relu")
    x[1, 2, 0, 0] = np.nan
    x[1, 5, 0, 0] = np.inf
    arranged, vectors = to_gpu(in_layout(x, "channels_last")), on_gpu(weight, bias)
    y, mean, var = cuda.batch_norm(arranged, *vectors, eps=EPS, **options)
    grads = cuda.batch_norm_grad(to_gpu(grad), arranged, mean, var, *vectors, eps=EPS, **options)
    for result in (to_cpu(y), to_cpu(grads[0])):
        assert np.isnan(result[:, [2, 5]]).all()
        assert np.isfinite(np.delete(result, [2, 5], axis=1)).all()


def test_relu_of_minus_infinity_is_zero(cuda_kernels):
    x = np.array([[-np.inf, np.inf], [1, -1]], np.float32)
    one = np.ones(2, np.float32)
    y = cuda_kernels("norm").scale_shift(*on_gpu(x, one, 0 * one), activation="relu")
    np.testing.assert_array_equal(to_cpu(y), [[0, np.inf], [1, 0]])


def test_slope_at_the_kink_is_the_one_from_below(cuda_kernels):
    arrays = on_gpu(np.ones((2, 3)), np.zeros((2, 3)), np.ones(3), np.zeros(3))
    options = {"activation": "leaky_relu", "param": 0.25}
    grad_x, _, _ = cuda_kernels("norm").scale_shift_grad(*arrays, **options)
    np.testing.assert_array_equal(to_cpu(grad_x), 0.25)


def test_equal_inputs_give_equal_bits(cuda_kernels):
    cuda = cuda_kernels("norm")
    x, weight, bias, grad, options = draw((3, 20, 12, 5), np.float32, 4, "relu")

    def run(layout):
        arranged, vectors = to_gpu(in_layout(x, layout)), on_gpu(weight, bias)
        y, mean, var = cuda.batch_norm(arranged, *vectors, eps=EPS, **options)
        grads = cuda.batch_norm_grad(
            to_gpu(grad), arranged, mean, var, *vectors, eps=EPS, **options
        )
        return [to_cpu(a) for a in (y, mean, var, *grads)]

    for layout in ("C", "channels_last"):
        for a, b in zip(run(layout), run(layout), strict=True):
            np.testing.assert_array_equal(a, b)


rows = st.sampled_from([0, 1, 3, 70])
widths = st.sampled_from([0, 1, 3, 4, 8, 31, 100, 1030])


def draw_rows(size, width, dtype, seed, with_weight):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((size, width)) + 3).astype(dtype)
    grad = rng.standard_normal((size, width)).astype(dtype)
    weight, bias = rng.standard_normal((2, width)).astype(dtype) if with_weight else (None, None)
    # The gain 1 / sqrt(var + eps) of a single column is 316: rounding errors grow by as much.
    return x, grad, weight, bias, 400 if width < 2 else 10


@EXAMPLES
@given(rows, widths, dtypes, st.booleans(), st.sampled_from(LAYOUTS), seeds)
def test_layer_norm_equals_reference(cuda_kernels, size, width, dtype, with_weight, layout, seed):
    cuda = cuda_kernels("norm")
    x, grad, weight, bias, scale = draw_rows(size, width, dtype, seed, with_weight)
    arranged = to_gpu(in_layout(x, layout))
    forward = cuda.layer_norm(arranged, *on_gpu(weight, bias), eps=EPS)
    expected = reference.layer_norm(x, weight, bias, eps=EPS)
    assert_all_close(forward, expected, dtype, scale)
    statistics = expected[1:]
    grads = to_gpu(in_layout(grad, layout))
    backward = cuda.layer_norm_grad(grads, arranged, *on_gpu(*statistics, weight))
    expected = reference.layer_norm_grad(grad, x, *statistics, weight)
    assert_all_close(backward, expected, dtype, scale)


@EXAMPLES
@given(rows.filter(bool), widths.filter(bool), dtypes, st.booleans(), seeds)
def test_plain_layer_norm_equals_reference(cuda_kernels, size, width, dtype, with_weight, seed):
    cuda = cuda_kernels("norm")
    x, grad, weight, bias, scale = draw_rows(size, width, dtype, seed, with_weight)
    forward = cuda._layer_norm_plain(*on_gpu(x, weight, bias), eps=EPS)
    expected = reference.layer_norm(x, weight, bias, eps=EPS)
    assert_all_close(forward, expected, dtype, scale)
    arrays = grad, x, *expected[1:], weight
    backward = cuda._layer_norm_grad_plain(*on_gpu(*arrays))
    assert_all_close(backward, reference.layer_norm_grad(*arrays), dtype, scale)


def test_only_leaky_activations_fuse(cuda_kernels):
    with pytest.raises(ValueError, match="'tanh' is not one of identity, relu, leaky_relu"):
        cuda_kernels("norm").batch_norm(
            to_gpu(np.ones((2, 3))), None, None, eps=EPS, activation="tanh"
        )


@pytest.mark.parametrize("channels", [0, 1, 37, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_equal_reference(cuda_kernels, channels, dtype):
    rng = np.random.default_rng(channels)
    arrays = [rng.uniform(0.5, 2, channels).astype(dtype) for _ in range(4)]
    for layout in ("C", "strided"):
        there = [to_gpu(in_layout(a.copy(), layout)) for a in arrays]
        cuda_kernels("norm").update_running(*there, momentum=0.3, count=7)
        here = [a.copy() for a in arrays]
        reference.update_running(*here, momentum=0.3, count=7)
        assert_all_close(there, here, dtype)
