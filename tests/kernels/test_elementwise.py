"""Activations: the CPU loops against the definition, the definition against PyTorch."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import elementwise as cpu
from tinygen_kernels.cpu.jit import CHUNK
from tinygen_kernels.reference import elementwise as reference

NAMES = tuple(reference.SAVED)
PARAMS = {"leaky_relu": 0.2, "elu": 1.3}
# 1 + erf(x / √2) in gelu leaves an absolute error of the size of float32's eps, times |x|.
TOLERANCE = {np.float32: {"rtol": 2e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-14}}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 88.5, -88.5, 1e4, -1e4]

dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def saved_by(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x if reference.SAVED[name] == "input" else y


@pytest.mark.parametrize("name", NAMES)
@given(dtypes, shapes, st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), seeds)
def test_cpu_equals_reference(name, dtype, shape, layout, grad_layout, seed):
    rng = np.random.default_rng(seed)
    param = PARAMS.get(name, 0.0)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    y = cpu.activation(in_layout(x, layout), name, param)
    wide_y = reference.activation(x.astype(np.float64), name, param)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, wide_y, **TOLERANCE[dtype])

    saved = saved_by(name, in_layout(x, layout), y)
    grad_x = cpu.activation_grad(in_layout(grad, grad_layout), saved, name, param)
    expected = reference.activation_grad(grad, saved.astype(np.float64), name, param)
    assert grad_x.dtype == dtype
    np.testing.assert_allclose(grad_x, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_infinities_and_nan(name, dtype):
    x = np.array(SPECIAL, dtype)
    param = PARAMS.get(name, 0.0)
    with np.errstate(all="ignore"):
        expected = reference.activation(x, name, param)
        saved = saved_by(name, x, expected)
        expected_grad = reference.activation_grad(np.ones_like(x), saved, name, param)
    y = cpu.activation(x, name, param)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-37)
    assert np.isnan(y[4])
    grad_x = cpu.activation_grad(np.ones_like(x), saved, name, param)
    np.testing.assert_allclose(grad_x, expected_grad, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", ["relu", "silu"])  # each costs two more compilations
def test_many_chunks_equal_one(name):
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal(2 * CHUNK + 77)).astype(np.float32)
    run = functools.partial(cpu.activation, name=name, param=PARAMS.get(name, 0.0))
    grad = functools.partial(cpu.activation_grad, name=name, param=PARAMS.get(name, 0.0))
    parts = np.array_split(x, 5)
    np.testing.assert_allclose(run(x), np.concatenate([run(p) for p in parts]), rtol=1e-6)
    together = grad(x, run(x))
    apart = np.concatenate([grad(p, run(p)) for p in parts])
    np.testing.assert_allclose(together, apart, rtol=1e-6, atol=1e-7)


def test_memory_order_of_the_input_is_kept():
    x = in_layout(np.arange(-12.0, 12.0, dtype=np.float32).reshape(1, 2, 3, 4), "channels_last")
    y = cpu.activation(x, "relu")
    assert y.strides == x.strides
    assert cpu.activation_grad(np.ones_like(y, order="C"), y, "relu").strides == x.strides


def test_broadcast_gradient():
    y = cpu.activation(np.linspace(-2, 2, 12).reshape(3, 4), "tanh")
    grad = np.broadcast_to(np.float64(0.5), y.shape)
    np.testing.assert_allclose(cpu.activation_grad(grad, y, "tanh"), 0.5 * (1 - y * y))


@pytest.mark.parametrize("kernels", [reference, cpu])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu"])
def test_slope_at_the_kink_is_the_one_from_below(kernels, name):
    zero = np.zeros(3)
    y = kernels.activation(zero, name, 0.25 if name != "relu" else 0.0)
    slope = kernels.activation_grad(np.ones(3), y, name, 0.25 if name != "relu" else 0.0)
    np.testing.assert_array_equal(slope, 0.0 if name == "relu" else 0.25)


@pytest.mark.parametrize("name", NAMES)
@given(seeds)
def test_reference_gradient_equals_finite_differences(name, seed):
    rng = np.random.default_rng(seed)
    param = PARAMS.get(name, 0.0)
    x = 3 * rng.standard_normal(20)
    x = x[np.abs(x) > 1e-3]  # away from the kinks
    y = reference.activation(x, name, param)
    step = 1e-5
    numeric = (
        reference.activation(x + step, name, param) - reference.activation(x - step, name, param)
    ) / (2 * step)
    exact = reference.activation_grad(np.ones_like(x), saved_by(name, x, y), name, param)
    np.testing.assert_allclose(exact, numeric, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_reference_equals_pytorch(name):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    param = PARAMS.get(name, 0.0)
    options = {
        "leaky_relu": {"negative_slope": param},
        "elu": {"alpha": param},
        "softplus": {"threshold": 100},  # PyTorch goes over to y = x there
        "gelu_tanh": {"approximate": "tanh"},
    }
    x = np.concatenate([np.linspace(-30, 30, 601), [0.0, np.inf, -np.inf, np.nan]])
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(functional, name.removesuffix("_tanh"))(tx, **options.get(name, {}))
    ty.backward(torch.full_like(ty, 1.5))
    with np.errstate(invalid="ignore"):
        y = reference.activation(x, name, param)
        saved = saved_by(name, x, y)
        grad = reference.activation_grad(np.full_like(x, 1.5), saved, name, param)
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-12, atol=1e-14)
    finite = np.isfinite(x)
    np.testing.assert_allclose(grad[finite], tx.grad.numpy()[finite], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_errors(kernels):
    with pytest.raises(ValueError, match="'swish' is not one of relu, leaky_relu"):
        kernels.activation(np.ones(3), "swish")
    with pytest.raises(ValueError, match=r"leaky_relu with the parameter -0.1: it must be at"):
        kernels.activation(np.ones(3), "leaky_relu", -0.1)
