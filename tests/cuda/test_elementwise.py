"""Activations and chains on the GPU against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import elementwise as reference

NAMES = tuple(reference.SAVED)
PARAMS = {"leaky_relu": 0.2, "elu": 1.3}
TOLERANCE = {np.float32: {"rtol": 3e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-14}}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 88.5, -88.5, 1e4, -1e4]

each_name = pytest.mark.parametrize("name", NAMES)
each_form = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 7, 13]), max_size=4).map(tuple)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def kernels(cuda_kernels):
    return cuda_kernels("elementwise")


def saved_by(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x if reference.SAVED[name] == "input" else y


@each_name
@given(dtypes, shapes, layouts, layouts, seeds, st.booleans())
@settings(max_examples=15)
def test_activations_equal_the_reference(kernels, name, dtype, shape, layout, other, seed, plain):
    rng = np.random.default_rng(seed)
    param = PARAMS.get(name, 0.0)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    wide = reference.activation(x.astype(np.float64), name, param)
    there = to_gpu(in_layout(x, layout))
    y = kernels._activation(there, name, param, plain=plain)
    assert y.dtype == dtype
    np.testing.assert_allclose(to_cpu(y), wide, **TOLERANCE[dtype])

    saved = saved_by(name, x, wide.astype(dtype))
    expected = reference.activation_grad(grad, saved.astype(np.float64), name, param)
    grad_x = kernels._activation_grad(
        to_gpu(in_layout(grad, other)), to_gpu(in_layout(saved, layout)), name, param, plain=plain
    )
    assert grad_x.dtype == dtype
    np.testing.assert_allclose(to_cpu(grad_x), expected, **TOLERANCE[dtype])


@each_form
@each_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_infinities_and_nan(kernels, name, dtype, plain):
    x = np.array(SPECIAL, dtype)
    param = PARAMS.get(name, 0.0)
    with np.errstate(all="ignore"):
        expected = reference.activation(x, name, param)
        saved = saved_by(name, x, expected)
        expected_grad = reference.activation_grad(np.ones_like(x), saved, name, param)
    y = to_cpu(kernels._activation(to_gpu(x), name, param, plain=plain))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-37)
    assert np.isnan(y[4])
    grad = kernels._activation_grad(
        to_gpu(np.ones_like(x)), to_gpu(saved), name, param, plain=plain
    )
    np.testing.assert_allclose(to_cpu(grad), expected_grad, rtol=1e-5, atol=1e-30)


def test_memory_order_is_kept(kernels):
    x = in_layout(np.arange(-12.0, 12.0, dtype=np.float32).reshape(1, 2, 3, 4), "channels_last")
    y = kernels.activation(to_gpu(x), "relu")
    assert y.strides == x.strides
    assert kernels.activation_grad(
        to_gpu(np.ones((1, 2, 3, 4), np.float32)), y, "relu"
    ).strides == (x.strides)
    assert kernels.chain(to_gpu(x), [("neg",)]).strides == x.strides


def test_a_small_grid_strides_over_the_rest(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "_MOST_BLOCKS", 2)
    for n in (256 * 4 * 2 * 2 + 5, 2048):
        x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
        for start in (0, 1):  # aligned and not
            found = to_cpu(kernels.activation(to_gpu(x)[start:], "relu"))
            np.testing.assert_array_equal(found, np.maximum(x[start:], 0))


@st.composite
def chains(draw):
    """An array and legal steps, whose operands are numbers, arrays of its shape and biases."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=1, max_size=4).map(tuple))
    x = in_layout(rng.standard_normal(shape).astype(dtype), draw(layouts))
    steps = []
    for name in draw(st.lists(st.sampled_from(reference.STEPS), max_size=8)):
        if name in NAMES:
            steps.append((name, PARAMS[name]) if name in PARAMS else (name,))
        elif name in reference._UNARY:
            steps.append((name,))
        else:
            steps.append((name, draw_operand(draw, rng, x)))
    arrays = [i for i, step in enumerate(steps) if isinstance(step[-1], np.ndarray)]
    for i in arrays[reference.MAX_ARRAYS :]:
        steps[i] = (steps[i][0], 0.75)
    return x, steps


def draw_operand(draw, rng: np.random.Generator, x: np.ndarray):
    kind = draw(st.sampled_from(["number", "whole", "bias", "one", "channel"]))
    if kind == "number":
        return draw(st.sampled_from([-1.5, 0.0, 0.25, 3]))
    if kind == "whole":
        shape, layout = x.shape, draw(layouts)
    elif kind == "one":
        shape, layout = (1,) * draw(st.integers(0, x.ndim)), "C"
    elif kind == "bias":
        shape, layout = x.shape[-1:], draw(st.sampled_from(["C", "strided", "reversed"]))
    else:
        axis = draw(st.integers(0, x.ndim - 1))
        shape, layout = (x.shape[axis], *(1,) * (x.ndim - 1 - axis)), "C"
    values = rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)
    return in_layout(np.asarray(values).astype(x.dtype), layout)


