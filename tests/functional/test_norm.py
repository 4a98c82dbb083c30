"""Batch and layer normalisation: statistics, gradients, the fused activation, and messages."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_torch, in_layout, values
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

ACTIVATIONS = ["identity", "relu", "leaky_relu"]
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
training_or_not = pytest.mark.parametrize("training", [True, False])
seeds = st.integers(0, 2**20)


@st.composite
def problems(draw):
    """Input (N, C), (N, C, L) or (N, C, H, W), weight and bias, running mean and variance."""
    spatial = draw(st.lists(st.integers(1, 4), max_size=2))
    channels, seed = draw(st.integers(1, 4)), draw(seeds)
    shape = (draw(st.integers(2, 4)), channels, *spatial)
    x = in_layout(values(shape, seed), draw(st.sampled_from(LAYOUTS)))
    rng = np.random.default_rng(seed)
    weight, bias = rng.uniform(0.5, 2, channels), rng.uniform(-1, 1, channels)
    return [x, weight, bias], [rng.uniform(-1, 1, channels), rng.uniform(0.5, 2, channels)]


@training_or_not
@settings(max_examples=15)
@given(problem=problems(), momentum=st.floats(0, 1), affine=st.booleans())
def test_batch_norm_equals_torch(problem, training, momentum, affine):
    torch = pytest.importorskip("torch")
    arrays, running = problem
    arrays = [x.copy() for x in (arrays if affine else arrays[:1])]
    options = {"training": training, "momentum": momentum, "eps": 1e-3}
    ours = [Tensor(a.copy()) for a in running]
    theirs = [torch.tensor(a) for a in running]
    check_torch(
        lambda x, *affine: F.batch_norm(x, *ours, *affine, **options),
        lambda x, *affine: torch.nn.functional.batch_norm(x, *theirs, *affine, **options),
        arrays,
    )
    for mine, other, before in zip(ours, theirs, running, strict=True):
        np.testing.assert_allclose(mine.data, other, 1e-12)
        if not training:
            np.testing.assert_array_equal(mine.data, before)


@training_or_not
@activations
@settings(max_examples=10)
@given(problem=problems())
def test_batch_norm_gradients(problem, training, activation):
    arrays, running = problem

    def batch_norm(*args):
        statistics = [Tensor(a.copy()) for a in running]
        x, *affine = args
        return F.batch_norm(
            x, *statistics, *affine, training=training, activation=activation, negative_slope=0.2
        )

    before_activation = F.batch_norm(arrays[0], *running, *arrays[1:], training=training)
    assume(np.abs(before_activation).min() > 1e-3)  # finite differences must not cross the kink
    gradcheck(batch_norm, arrays, order=2)


@training_or_not
@activations
@settings(max_examples=10)
@given(problem=problems(), affine=st.booleans())
def test_the_fused_activation_changes_nothing(problem, training, activation, affine):
    arrays, running = problem
    arrays = arrays if affine else arrays[:1]
    fused_options = {"activation": activation, "negative_slope": 0.2}
    functions = {
        "identity": lambda y: y,
        "relu": F.relu,
        "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    }
    results = []
    for options, after in (
        (fused_options, lambda y: y),
        ({}, functions[activation]),
    ):
        inputs = [Tensor(a, requires_grad=True) for a in arrays]
        statistics = [Tensor(a.copy()) for a in running]
        x, *rest = inputs
        y = after(F.batch_norm(x, *statistics, *rest, training=training, **options))
        loss = (y * Tensor(values(y.shape, 1))).sum()
        results.append([y, *tg.grad(loss, inputs), *statistics])
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fused.data, plain.data, 1e-11, 1e-12)


@activations
@settings(max_examples=10)
@given(problem=problems())
def test_evaluation_is_the_same_with_and_without_a_tape(problem, activation):
    (x, weight, bias), running = problem
    options = {"activation": activation, "negative_slope": 0.2}
    args = [Tensor(a) for a in (x, *running, weight, bias)]
    with_arrays = F.batch_norm(x, *running, weight, bias, **options)
    assert isinstance(with_arrays, np.ndarray)
    without = F.batch_norm(*args, **options)
    assert not without.requires_grad
    args[3].requires_grad_()
    with_tape = F.batch_norm(*args, **options)
    assert with_tape.requires_grad
    with tg.no_grad():
        again = F.batch_norm(*args, **options)
    for y in (with_arrays, with_tape.detach(), again):
        np.testing.assert_allclose(np.asarray(y), without.numpy(), 1e-12, 1e-13)


def test_batch_norm_of_arrays_trains_their_running_statistics():
    x, running = values((5, 3, 2), 0), [np.zeros(3), np.ones(3)]
    y = F.batch_norm(x, *running, training=True, momentum=0.5)
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(running[0], 0.5 * x.mean((0, 2)))
    np.testing.assert_allclose(running[1], 0.5 + 0.5 * x.var((0, 2), ddof=1))


@training_or_not
def test_without_running_statistics_the_batch_s_are_used(training):
    x = values((6, 2, 3), 0)
    y = F.batch_norm(x, training=training, eps=0)
    np.testing.assert_allclose(y.mean((0, 2)), [0, 0], atol=1e-12)
    np.testing.assert_allclose(y.var((0, 2)), [1, 1])


def test_a_mean_far_from_zero_costs_few_digits():
    rng = np.random.default_rng(0)
    x64 = rng.standard_normal((16, 3, 5, 5)) + 1e4
    x64 = x64.astype(np.float32).astype(np.float64)
    grads = []
    for x in (x64.astype(np.float32), x64):
        x = Tensor(x, requires_grad=True)
        running = tg.zeros(3, dtype=x.dtype), tg.ones(3, dtype=x.dtype)
        y = F.batch_norm(x, *running, training=True, momentum=1.0)
        (g,) = tg.grad(y, [x], [Tensor(values(x.shape, 0, dtype=x.dtype))])
        grads.append((y.detach(), g, *running))
    for low, high in zip(*grads, strict=True):
        assert low.dtype == np.float32
        # The mean itself, near 10⁴, is rounded to float32: by up to 5e-4.
        np.testing.assert_allclose(low.numpy(), high.numpy(), 2e-4, 5e-4)
    y, _, _, var = grads[0]
    np.testing.assert_allclose(y.numpy().std((0, 2, 3)), np.ones(3), rtol=1e-4)
    np.testing.assert_allclose(var.numpy(), x64.var((0, 2, 3), ddof=1), rtol=1e-4)


def test_batch_norm_of_no_images():
    running = tg.zeros(3), tg.ones(3)
    x = tg.zeros(0, 3, 4, 4, requires_grad=True)
    y = F.batch_norm(x, *running, training=True)
    assert y.shape == (0, 3, 4, 4)
    y.sum().backward()
    assert x.grad.shape == x.shape
    np.testing.assert_array_equal(running[0].numpy(), np.zeros(3))
    np.testing.assert_array_equal(running[1].numpy(), np.ones(3))


@st.composite
def layer_problems(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    last = draw(st.integers(1, len(shape)))
    normalized = tuple(shape[-last:])
    x = in_layout(values(shape, draw(seeds)), draw(st.sampled_from(LAYOUTS)))
    # Of a single value the variance is 0, and eps all that keeps gradients finite.
    assume(np.prod(normalized) > 1)
    return [x, values(normalized, 1, low=0.5), values(normalized, 2)], normalized


@settings(max_examples=15)
@given(layer_problems(), st.sampled_from([1, 2, 3]))
def test_layer_norm_equals_torch(problem, count):
    torch = pytest.importorskip("torch")
    arrays, shape = problem
    check_torch(
        lambda x, *affine: F.layer_norm(x, shape, *affine, eps=1e-3),
        lambda x, *affine: torch.nn.functional.layer_norm(x, shape, *affine, eps=1e-3),
        [x.copy() for x in arrays[:count]],
    )


@settings(max_examples=15)
@given(layer_problems())
def test_layer_norm_gradients(problem):
    arrays, shape = problem
    gradcheck(lambda x, *affine: F.layer_norm(x, shape, *affine, eps=1e-2), arrays, order=2)


def test_layer_norm_of_one_number_and_of_nothing():
    assert F.layer_norm(tg.ones(2, 1), 1).tolist() == [[0], [0]]
    assert F.layer_norm(tg.zeros(0, 3), 3, tg.ones(3), tg.ones(3)).shape == (0, 3)


def zeros(*shape, dtype=np.float32):
    return Tensor(np.zeros(shape, dtype))


X = zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.batch_norm(X, zeros(4), zeros(3)), ValueError,
         "batch_norm: input (2, 3, 4) is (N, C, ...), so running_mean must have shape (3,), "
         "got (4,)"),
        (lambda: F.batch_norm(X, weight=zeros(3, 1)), ValueError, "weight must have shape (3,)"),
        (lambda: F.batch_norm(X, zeros(3)), ValueError, "both running_mean and running_var"),
        (lambda: F.batch_norm(zeros(3)), ValueError,
         "batch_norm: input (3,) must be (N, C) or (N, C, ...)"),
        (lambda: F.batch_norm(X, activation="elu"), ValueError,
         "batch_norm: activation 'elu' is none of ['identity', 'leaky_relu', 'relu']"),
        (lambda: F.batch_norm(zeros(1, 3, 1, 1), training=True), ValueError,
         "batch_norm: one value per channel in (1, 3, 1, 1) has no variance; use a larger batch, "
         "or eval mode"),
        (lambda: F.batch_norm(zeros(2, 3, dtype=np.int64)), TypeError,
         "batch_norm: input int64: expected float32 for all or float64 for all"),
        (lambda: F.batch_norm(X, weight=zeros(3, dtype=np.float64)), TypeError,
         "batch_norm: input float32, weight float64: expected"),
        (lambda: F.layer_norm(X, (2, 4)), ValueError,
         "layer_norm: the last axes of input (2, 3, 4) must be normalized_shape (2, 4)"),
        (lambda: F.layer_norm(X, (1, 2, 3, 4)), ValueError, "layer_norm: the last axes"),
        (lambda: F.layer_norm(X, ()), ValueError, "layer_norm: the last axes"),
        (lambda: F.layer_norm(X, 4, zeros(3)), ValueError,
         "layer_norm: weight (3,) must have shape (4,)"),
        (lambda: F.layer_norm(X, 4, zeros(4), zeros(1, 4)), ValueError,
         "layer_norm: bias (1, 4) must have shape (4,)"),
        (lambda: F.layer_norm(zeros(2, 3, dtype=np.int64), 3), TypeError, "layer_norm: input int"),
    ],
)  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
