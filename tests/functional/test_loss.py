"""Losses: PyTorch and closed forms, reductions, gradients of two orders, extreme logits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_torch, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
seeds = st.integers(0, 2**20)


@st.composite
def classifications(draw):
    """Logits (N, K, ...) in any memory order, and targets, some of them -100."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    seed = draw(seeds)
    logits = in_layout(values(shape, seed), draw(st.sampled_from(LAYOUTS)))
    rng = np.random.default_rng(seed)
    targets = np.array(rng.integers(0, shape[1], (shape[0], *shape[2:])))
    targets[rng.random(targets.shape) < 0.2] = -100
    return logits, targets


@reductions
@settings(max_examples=15)
@given(problem=classifications())
def test_cross_entropy_equals_torch(reduction, problem):
    torch = pytest.importorskip("torch")
    logits, targets = problem
    if reduction == "mean" and (targets == -100).all():
        targets = np.zeros_like(targets)
    check_torch(
        lambda x: F.cross_entropy(x, targets, reduction=reduction),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(targets), reduction=reduction),
        [logits.copy()],
    )


@reductions
@settings(max_examples=10)
@given(problem=classifications())
def test_cross_entropy_gradients(reduction, problem):
    logits, targets = problem
    if (targets == -100).all():
        targets = np.zeros_like(targets)
    gradcheck(
        lambda x: F.cross_entropy(x, Tensor(targets), reduction=reduction), [logits], order=2
    )


def test_a_class_can_be_ignored():
    torch = pytest.importorskip("torch")
    logits, targets = values((5, 3), 0), np.array([0, 1, 2, 1, 0])
    options = {"ignore_index": 1}
    check_torch(
        lambda x: F.cross_entropy(x, targets, **options),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(targets), **options),
        [logits],
    )
    gradcheck(lambda x: F.cross_entropy(x, targets, **options), [logits], order=2)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_mean_of_no_losses_is_not_a_number():
    assert np.isnan(F.cross_entropy(tg.zeros(0, 3), tg.zeros(0, dtype=np.int64)).item())
    assert np.isnan(F.cross_entropy(tg.zeros(2, 3), np.array([-100, -100])).item())
    assert F.cross_entropy(tg.zeros(0, 3), np.zeros(0, int), reduction="sum").item() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_extreme_logits(dtype):
    """Right or wrong with certainty, classes ruled out by -inf; every loss and gradient exact."""
    logits = np.array([[1e4, 0, 0], [0, 1e4, 0], [-np.inf, 3, 3], [1e30, -1e30, 0]], dtype)
    targets = np.array([0, 0, 2, 0])
    x = Tensor(logits, requires_grad=True)
    losses = F.cross_entropy(x, targets, reduction="none")
    np.testing.assert_allclose(losses.data, [0, 1e4, np.log(2), 0], 1e-6)
    losses.sum().backward()
    expected = [[0, 0, 0], [-1, 1, 0], [0, 0.5, -0.5], [0, 0, 0]]
    np.testing.assert_allclose(x.grad.data, expected, atol=1e-6)


def test_small_losses_keep_their_digits():
    """Of a nearly certain answer: 1e-13 is left of 1, in float32 as well."""
    x = tg.tensor([[30.0, 0.0]], requires_grad=True)
    loss = F.cross_entropy(x, np.array([0]))
    np.testing.assert_allclose(loss.item(), np.log1p(np.exp(-30.0)), 2e-3)
    loss.backward()
    np.testing.assert_allclose(x.grad.data[0, 1], np.exp(-30.0), 1e-5)