def on_gpu(steps) -> list[tuple]:
    return [(n, *(to_gpu(b) if isinstance(b, np.ndarray) else b for b in bs)) for n, *bs in steps]


@given(chains(), st.booleans())
@settings(max_examples=60)
def test_chains_equal_the_reference(kernels, case, plain):
    x, steps = case
    there = to_gpu(x)
    with np.errstate(all="ignore"):
        expected = reference.chain(x, steps)
    found = kernels._chain(there, on_gpu(steps), plain=plain)
    assert found.dtype == x.dtype
    assert_close_chain(to_cpu(found), expected, x, steps)


def assert_close_chain(found, expected, x, steps):
    """Equal up to what a change of every step's result by some ulp would do."""
    eps = 8 * np.finfo(x.dtype).eps
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        spread = np.zeros(x.shape)
        for _ in range(6):
            y = x.copy()
            for name, operand in reference.read_chain(x, steps):
                y = reference.apply_step(y, name, operand)
                y = y * (1 + rng.choice([-eps, eps], y.shape)).astype(x.dtype)
            spread = np.fmax(spread, np.abs(y - expected))
    finite = np.isfinite(expected) & np.isfinite(spread)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    found, expected, spread = found[finite], expected[finite], spread[finite]
    assert (np.abs(found - expected) <= 4 * spread + eps * np.abs(expected)).all()


@each_form
def test_a_reparametrised_sample(kernels, plain):
    rng = np.random.default_rng(0)
    mean, log_std, eps = rng.standard_normal((3, 33, 7)).astype(np.float32)
    steps = [("exp",), ("mul", eps), ("add", mean)]
    found = to_cpu(kernels._chain(to_gpu(log_std), on_gpu(steps), plain=plain))
    np.testing.assert_allclose(found, mean + np.exp(log_std) * eps, rtol=2e-6, atol=1e-6)


@each_form
def test_an_operand_at_an_odd_address(kernels, plain):
    x, b = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    odd = to_gpu(np.concatenate([b[:1], b]))[1:]
    found = to_cpu(kernels._chain(to_gpu(x), [("add", odd), ("mul", odd)], plain=plain))
    np.testing.assert_allclose(found, (x + b) * b, rtol=1e-6)


@each_form
def test_a_bias_on_channels_last_memory(kernels, plain):
    """Along the innermost axis of memory, and along one whose places lie 6 elements apart."""
    x = in_layout(np.arange(120, dtype=np.float32).reshape(2, 5, 4, 3), "channels_last")
    for b in (np.arange(5.0)[:, None, None], np.arange(3.0), np.arange(4.0)[:, None]):
        b = b.astype(np.float32)
        found = kernels._chain(to_gpu(x), [("mul", to_gpu(b))], plain=plain)
        np.testing.assert_array_equal(to_cpu(found), x * b)


def test_an_operand_that_repeats_one_number(cupy, kernels, monkeypatch):
    """The gradient of a mean: its elements share one place in memory, and stay there."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    grad = cupy.broadcast_to(to_gpu(np.float32(0.25)), (3, 4))
    monkeypatch.setattr(kernels, "dense_like", None)
    found = kernels.chain(to_gpu(x), [("mul", 2.0), ("mul", grad)])
    np.testing.assert_array_equal(to_cpu(found), x / 2)


def test_nan_travels_through_a_chain(kernels):
    nan = np.array([np.nan, 1, np.nan, -1], np.float32)
    other = np.array([1, np.nan, np.nan, -2], np.float32)
    for name in ("max", "min"):
        found = to_cpu(kernels.chain(to_gpu(nan), [(name, to_gpu(other))]))
        np.testing.assert_array_equal(found, reference.chain(nan, [(name, other)]))


def test_an_empty_chain_copies(kernels):
    x = to_gpu(np.arange(5.0))
    y = kernels.chain(x, [])
    assert y.data.ptr != x.data.ptr
    np.testing.assert_array_equal(to_cpu(y), np.arange(5.0))
    assert kernels.chain(to_gpu(np.ones((0, 3))), [("add", to_gpu(np.ones(3)))]).shape == (0, 3)


def test_errors(kernels):
    x = to_gpu(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="'swish' is not one of relu, leaky_relu"):
        kernels.activation(x, "swish")
    with pytest.raises(ValueError, match=r"leaky_relu with the parameter -0.1: it must be at"):
        kernels.activation(x, "leaky_relu", -0.1)
    with pytest.raises(ValueError, match=r"operand of shape \(2,\) for x of shape \(2, 3\)"):
        kernels.chain(x, [("add", to_gpu(np.ones(2, np.float32)))])
    with pytest.raises(TypeError, match="mul of float64 to float32"):
        kernels.chain(x, [("mul", to_gpu(np.ones(3)))])
