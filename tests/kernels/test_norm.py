"""Batch and layer norm: CPU against the definition, the definition against PyTorch."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import norm as cpu
from tinygen_kernels.reference import norm as reference

ACTIVATIONS = {"identity": 0.0, "relu": 0.0, "leaky_relu": 0.2}
TOLERANCE = {np.float32: {"rtol": 2e-5, "atol": 2e-5}, np.float64: {"rtol": 1e-10, "atol": 1e-10}}
EPS = 1e-5

activations = st.sampled_from(sorted(ACTIVATIONS))
dtypes = st.sampled_from([np.float32, np.float64])
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)
# Few channels fold into wide rows, the fold depends on the powers of two in N · H · W.
shapes = st.tuples(
    st.integers(0, 9),
    st.sampled_from([0, 1, 2, 3, 5, 16, 33]),
    st.lists(st.integers(0, 8), max_size=2),
).map(lambda drawn: (*drawn[:2], *drawn[2]))


def draw(shape, dtype, seed, activation):
    """x, weight, bias, grad, options; the gradient is 0 where z is near the kink.

    There rounding decides on which side of it an element lies, and the slope jumps.
    """
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 2 + 1).astype(dtype)
    weight = rng.uniform(0.5, 1.5, shape[1]).astype(dtype)
    bias = rng.standard_normal(shape[1]).astype(dtype)
    options = {"activation": activation, "param": ACTIVATIONS[activation]}
    z = reference.batch_norm(x.astype(np.float64), weight, bias, eps=EPS)[0]
    grad = np.where(np.abs(z) < 1e-3, 0, rng.standard_normal(shape)).astype(dtype)
    return x, weight, bias, grad, options


def assert_all_close(actual, expected, dtype):
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert a.dtype == dtype
            # Sums cancel: compare with the largest element, not with each one.
            scale = max(1.0, float(np.abs(e).max(initial=0)))
            np.testing.assert_allclose(a / scale, e / scale, **TOLERANCE[dtype])


@given(shapes, dtypes, activations, layouts, layouts, st.booleans(), st.booleans(), seeds)
def test_batch_norm_equals_reference(
    shape, dtype, activation, layout, grad_layout, with_weight, with_bias, seed
):
    x, weight, bias, grad, options = draw(shape, dtype, seed, activation)
    weight = weight if with_weight else None
    bias = bias if with_bias else None
    if not (with_weight and with_bias):
        z = reference.batch_norm(x.astype(np.float64), weight, bias, eps=EPS)[0]
        grad[np.abs(z) < 1e-3] = 0
    arranged = in_layout(x, layout)
    forward = cpu.batch_norm(arranged, weight, bias, eps=EPS, **options)
    expected = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    assert_all_close(forward, expected, dtype)

    _, mean, var = expected
    arguments = (mean, var, weight, bias)
    backward = cpu.batch_norm_grad(
        in_layout(grad, grad_layout), arranged, *arguments, eps=EPS, **options
    )
    expected = reference.batch_norm_grad(grad, x, *arguments, eps=EPS, **options)
    assert_all_close(backward, expected, dtype)


@given(shapes, dtypes, activations, layouts, seeds)
def test_scale_shift_equals_reference(shape, dtype, activation, layout, seed):
    x, scale, shift, grad, options = draw(shape, dtype, seed, activation)
    grad[np.abs(reference.scale_shift(x, scale, shift)) < 1e-3] = 0
    arranged = in_layout(x, layout)
    y = cpu.scale_shift(arranged, scale, shift, **options)
    assert_all_close([y], [reference.scale_shift(x, scale, shift, **options)], dtype)
    gradients = cpu.scale_shift_grad(grad, arranged, scale, shift, **options)
    expected = reference.scale_shift_grad(grad, x, scale, shift, **options)
    assert_all_close(gradients, expected, dtype)


@pytest.mark.parametrize("shape", [(1, 3, 211, 389), (64, 40, 16, 16), (70, 1000), (5000, 1)])
def test_many_blocks(shape):
    x, weight, bias, grad, options = draw(shape, np.float32, 1, "leaky_relu")
    forward = cpu.batch_norm(x, weight, bias, eps=EPS, **options)
    expected = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    assert_all_close(forward, expected, np.float32)
    arguments = (grad, x, *expected[1:], weight, bias)
    backward = cpu.batch_norm_grad(*arguments, eps=EPS, **options)
    expected = reference.batch_norm_grad(*arguments, eps=EPS, **options)
    assert_all_close(backward, expected, np.float32)


@pytest.mark.parametrize("shape", [(4096, 8), (64, 3, 31, 33), (1000, 300)])
@pytest.mark.parametrize("outlier", [0.0, 1e4])
def test_variance_survives_a_large_mean(shape, outlier):
    x = np.random.default_rng(0).normal(1e4, 1, shape).astype(np.float32)
    x[0] -= outlier  # the first row of a block is its origin
    axes = (0, *range(2, x.ndim))
    exact = x.astype(np.float64)
    _, mean, var = cpu.batch_norm(x, None, None, eps=EPS)
    np.testing.assert_allclose(mean, exact.mean(axes), rtol=2e-7)
    np.testing.assert_allclose(var, exact.var(axes), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 50, 3001])
@pytest.mark.parametrize("value", [1.1, -1e4 / 3, 1e8 / 7])
def test_constant_channels_normalise_to_zero(size, value):
    x = np.full((size, 3, 5, 1), value, np.float32)
    y, mean, var = cpu.batch_norm(x, None, None, eps=EPS)
    np.testing.assert_array_equal(mean, np.float32(value))
    assert (var >= 0).all()
    assert (var <= (1e-6 * value) ** 2).all()
    np.testing.assert_array_equal(y, 0)


def test_nan_stays_in_its_channel():
    x, weight, bias, grad, options = draw((6, 5, 3, 3), np.float32, 2, "relu")
    x[1, 2, 0, 0] = np.nan
    y, mean, var = cpu.batch_norm(x, weight, bias, eps=EPS, **options)
    grad_x, _, _ = cpu.batch_norm_grad(grad, x, mean, var, weight, bias, eps=EPS, **options)
    for result in (y, grad_x):
        assert np.isnan(result[:, 2]).all()
        assert np.isfinite(np.delete(result, 2, axis=1)).all()


def test_relu_of_minus_infinity_is_zero():
    x = np.array([[-np.inf, np.inf], [1, -1]], np.float32)
    one = np.ones(2, np.float32)
    for kernels in (cpu, reference):
        y = kernels.scale_shift(x, one, 0 * one, activation="relu")
        np.testing.assert_array_equal(y, [[0, np.inf], [1, 0]])


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_slope_at_the_kink_is_the_one_from_below(kernels):
    one, zero = np.ones(3), np.zeros(3)
    grad_x, _, _ = kernels.scale_shift_grad(
        np.ones((2, 3)), np.zeros((2, 3)), one, zero, activation="leaky_relu", param=0.25
    )
    np.testing.assert_array_equal(grad_x, 0.25)


def test_result_does_not_depend_on_the_number_of_threads():
    x, weight, bias, grad, options = draw((33, 20, 12, 15), np.float32, 3, "relu")
    rows = x.transpose(0, 2, 3, 1).reshape(-1, 20)
    grad_rows = grad.transpose(0, 2, 3, 1).reshape(rows.shape)

    def run():
        y, mean, var = cpu.batch_norm(x, weight, bias, eps=EPS, **options)
        arguments = (grad, x, mean, var, weight, bias)
        normed = cpu.layer_norm(rows, weight, bias, eps=EPS)
        return (
            *(y, mean, var),
            *cpu.batch_norm_grad(*arguments, eps=EPS, **options),
            *normed,
            *cpu.layer_norm_grad(grad_rows, rows, *normed[1:], weight),
        )

    threads = numba.get_num_threads()
    many = run()
    numba.set_num_threads(1)
    try:
        one = run()
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_only_leaky_activations_fuse(kernels):
    with pytest.raises(ValueError, match="'tanh' is not one of identity, relu, leaky_relu"):
        kernels.batch_norm(np.ones((2, 3)), None, None, eps=EPS, activation="tanh")


@given(st.integers(0, 70), st.integers(0, 50), dtypes, st.booleans(), st.booleans(), seeds)
def test_layer_norm_equals_reference(size, width, dtype, with_weight, strided, seed):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((size, width)) + 3).astype(dtype)
    grad = rng.standard_normal((size, width)).astype(dtype)
    weight, bias = (rng.standard_normal((2, width))).astype(dtype) if with_weight else (None, None)
    layout = "strided" if strided else "C"
    arranged = in_layout(x, layout)
    forward = cpu.layer_norm(arranged, weight, bias, eps=EPS)
    expected = reference.layer_norm(x, weight, bias, eps=EPS)
    # The gain 1 / sqrt(var + eps) of a single column is 316: rounding errors grow by as much.
    scaled = TOLERANCE[dtype]["atol"] * (400 if width < 2 else 1)
    for a, e in zip(forward, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, e, rtol=TOLERANCE[dtype]["rtol"], atol=scaled)
    statistics = expected[1:]
    backward = cpu.layer_norm_grad(in_layout(grad, layout), arranged, *statistics, weight)
    expected = reference.layer_norm_grad(grad, x, *statistics, weight)
    assert_all_close(backward, expected, dtype)


def directional(function, x, direction, step=1e-6):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@given(activations, st.sampled_from([(7, 3), (4, 2, 5), (3, 4, 2, 3), (2, 1, 3, 3)]), seeds)
def test_batch_norm_gradients_equal_finite_differences(activation, shape, seed):
    x, weight, bias, grad, options = draw(shape, np.float64, seed, activation)
    rng = np.random.default_rng(seed + 1)

    def loss(x, weight, bias):
        return (grad * reference.batch_norm(x, weight, bias, eps=EPS, **options)[0]).sum()

    _, mean, var = reference.batch_norm(x, weight, bias, eps=EPS)
    gradients = reference.batch_norm_grad(grad, x, mean, var, weight, bias, eps=EPS, **options)
    arguments = [x, weight, bias]
    for k, gradient in enumerate(gradients):
        direction = rng.standard_normal(gradient.shape)

        def along(value, k=k):
            return loss(*arguments[:k], value, *arguments[k + 1 :])

        numeric = directional(along, arguments[k], direction)
        np.testing.assert_allclose((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-7)


@given(seeds)
def test_layer_norm_gradients_equal_finite_differences(seed):
    rng = np.random.default_rng(seed)
    x, grad = rng.standard_normal((2, 5, 7))
    weight, bias = rng.standard_normal((2, 7))
    _, mean, rstd = reference.layer_norm(x, weight, bias, eps=EPS)
    gradients = reference.layer_norm_grad(grad, x, mean, rstd, weight)
    arguments = [x, weight, bias]
    for k, gradient in enumerate(gradients):
        direction = rng.standard_normal(gradient.shape)

        def along(value, k=k):
            y, _, _ = reference.layer_norm(*arguments[:k], value, *arguments[k + 1 :], eps=EPS)
            return (grad * y).sum()

        numeric = directional(along, arguments[k], direction)
        np.testing.assert_allclose((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 7), (3, 4, 5, 6)])
def test_batch_norm_equals_pytorch(shape, activation):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, weight, bias, grad, options = draw(shape, np.float64, 4, activation)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    z = functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True, eps=EPS)
    activate = {
        "identity": lambda z: z,
        "relu": functional.relu,
        "leaky_relu": lambda z: functional.leaky_relu(z, 0.2),
    }[activation]
    expected = activate(z)
    expected.backward(torch.tensor(grad))
    y, mean, var = reference.batch_norm(x, weight, bias, eps=EPS, **options)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    gradients = reference.batch_norm_grad(grad, x, mean, var, weight, bias, eps=EPS, **options)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-11)

    leaf = torch.tensor(x, requires_grad=True)
    scale, shift = (torch.tensor(a, requires_grad=True) for a in (weight, bias))
    zeros, ones = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()
    activate(functional.batch_norm(leaf, zeros, ones, scale, shift, eps=0)).backward(
        torch.tensor(grad)
    )
    gradients = reference.scale_shift_grad(grad, x, weight, bias, **options)
    for gradient, tensor in zip(gradients, (leaf, scale, shift), strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-11, atol=1e-12)


def test_layer_norm_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x, grad = rng.standard_normal((2, 9, 13))
    weight, bias = rng.standard_normal((2, 13))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    expected = torch.nn.functional.layer_norm(leaves[0], (13,), *leaves[1:], eps=EPS)
    expected.backward(torch.tensor(grad))
    y, mean, rstd = reference.layer_norm(x, weight, bias, eps=EPS)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    gradients = reference.layer_norm_grad(grad, x, mean, rstd, weight)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-11)
