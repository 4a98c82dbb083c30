"""Pooling and resizing: CPU against the definition, the definition against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import pool as cpu
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import pool as reference

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
TOLERANCE = {np.float32: {"rtol": 1e-5, "atol": 1e-6}, np.float64: {"rtol": 1e-12, "atol": 1e-13}}
BOTH = pytest.mark.parametrize("kernels", [reference, cpu])


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, dilation: int = 1):
    """A shape and options that leave at least one window, and an element in each."""
    kernel_size, stride = draw(pairs(1, 4)), draw(pairs(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel_size)
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if dilation > 1:
        options["dilation"] = draw(pairs(1, dilation))
    size = []
    for k, p, d in zip(kernel_size, padding, options.get("dilation", (1, 1)), strict=True):
        # With dilation one element might be skipped by all taps of a padded window.
        least = max(d * (k - 1) + 1 - 2 * p, d * p if d > 1 else 1, 1)
        size.append(least + draw(st.integers(0, 5)))
    return (draw(st.integers(0, 3)), draw(st.integers(0, 5)), *size), options


shapes = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9))


def numbers(shape, dtype, seed) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def torch_numbers(shape, seed):
    """The same for PyTorch, which wants at least one image and channel."""
    torch = pytest.importorskip("torch")
    shape = (max(shape[0], 1), max(shape[1], 1), *shape[2:])
    return torch.tensor(numbers(shape, np.float64, seed), requires_grad=True)


@given(problems(dilation=3), dtypes, layouts, layouts, seeds)
def test_max_pool_equals_reference(problem, dtype, layout, grad_layout, seed):
    shape, options = problem
    x = np.round(numbers(shape, dtype, seed))  # with ties
    y, indices = cpu.max_pool2d(in_layout(x, layout), **options)
    expected_y, expected_indices = reference.max_pool2d(x, **options)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(indices, expected_indices)
    assert (y.dtype, indices.dtype) == (dtype, np.int32)
    grad = numbers(y.shape, dtype, seed)
    grad_x = cpu.max_pool2d_grad(in_layout(grad, grad_layout), indices, shape[2:])
    expected = reference.max_pool2d_grad(grad, expected_indices, shape[2:])
    assert grad_x.dtype == dtype
    np.testing.assert_allclose(grad_x, expected, **TOLERANCE[dtype])


@given(problems(), st.booleans(), dtypes, layouts, layouts, seeds)
def test_avg_pool_equals_reference(problem, include, dtype, layout, grad_layout, seed):
    shape, options = problem
    x = numbers(shape, dtype, seed)
    options = {**options, "count_include_pad": include}
    y = cpu.avg_pool2d(in_layout(x, layout), **options)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, reference.avg_pool2d(x, **options), **TOLERANCE[dtype])
    grad = numbers(y.shape, dtype, seed)
    grad_x = cpu.avg_pool2d_grad(in_layout(grad, grad_layout), shape[2:], **options)
    assert grad_x.dtype == dtype
    expected = reference.avg_pool2d_grad(grad, shape[2:], **options)
    np.testing.assert_allclose(grad_x, expected, **TOLERANCE[dtype])


@given(shapes, pairs(1, 12), dtypes, layouts, seeds)
def test_interpolate_equals_reference(shape, size, dtype, layout, seed):
    x = numbers(shape, dtype, seed)
    y = cpu.interpolate_nearest(in_layout(x, layout), size)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.interpolate_nearest(x, size))
    grad = numbers(y.shape, dtype, seed)
    grad_x = cpu.interpolate_nearest_grad(in_layout(grad, layout), shape[2:])
    expected = reference.interpolate_nearest_grad(grad, shape[2:])
    np.testing.assert_allclose(grad_x, expected, **TOLERANCE[dtype])


@given(problems(), st.booleans(), pairs(1, 12), seeds)
def test_linear_gradients_are_adjoint(problem, include, size, seed):
    """<f(x), g> = <x, f*(g)>: the gradient of a linear function is its transpose."""
    shape, options = problem
    x = numbers(shape, np.float64, seed)
    options = {**options, "count_include_pad": include}
    y = reference.avg_pool2d(x, **options)
    g = numbers(y.shape, np.float64, seed + 1)
    grad_x = reference.avg_pool2d_grad(g, shape[2:], **options)
    np.testing.assert_allclose((y * g).sum(), (x * grad_x).sum(), atol=1e-11)
    y = reference.interpolate_nearest(x, size)
    g = numbers(y.shape, np.float64, seed + 1)
    grad_x = reference.interpolate_nearest_grad(g, shape[2:])
    np.testing.assert_allclose((y * g).sum(), (x * grad_x).sum(), atol=1e-11)


@given(problems(dilation=2), seeds)
def test_max_pool_gradient_equals_finite_differences(problem, seed):
    shape, options = problem
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float64)  # far from ties
    direction = rng.standard_normal(shape)
    y, indices = reference.max_pool2d(x, **options)
    grad = rng.standard_normal(y.shape)
    above, _ = reference.max_pool2d(x + 1e-3 * direction, **options)
    below, _ = reference.max_pool2d(x - 1e-3 * direction, **options)
    numeric = (grad * (above - below)).sum() / 2e-3
    exact = (reference.max_pool2d_grad(grad, indices, shape[2:]) * direction).sum()
    np.testing.assert_allclose(exact, numeric, atol=1e-8)


@given(problems(), st.booleans(), seeds)
def test_avg_pool_reference_equals_pytorch(problem, include, seed):
    torch = pytest.importorskip("torch")
    shape, options = problem
    x = torch_numbers(shape, seed)
    y = torch.nn.functional.avg_pool2d(x, **options, count_include_pad=include)
    g = torch.ones_like(y).cumsum(-1)
    y.backward(g)
    ours = reference.avg_pool2d(x.detach().numpy(), **options, count_include_pad=include)
    np.testing.assert_allclose(ours, y.detach().numpy(), atol=1e-12)
    ours = reference.avg_pool2d_grad(g.numpy(), shape[2:], **options, count_include_pad=include)
    np.testing.assert_allclose(ours, x.grad.numpy(), atol=1e-12)


@given(problems(dilation=3), seeds)
def test_max_pool_reference_equals_pytorch(problem, seed):
    torch = pytest.importorskip("torch")
    shape, options = problem
    x = torch_numbers(shape, seed)
    y, indices = torch.nn.functional.max_pool2d(x, **options, return_indices=True)
    g = torch.ones_like(y).cumsum(-1)
    y.backward(g)
    ours, ours_indices = reference.max_pool2d(x.detach().numpy(), **options)
    np.testing.assert_array_equal(ours, y.detach().numpy())
    np.testing.assert_array_equal(ours_indices, indices.numpy())
    ours = reference.max_pool2d_grad(g.numpy(), ours_indices, shape[2:])
    np.testing.assert_allclose(ours, x.grad.numpy(), atol=1e-12)


def test_nearest_equals_pytorch():
    """But for quotients i · size / out that are whole numbers, which PyTorch may round down."""
    torch = pytest.importorskip("torch")
    for size in range(1, 33):
        x = torch.arange(size, dtype=torch.float64).reshape(1, 1, size, 1)
        for out in range(1, 65):
            y = torch.nn.functional.interpolate(x, size=(out, 1), mode="nearest")
            difference = reference.nearest(size, out) - y.ravel().numpy()
            whole = np.arange(out) * size % out == 0
            assert (difference[~whole] == 0).all()
            assert np.isin(difference[whole], (0, 1)).all()
            assert out % 2 or out > 8 or (difference == 0).all()


@BOTH
@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_max_pool_ties_and_nan(kernels, layout):
    x = np.zeros((1, 2, 4, 4))
    x[0, 1, 0, 1] = x[0, 1, 1, 1] = x[0, 1, 2, 1] = np.nan
    x[0, 1, 2:, 2:] = -np.inf
    pooled = kernels.max_pool2d(
        in_layout(x, layout), kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)
    )
    y, indices = pooled
    np.testing.assert_array_equal(indices[0, 0], [[0, 2], [8, 10]])  # the first of equals
    np.testing.assert_array_equal(y[0, 1], [[np.nan, 0], [np.nan, -np.inf]])
    np.testing.assert_array_equal(indices[0, 1], [[1, 2], [9, 10]])


def test_results_are_channels_last():
    x = numbers((2, 3, 6, 8), np.float32, 0)
    window = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    y, indices = cpu.max_pool2d(x, **window)
    for result in (
        *(y, indices, cpu.avg_pool2d(x, **window), cpu.interpolate_nearest(x, (12, 16))),
        *(cpu.max_pool2d_grad(y, indices, (6, 8)), cpu.avg_pool2d_grad(y, (6, 8), **window)),
        cpu.interpolate_nearest_grad(x, (3, 4)),
    ):
        assert is_channels_last(result)


@BOTH
def test_errors(kernels):
    x = np.zeros((1, 1, 3, 5))
    with pytest.raises(ValueError, match=r"size 3 with kernel_size 4.*a window spans 4 of 3"):
        kernels.max_pool2d(x, kernel_size=(4, 4), stride=(1, 1), padding=(0, 0))
    with pytest.raises(ValueError, match=r"size 3 with.*a window lies in the padding only"):
        kernels.avg_pool2d(x, kernel_size=(2, 2), stride=(1, 1), padding=(2, 0))
    with pytest.raises(ValueError, match=r"stride 0.*must be at least 1"):
        kernels.avg_pool2d(x, kernel_size=(2, 2), stride=(0, 1), padding=(0, 0))
