"""Weight normalisation: the formula, gradients, CPU against reference, masks, slices of zeros."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_op, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.cpu import weight_norm as cpu
from tinygen_kernels.reference import weight_norm as reference

import tinygen as tg
from tinygen import functional as F

TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}
modules = pytest.mark.parametrize("module", [cpu, reference])
layouts = st.sampled_from(LAYOUTS)


def draw(shape, dim, dtype, seed=0, masked=False):
    """v, g, mask (or None), gradient of w; with a mask one slice is all masked."""
    rng = np.random.default_rng(seed)
    lengths = tuple(n if i == dim else 1 for i, n in enumerate(shape))
    v, g, grad = (rng.normal(size=s).astype(dtype) for s in (shape, lengths, shape))
    v += np.sign(v)  # a length near 0 would magnify rounding errors
    if not masked:
        return v, g, None, grad
    mask = (rng.random(shape) < 0.6).astype(dtype)
    np.moveaxis(mask, dim, 0)[:1] = 0
    return v, g, mask, grad


def assert_close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=20)
@given(
    st.sampled_from([(0, 3), (1, 1), (5, 7), (4, 3, 3, 2), (3, 5, 2)]),
    st.integers(0, 1), st.booleans(), layouts, layouts, st.integers(0, 99),
)  # fmt: skip
def test_cpu_agrees_with_reference(dtype, shape, dim, masked, layout, other, seed):
    v, g, mask, grad = draw(shape, dim, dtype, seed, masked)
    there = in_layout(v, layout)
    arranged = None if mask is None else in_layout(mask, other)
    expected = reference.weight_norm(v, g, mask, dim=dim)
    assert_close(cpu.weight_norm(there, g, arranged, dim=dim), expected, TOLERANCE[dtype])
    rest = g, expected[1]
    got = cpu.weight_norm_grad(in_layout(grad, other), there, *rest, arranged, dim=dim)
    expected = reference.weight_norm_grad(grad, v, *rest, mask, dim=dim)
    assert_close(got, expected, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(3, 20_001), (700, 67)])
def test_large_weights_in_parallel(shape):
    v, g, _, grad = draw(shape, 0, np.float32)
    expected = reference.weight_norm(v, g, dim=0)
    assert_close(cpu.weight_norm(v, g, dim=0), expected, 4e-6)
    rest = g, expected[1]
    expected = reference.weight_norm_grad(grad, v, *rest, dim=0)
    assert_close(cpu.weight_norm_grad(grad, v, *rest, dim=0), expected, 1e-5)


def test_a_weight_of_a_convolution_keeps_its_memory_order():
    v, g, _, grad = draw((4, 3, 2, 5), 0, np.float32)
    v = in_layout(v, "channels_last")
    w, length = cpu.weight_norm(v, g, dim=0)
    grad_v, _ = cpu.weight_norm_grad(grad, v, g, length, dim=0)
    assert w.strides == grad_v.strides == v.strides


@modules
def test_slices_of_zeros_and_of_nan(module):
    v = np.array([[0, 0, 0], [1, np.nan, 2], [2, 1, 2]], np.float32)
    g = np.full((3, 1), 6, np.float32)
    w, length = module.weight_norm(v, g, dim=0)
    np.testing.assert_array_equal(w, [[0, 0, 0], [np.nan] * 3, [4, 2, 4]])
    grad_v, grad_g = module.weight_norm_grad(np.ones_like(v), v, g, length, dim=0)
    np.testing.assert_array_equal(grad_v[0], 0)
    np.testing.assert_allclose(grad_g, [[0], [np.nan], [5 / 3]], rtol=1e-6)
    assert np.isnan(grad_v[1]).all()


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 0), ((3, 4), 1), ((2, 3, 2), 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_on_the_tape(shape, dim, masked):
    mask = (values(shape, 3) > -1).astype(float) if masked else None
    v, g = values(shape, 1), values([n if i == dim else 1 for i, n in enumerate(shape)], 2)

    def op(v, g):
        return F.weight_norm(v, g, dim=dim, mask=None if mask is None else mask.astype(v.dtype))

    def formula(v, g):
        v = v if mask is None else v * mask
        others = tuple(i for i in range(v.ndim) if i != dim)
        return v * (g / np.sqrt((v * v).sum(others, keepdims=True)))

    check_op(op, [v, g], formula)


def test_gradients_of_gradients_pass_a_slice_of_zeros():
    v, g = (
        tg.Tensor(x, requires_grad=True) for x in (np.eye(3)[[0, 1]] * [[1], [0]], np.ones((2, 1)))
    )
    (first,) = tg.grad((F.weight_norm(v, g) ** 2).sum(), [v], create_graph=True)
    second = tg.grad((first * np.arange(6.0).reshape(2, 3)).sum(), v)
    assert np.isfinite(second.data).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((2, 3), (2, 1)), {"dim": 2}, r"dim=2 is no axis of v \(2, 3\)"),
        (((2, 3), (2, 1)), {"dim": 1}, r"g \(2, 1\) for v \(2, 3\) and dim=1: expected \(1, 3\)"),
        (((2, 3), (2, 1)), {"mask": np.ones(3)}, r"mask \(3,\) must have the shape of v \(2, 3\)"),
    ],
)
def test_messages(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        F.weight_norm(*map(np.ones, arguments), **options)
