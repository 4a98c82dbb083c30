"""Softmax family and cross entropies: reference against PyTorch, CPU against reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import softmax as cpu
from tinygen_kernels.reference import softmax as reference

INF, NAN = np.inf, np.nan
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}

dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
modules = pytest.mark.parametrize("module", [cpu, reference])
ignore_warnings = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about inf - inf

# Rows that overflow, underflow, or have no softmax at all.
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


def draw(shape, dtype, seed=0, scale=3.0):
    """Logits whose rows lie at very different levels, and gradients."""
    rng = np.random.default_rng(seed)
    offset = rng.choice([-1000, 0, 1000], size=(shape[0], 1))
    x = (scale * rng.normal(size=shape) + offset).astype(dtype)
    return x, rng.normal(size=shape).astype(dtype)


def draw_targets(rows, classes, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < 0.2, -100, rng.integers(0, classes, size=rows))


def assert_close(got, expected, tolerance):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


shapes = st.tuples(st.integers(0, 9), st.integers(1, 70))


@dtypes
@given(shape=shapes, seed=st.integers(0, 99))
def test_cpu_softmax_agrees_with_reference(dtype, shape, seed):
    x, grad = draw(shape, dtype, seed)
    tolerance = TOLERANCE[dtype]
    for name in ("softmax", "log_softmax"):
        output = getattr(reference, name)(x)
        assert_close(getattr(cpu, name)(x), output, tolerance)
        got = getattr(cpu, f"{name}_grad")(grad, output)
        expected = getattr(reference, f"{name}_grad")(grad, output)
        assert_close(got, expected, 8 * tolerance)
    assert_close(cpu.logsumexp(x), reference.logsumexp(x), tolerance)


@dtypes
@given(shape=shapes, seed=st.integers(0, 99), ignore=st.booleans())
def test_cpu_cross_entropy_agrees_with_reference(dtype, shape, seed, ignore):
    logits, grad = draw(shape, dtype, seed)
    targets = draw_targets(*shape, seed)
    options = {}
    if not ignore:
        targets = np.where(targets == -100, 0, targets)
        options = {"ignore_index": shape[1] // 2}
    losses, lse = cpu.cross_entropy(logits, targets, **options)
    expected, expected_lse = reference.cross_entropy(logits, targets, **options)
    assert_close(losses, expected, 2 * TOLERANCE[dtype])
    assert_close(lse, expected_lse, TOLERANCE[dtype])
    got = cpu.cross_entropy_grad(grad[:, 0], logits, targets, expected_lse, **options)
    exact = reference.cross_entropy_grad(grad[:, 0], logits, targets, expected_lse, **options)
    assert_close(got, exact, 2 * TOLERANCE[dtype])


@dtypes
@given(shape=shapes, seed=st.integers(0, 99))
def test_cpu_binary_cross_entropy_agrees_with_reference(dtype, shape, seed):
    logits, grad = draw(shape, dtype, seed, scale=10)
    targets = np.random.default_rng(seed).random(shape).astype(dtype)
    got = cpu.binary_cross_entropy_with_logits(logits, targets)
    expected = reference.binary_cross_entropy_with_logits(logits, targets)
    assert_close(got, expected, TOLERANCE[dtype])
    got = cpu.binary_cross_entropy_with_logits_grad(grad, logits, targets)
    expected = reference.binary_cross_entropy_with_logits_grad(grad, logits, targets)
    assert_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(40, 1500), (3, 40_000), (20_001, 2)])
def test_large_inputs_in_parallel(shape):
    x, grad = draw(shape, np.float32)
    targets = draw_targets(*shape)
    for name in ("softmax", "log_softmax"):
        output = getattr(cpu, name)(x)
        exact = getattr(reference, name)(x.astype(np.float64)).astype(np.float32)
        assert_close(output, exact, 2e-6)
        got = getattr(cpu, f"{name}_grad")(grad, output)
        exact = getattr(reference, f"{name}_grad")(grad.astype(np.float64), output)
        assert_close(got, exact.astype(np.float32), 1e-5)
    assert_close(cpu.logsumexp(x), reference.logsumexp(x), 2e-6)
    losses, lse = cpu.cross_entropy(x, targets)
    assert_close(losses, reference.cross_entropy(x, targets)[0], 4e-6)
    got = cpu.cross_entropy_grad(grad[:, 0], x, targets, lse)
    assert_close(got, reference.cross_entropy_grad(grad[:, 0], x, targets, lse), 2e-6)
    labels = (grad > 0).astype(np.float32)
    got = cpu.binary_cross_entropy_with_logits(x, labels)
    assert_close(got, reference.binary_cross_entropy_with_logits(x, labels), 2e-6)
    got = cpu.binary_cross_entropy_with_logits_grad(grad, x, labels)
    assert_close(got, reference.binary_cross_entropy_with_logits_grad(grad, x, labels), 2e-6)


@modules
@dtypes
@ignore_warnings
def test_extreme_values_are_torchs(module, dtype):
    torch = pytest.importorskip("torch")
    x = EXTREME.astype(dtype)
    leaf = torch.tensor(x, requires_grad=True)
    grad = np.linspace(-1, 1, x.size, dtype=dtype).reshape(x.shape)
    tolerance = 4 * TOLERANCE[dtype]
    for name in ("softmax", "log_softmax"):
        expected = getattr(torch, name)(leaf, dim=1)
        assert_close(getattr(module, name)(x), expected.detach().numpy(), tolerance)
        (expected_grad,) = torch.autograd.grad(expected, leaf, torch.tensor(grad))
        got = getattr(module, f"{name}_grad")(grad, expected.detach().numpy())
        assert_close(got, expected_grad.numpy(), tolerance)
    assert_close(module.logsumexp(x), torch.logsumexp(leaf, 1).detach().numpy(), tolerance)
    for targets in (np.full(8, 0), np.full(8, 1), np.array([-100, 2, 3, 2, 0, 1, 2, -100])):
        losses, lse = module.cross_entropy(x, targets)
        expected = torch.nn.functional.cross_entropy(leaf, torch.tensor(targets), reduction="none")
        assert_close(losses, expected.detach().numpy(), tolerance)
        (expected_grad,) = torch.autograd.grad(expected, leaf, torch.tensor(grad[:, 0].copy()))
        got = module.cross_entropy_grad(grad[:, 0], x, targets, lse)
        # The float64 lse is rounded to half an ulp of 1e4.
        assert_close(got, expected_grad.numpy(), max(tolerance, 2e-12))


@modules
@ignore_warnings
def test_ignored_rows_have_no_gradient_even_if_they_are_nan(module):
    targets = np.full(8, -100)
    losses, lse = module.cross_entropy(EXTREME, targets)
    np.testing.assert_array_equal(losses, 0)
    grad = module.cross_entropy_grad(np.ones(8), EXTREME, targets, lse)
    np.testing.assert_array_equal(grad, 0)


@modules
def test_binary_cross_entropy_is_torchs(module):
    torch = pytest.importorskip("torch")
    x = np.linspace(-40, 40, 999)
    t = np.tile([0.0, 1.0, 0.3], 333)
    leaf = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        leaf, torch.tensor(t), reduction="none"
    )
    got = module.binary_cross_entropy_with_logits(x, t)
    assert_close(got, expected.detach().numpy(), 1e-14)
    (expected_grad,) = torch.autograd.grad(expected.sum(), leaf)
    got = module.binary_cross_entropy_with_logits_grad(np.ones(999), x, t)
    assert_close(got, expected_grad.numpy(), 1e-14)


@modules
@dtypes
def test_binary_cross_entropy_keeps_its_digits_when_saturated(module, dtype):
    x = np.array([30, -30, 80, -80, 1e4, -1e4], dtype)
    right = np.array([1, 0, 1, 0, 1, 0], dtype)
    tail = np.exp(-np.abs(x))
    rtol = 10 * TOLERANCE[dtype]
    losses = module.binary_cross_entropy_with_logits(x, right)
    np.testing.assert_allclose(losses, tail, rtol=rtol)
    losses = module.binary_cross_entropy_with_logits(x, 1 - right)
    np.testing.assert_allclose(losses, np.abs(x) + tail, rtol=rtol)
    grad = module.binary_cross_entropy_with_logits_grad(np.ones_like(x), x, right)
    np.testing.assert_allclose(grad, -np.sign(x) * tail, rtol=rtol)
    x[:3] = INF, -INF, NAN
    grad = module.binary_cross_entropy_with_logits_grad(np.ones_like(x), x, right)
    np.testing.assert_array_equal(np.isnan(grad), [False, False, True, False, False, False])


def test_large_logits_lose_no_digits():
    x, _ = draw((50, 20), np.float32)
    x += np.float32(8192) - np.round(x[:, :1])
    targets = draw_targets(50, 20)
    exact = reference.cross_entropy(x.astype(np.float64), targets)
    losses, lse = cpu.cross_entropy(x, targets)
    np.testing.assert_allclose(losses, exact[0], rtol=1e-6)
    grad = np.ones(50)
    exact_grad = reference.cross_entropy_grad(grad, x.astype(np.float64), targets, exact[1])
    got = cpu.cross_entropy_grad(grad.astype(np.float32), x, targets, lse)
    np.testing.assert_allclose(got, exact_grad, rtol=1e-6, atol=1e-7)


def test_finite_differences():
    x, grad = draw((4, 6), np.float64)
    targets = draw_targets(4, 6, seed=3)
    step = 1e-6
    direction = np.random.default_rng(1).normal(size=x.shape)
    labels = np.random.default_rng(2).random(x.shape)

    def check(function, gradient, weight):
        ahead, behind = function(x + step * direction), function(x - step * direction)
        numeric = (weight * (ahead - behind)).sum() / (2 * step)
        assert numeric == pytest.approx((gradient * direction).sum(), rel=1e-6, abs=1e-8)

    check(cpu.softmax, cpu.softmax_grad(grad, cpu.softmax(x)), grad)
    check(cpu.log_softmax, cpu.log_softmax_grad(grad, cpu.log_softmax(x)), grad)
    check(cpu.logsumexp, grad[:, :1] * cpu.softmax(x), grad[:, 0])
    lse = cpu.cross_entropy(x, targets)[1]
    check(
        lambda x: cpu.cross_entropy(x, targets)[0],
        cpu.cross_entropy_grad(grad[:, 0], x, targets, lse),
        grad[:, 0],
    )
    check(
        lambda x: cpu.binary_cross_entropy_with_logits(x, labels),
        cpu.binary_cross_entropy_with_logits_grad(grad, x, labels),
        grad,
    )


def test_strided_and_broadcast_inputs():
    x, grad = draw((6, 8), np.float64)
    views = x[::2, ::-2], x.T, np.broadcast_to(x[0], (3, 8))
    for view in views:
        g = np.broadcast_to(np.float64(0.5), view.shape)
        targets = np.arange(2 * len(view))[::2] % view.shape[1]
        for name in ("softmax", "log_softmax", "logsumexp"):
            assert_close(getattr(cpu, name)(view), getattr(reference, name)(view), 1e-14)
        assert_close(cpu.softmax_grad(g, view), reference.softmax_grad(g, view), 1e-13)
        losses, lse = cpu.cross_entropy(view, targets.astype(np.int32))
        assert_close(losses, reference.cross_entropy(view, targets)[0], 1e-12)
        got = cpu.cross_entropy_grad(g[:, 0], view, targets, lse)
        assert_close(got, reference.cross_entropy_grad(g[:, 0], view, targets, lse), 1e-14)
        got = cpu.binary_cross_entropy_with_logits(view, g)
        assert_close(got, reference.binary_cross_entropy_with_logits(view, g), 1e-14)
    images = grad.reshape(2, 3, 2, 4).transpose(0, 3, 1, 2)
    losses = cpu.binary_cross_entropy_with_logits(images, images.copy())
    assert losses.strides == images.strides
    assert_close(losses, reference.binary_cross_entropy_with_logits(images, images), 1e-14)


@modules
@ignore_warnings
def test_empty_inputs(module):
    for shape in ((0, 5), (3, 0)):
        x = np.zeros(shape, np.float32)
        assert module.softmax(x).shape == shape
        assert module.softmax_grad(x, x).shape == shape
        assert module.log_softmax(x).shape == shape
        assert module.log_softmax_grad(x, x).shape == shape
        np.testing.assert_array_equal(module.logsumexp(x), np.full(shape[0], -INF))
        assert module.binary_cross_entropy_with_logits(x, x).shape == shape
    losses, lse = module.cross_entropy(np.zeros((0, 5)), np.zeros(0, int))
    assert losses.shape == lse.shape == (0,)
    assert module.cross_entropy_grad(losses, np.zeros((0, 5)), np.zeros(0, int), lse).size == 0
    number = np.float32(0.5) * np.ones((), np.float32)
    assert module.binary_cross_entropy_with_logits(number, number).shape == ()


@modules
@pytest.mark.parametrize("target", [5, -1, 2**40, -(2**40)])
def test_a_target_that_is_no_class_is_an_error(module, target):
    targets = np.array([0, -100, 4, target])
    with pytest.raises(ValueError, match=rf"target {target} in row 3 .* 0 to 4, or -100"):
        module.cross_entropy(np.zeros((4, 5)), targets)
