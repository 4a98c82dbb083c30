"""Activation functions: PyTorch as oracle, gradients of two orders, kinks; and dropout."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import arrays, check_torch
from hypothesis import given, settings

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

# Our function, PyTorch's, and where the slope jumps.
FUNCTIONS = {
    "relu": (F.relu, lambda f: f.relu, (0,)),
    "leaky_relu": (
        lambda x: F.leaky_relu(x, 0.2), lambda f: lambda x: f.leaky_relu(x, 0.2), (0,)
    ),
    "leaky_relu_default": (F.leaky_relu, lambda f: f.leaky_relu, (0,)),
    "elu": (F.elu, lambda f: f.elu, (0,)),
    "elu_alpha": (lambda x: F.elu(x, 0.5), lambda f: lambda x: f.elu(x, 0.5), (0,)),
    "softplus": (F.softplus, lambda f: f.softplus, ()),
    "sigmoid": (F.sigmoid, lambda f: f.sigmoid, ()),
    "tanh": (F.tanh, lambda f: f.tanh, ()),
    "silu": (F.silu, lambda f: f.silu, ()),
    "gelu": (F.gelu, lambda f: f.gelu, ()),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda f: lambda x: f.gelu(x, approximate="tanh"), (),
    ),
}  # fmt: skip
functions = pytest.mark.parametrize("name", FUNCTIONS)


@functions
@settings(max_examples=8)
@given(x=arrays(low=-4, high=4, kinks=(0,)))
def test_gradients_of_first_and_second_order(name, x):
    gradcheck(FUNCTIONS[name][0], [x], order=2)


@functions
def test_third_order(name):
    x = np.array([-3.0, -1.1, -0.4, 0.3, 1.2, 2.5])
    gradcheck(FUNCTIONS[name][0], [x], order=3)


@functions
def test_equals_torch(name):
    """At the kink too, and where exponentials overflow or vanish."""
    torch = pytest.importorskip("torch")
    ours, theirs, _ = FUNCTIONS[name]
    x = np.array([-800.0, -40, -12, -2, -1e-9, 0, 1e-9, 0.7, 3, 19, 21, 60, 800])
    torch_function = theirs(torch.nn.functional)
    if name == "softplus":  # PyTorch's is linear from a threshold on, by default from 20
        softplus = torch_function
        torch_function = lambda x: softplus(x, 1, 700)  # noqa: E731
    check_torch(ours, torch_function, [x])
    single = ours(Tensor(x.astype(np.float32)))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.numpy(), ours(x), 2e-6, 1e-30)


@functions
def test_slope_at_the_kink(name):
    """The one from below, with a graph of the gradient and without."""
    function, _, kinks = FUNCTIONS[name]
    below = {"relu": 0, "leaky_relu": 0.2, "leaky_relu_default": 0.01, "elu": 1, "elu_alpha": 0.5}
    for kink in kinks:
        for create_graph in (False, True):
            x = tg.tensor(np.array([kink, 0.0]), requires_grad=True)
            g = tg.grad(function(x).sum(), x, create_graph=create_graph)
            np.testing.assert_allclose(g.detach().numpy(), below[name])


@functions
def test_nan_and_infinity_travel_through(name):
    function = FUNCTIONS[name][0]
    x = tg.tensor(np.array([np.nan, 1.0, np.inf]), requires_grad=True)
    y = function(x)
    assert np.isnan(y.data[0])
    assert np.isfinite(y.data[1])
    assert y.data[2] == (1 if name in ("sigmoid", "tanh") else np.inf)


@functions
def test_arrays_in_arrays_out(name):
    x = np.linspace(-2, 2, 5)
    y = FUNCTIONS[name][0](x)
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, FUNCTIONS[name][0](Tensor(x)).numpy())


def test_messages():
    with pytest.raises(ValueError, match=r"leaky_relu with the parameter -0\.1"):
        F.leaky_relu(tg.ones(2), -0.1)
    with pytest.raises(ValueError, match="approximate='erf' must be 'none' or 'tanh'"):
        F.gelu(tg.ones(2), approximate="erf")
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"dropout: p=.* must be a probability"):
            F.dropout(tg.ones(2), p)


def test_erf():
    from scipy import special

    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(F.erf(x), special.erf(x))
    gradcheck(F.erf, [x], order=2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_scales_the_rest(p):
    tg.manual_seed(0)
    n = 40_000
    x = tg.ones(n, requires_grad=True)
    y = F.dropout(x, p)
    kept = y.data != 0
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(y.data[kept], 1 / (1 - p), rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)  # the same elements are dropped


def test_dropout_is_reproducible_and_differs_from_call_to_call():
    x = tg.ones(100)
    tg.manual_seed(3)
    first, second = F.dropout(x), F.dropout(x)
    assert (first.data != second.data).any()
    tg.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x).data, first.data)


def test_dropout_in_evaluation_is_the_identity_and_draws_nothing():
    state = tg.random.get_state()
    x = tg.ones(100)
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert tg.random.get_state() == state


def test_dropout_of_everything_of_nothing_and_its_dtype():
    assert F.dropout(tg.ones(3), 1.0).tolist() == [0, 0, 0]
    assert F.dropout(tg.ones(0, 3), 0.5).shape == (0, 3)
    for dtype in (np.float32, np.float64):
        assert F.dropout(tg.ones(3, dtype=dtype), 0.5).dtype == dtype
    assert isinstance(F.dropout(np.ones(3)), np.ndarray)


def test_dropout_gradients():
    def seeded(x):
        tg.manual_seed(1)
        return F.dropout(x * x, 0.4)

    gradcheck(seeded, [np.linspace(-1, 1, 12).reshape(3, 4)], order=2)