@st.composite
def binaries(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    seed, layout = draw(seeds), draw(st.sampled_from(LAYOUTS))
    logits, targets = values(shape, seed, low=-5, high=5), values(shape, seed + 1, low=0, high=1)
    return [in_layout(np.asarray(x), layout) for x in (logits, targets)]


@reductions
@settings(max_examples=15)
@given(arrays=binaries())
def test_binary_cross_entropy(reduction, arrays):
    def ours(x, t):
        return F.binary_cross_entropy_with_logits(x, t, reduction=reduction)

    gradcheck(ours, arrays, order=2)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    check_torch(
        ours, lambda x, t: theirs(x, t, reduction=reduction), [np.array(x) for x in arrays]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_extreme_logits(dtype):
    logits = np.array([1e4, -1e4, 1e4, -1e4, 50, -50, 0, 1e30], dtype)
    targets = np.array([1, 0, 0, 1, 1, 0, 0.25, 1], dtype)
    x = Tensor(logits, requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, Tensor(targets), reduction="none")
    small = np.exp(-50.0)
    np.testing.assert_allclose(losses.data, [0, 0, 1e4, 1e4, small, small, np.log(2), 0], 1e-5)
    losses.sum().backward()
    np.testing.assert_allclose(x.grad.data, [0, 0, 1, -1, -small, small, 0.25, 0], 1e-5)


def test_binary_targets_may_be_arrays_of_any_kind():
    x = tg.tensor([0.5, -1.0])
    expected = F.binary_cross_entropy_with_logits(x, tg.tensor([1.0, 0.0]))
    for target in (np.array([1, 0]), np.array([True, False]), np.array([1.0, 0.0])):
        loss = F.binary_cross_entropy_with_logits(x, target)
        assert loss.dtype == np.float32
        assert loss.item() == expected.item()


@reductions
@settings(max_examples=10)
@given(arrays=binaries())
def test_mse(reduction, arrays):
    def ours(x, t):
        return F.mse_loss(x, t, reduction=reduction)

    gradcheck(ours, arrays, order=3)
    torch = pytest.importorskip("torch")
    check_torch(
        ours,
        lambda x, t: torch.nn.functional.mse_loss(x, t, reduction=reduction),
        [np.array(x) for x in arrays],
    )


def test_no_gradient_for_a_fixed_target():
    x, t = tg.randn(3, requires_grad=True), tg.rand(3)
    for loss in (F.mse_loss, F.binary_cross_entropy_with_logits):
        loss(x, t).backward()
        assert t.grad is None
        (g,) = tg.grad(loss(t, x), [x])
        assert g.shape == (3,)


@pytest.mark.filterwarnings("ignore:Mean of empty", "ignore:invalid value")
def test_of_nothing():
    for loss in (F.mse_loss, F.binary_cross_entropy_with_logits):
        x = tg.zeros(0, 2, requires_grad=True)
        assert loss(x, tg.zeros(0, 2), reduction="none").shape == (0, 2)
        assert loss(x, tg.zeros(0, 2), reduction="sum").item() == 0
        assert np.isnan(loss(x, tg.zeros(0, 2)).item())
        loss(x, tg.zeros(0, 2), reduction="sum").backward()
        assert x.grad.shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.cross_entropy(tg.zeros(2, 3), np.array([0, 3])), ValueError,
         "cross_entropy: target 3 in row 1 is no class; logits have 3 classes"),
        (lambda: F.cross_entropy(tg.zeros(2, 3), np.array([-1, 2])), ValueError,
         "cross_entropy: target -1 in row 0 is no class"),
        (lambda: F.cross_entropy(tg.zeros(2, 3), tg.zeros(2)), TypeError,
         "cross_entropy: expected integer classes as target, got float32"),
        (lambda: F.cross_entropy(tg.zeros(2, 3, 4), np.zeros((2, 3), int)), ValueError,
         "cross_entropy: logits (2, 3, 4) are (N, K, ...), so the target must have shape (2, 4), "
         "got (2, 3)"),
        (lambda: F.cross_entropy(tg.zeros(3), np.zeros((), int)), ValueError, "(N, K, ...)"),
        (lambda: F.cross_entropy(tg.zeros(2, 3), np.zeros(2, int), reduction="avg"), ValueError,
         "cross_entropy: reduction='avg' must be 'mean', 'sum' or 'none'"),
        (lambda: F.cross_entropy(tg.zeros(2, 3, dtype=np.int64), np.zeros(2, int)), TypeError,
         "cross_entropy: input int64: expected float32"),
        (lambda: F.binary_cross_entropy_with_logits(tg.zeros(2, 1), tg.zeros(2)), ValueError,
         "binary_cross_entropy_with_logits: input and target must have one shape, got (2, 1) and "
         "(2,)"),
        (lambda: F.binary_cross_entropy_with_logits(tg.zeros(2), 1.0), ValueError,
         "input and target must have one shape, got (2,) and float"),
        (lambda: F.binary_cross_entropy_with_logits(tg.zeros(2), tg.zeros(2), reduction="x"),
         ValueError, "binary_cross_entropy_with_logits: reduction='x' must be"),
        (lambda: F.mse_loss(tg.zeros(2, 1), tg.zeros(2)), ValueError,
         "mse_loss: input (2, 1) and target (2,) must have one shape"),
        (lambda: F.mse_loss(tg.zeros(2), tg.zeros(2), reduction=None), ValueError,
         "mse_loss: reduction=None must be"),
    ],
)  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
