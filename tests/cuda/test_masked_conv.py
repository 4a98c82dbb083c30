"""Masked convolution on a GPU against the definition.

Small whole numbers are exact in every arithmetic, so every version must give the very numbers.
"""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import masked_conv as reference

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**20)
MODES = ("fp32", "tf32", "bf16")
PAST = tuple((kh, kw) for kh in range(5) for kw in range(5) if (kh, kw) < (2, 2))


@st.composite
def problems(draw, least: int = 0):
    """Shapes of input and weight, and options; any taps of the kernel in any order."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    every = list(itertools.product(range(kernel[0]), range(kernel[1])))
    taps = draw(st.lists(st.sampled_from(every), min_size=least, unique=True))
    size = [
        max(1, k - 2 * p) + draw(st.integers(0, 5)) for k, p in zip(kernel, padding, strict=True)
    ]
    channels = st.sampled_from([1, 3, 4, 8, 17])
    n, c, o = draw(st.integers(least, 2)), draw(channels), draw(channels)
    options = {"taps": tuple(taps), "kernel_size": kernel, "padding": padding}
    return (n, c, *size), (o, c, len(taps)), options


def whole(shape, dtype, rng) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(dtype)


def products(kernels, problem, numbers, seed=0, dtype=np.float32, arrange=lambda x: x):
    x_shape, weight_shape, options = problem
    rng = np.random.default_rng(seed)
    out_size = [
        i + 2 * p - k + 1
        for i, p, k in zip(x_shape[2:], options["padding"], options["kernel_size"], strict=True)
    ]
    shapes = x_shape, weight_shape, weight_shape[:1], (x_shape[0], weight_shape[0], *out_size)
    x, weight, bias, grad = (arrange(numbers(shape, dtype, rng)) for shape in shapes)
    return {
        "y": kernels.masked_conv2d(x, weight, bias, **options),
        "y without bias": kernels.masked_conv2d(x, weight, **options),
        "gx": kernels.masked_conv2d_input_grad(grad, weight, input_size=x_shape[2:], **options),
        "gw": kernels.masked_conv2d_weight_grad(x, grad, **options),
    }


def check_exact(masked_conv, problem, seed=0, dtype=np.float32, layout="C"):
    expected = products(reference, problem, whole, seed, dtype)
    arrange = lambda x: to_gpu(in_layout(x, layout))  # noqa: E731
    for name, value in products(masked_conv, problem, whole, seed, dtype, arrange).items():
        assert value.dtype == dtype
        assert is_channels_last(value), name
        np.testing.assert_array_equal(to_cpu(value), expected[name], err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12)
@given(problems(), layouts, seeds)
def test_equals_the_definition(cuda_kernels, mode, problem, layout, seed):
    with cuda_kernels("precision").precision(mode):
        check_exact(cuda_kernels("masked_conv"), problem, seed, layout=layout)


@settings(max_examples=12)
@given(problems(), dtypes, layouts, seeds)
def test_the_plain_version_equals_the_definition(cuda_kernels, problem, dtype, layout, seed):
    with mock.patch.object(cuda_kernels("conv"), "planned", return_value=None):
        check_exact(cuda_kernels("masked_conv"), problem, seed, dtype, layout)


@settings(max_examples=8)
@given(problems(least=1), seeds)
def test_float32_multiplies_live_taps_only(cuda_kernels, problem, seed):
    """Every product's depth, or a weight gradient's width, counts them."""
    gemm, (_, (o, c, live), _) = cuda_kernels("gemm"), problem
    seen = []
    multiply = gemm.multiply

    def spy(product, *arguments):
        seen.append(product.n if product.kind == "weight_grad" else product.k)
        multiply(product, *arguments)

    with mock.patch.object(gemm, "multiply", spy):
        check_exact(cuda_kernels("masked_conv"), problem, seed)
    assert seen == [live * c, live * c, live * o, live * c]


@pytest.mark.parametrize("mode", MODES)
def test_the_past_of_a_pixel(cuda_kernels, mode):
    options = {"taps": PAST, "kernel_size": (5, 5), "padding": (2, 2)}
    with cuda_kernels("precision").precision(mode):
        check_exact(cuda_kernels("masked_conv"), ((2, 12, 9, 8), (20, 12, len(PAST)), options))


def test_float64_is_not_rounded(cuda_kernels):
    def normal(shape, dtype, rng):
        return rng.standard_normal(shape).astype(dtype)

    options = {"taps": PAST, "kernel_size": (5, 5), "padding": (2, 2)}
    problem = (2, 3, 6, 7), (4, 3, len(PAST)), options
    expected = products(reference, problem, normal, dtype=np.float64)
    found = products(cuda_kernels("masked_conv"), problem, normal, 0, np.float64, to_gpu)
    for name, value in found.items():
        np.testing.assert_allclose(to_cpu(value), expected[name], 1e-13, 1e-13, err_msg=name)


def test_more_taps_than_a_launch_takes(cuda_kernels):
    """The core takes 256; then the plain version, up to 900; then an error that names the cure."""
    taps = tuple(itertools.product(range(31), range(31)))
    for live in (256, 257, 900):
        options = {"taps": taps[-live:], "kernel_size": (31, 31), "padding": (15, 15)}
        check_exact(cuda_kernels("masked_conv"), ((1, 2, 3, 4), (2, 2, live), options))
    options = {"taps": taps, "kernel_size": (31, 31), "padding": (15, 15)}
    with pytest.raises(ValueError, match="961 live taps, at most 900 fit a launch; use conv2d"):
        check_exact(cuda_kernels("masked_conv"), ((1, 2, 3, 4), (2, 2, 961), options))
