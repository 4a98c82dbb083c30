"""Convolution: CPU against the definition, the definition against PyTorch."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.cpu import conv as cpu
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import conv as reference

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**20)
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, least_batch: int = 0):
    """Shapes of input and weight, and options: groups, and few or many channels."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = st.sampled_from([1, 2, 3, 5, 17] if groups == 1 else [1, 2, 3])
    c, o = groups * draw(channels), groups * draw(channels)
    options = {
        "stride": draw(pairs(1, 3)),
        "padding": draw(pairs(0, 3)),
        "dilation": draw(pairs(1, 3)),
        "groups": groups,
    }
    kernel_size = draw(pairs(1, 4))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 6))
        for k, p, d in zip(kernel_size, options["padding"], options["dilation"], strict=True)
    ]
    n = draw(st.integers(least_batch, 3))
    return (n, c, *size), (o, c // groups, *kernel_size), options


def case(x, weight, stride=1, padding=0, dilation=1, groups=1):
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return x, weight, {**{k: (v, v) for k, v in options.items()}, "groups": groups}


SPECIAL = {
    "1x1": case((2, 5, 4, 3), (7, 5, 1, 1)),
    "1x1 with stride": case((2, 5, 4, 3), (7, 5, 1, 1), stride=2),
    "1x1 with padding": case((2, 5, 4, 3), (7, 5, 1, 1), padding=1),
    "covers the input": case((3, 5, 4, 3), (7, 5, 4, 3)),
    "covers the input, stride 2": case((3, 5, 4, 3), (7, 5, 4, 3), stride=2),
    "covers the input, 2 groups": case((3, 4, 4, 4), (6, 2, 4, 4), groups=2),
    "stride above the kernel": case((2, 3, 11, 10), (4, 3, 2, 2), stride=3),
    "stride above the kernel, many channels": case((2, 20, 11, 10), (4, 20, 2, 2), stride=3),
    "padding above the kernel": case((2, 18, 4, 5), (3, 18, 2, 2), padding=3),
    "one output far inside": case((1, 2, 9, 9), (3, 2, 3, 3), stride=9, dilation=4),
    "several blocks and splits": case((7, 3, 42, 43), (5, 3, 4, 4), stride=2, padding=1),
    "several phases of blocks": case((7, 17, 31, 32), (6, 17, 4, 4), stride=2, padding=1),
    "deep rows of taps": case((2, 140, 6, 5), (9, 140, 3, 3), padding=1),
    "dilated, many channels": case((2, 17, 9, 12), (4, 17, 3, 3), padding=2, dilation=2),
    "depthwise": case((2, 6, 7, 8), (6, 1, 3, 3), padding=1, groups=6),
    "no input channels": case((2, 0, 5, 5), (3, 0, 3, 3)),
    "no input channels, 2 groups": case((2, 0, 5, 5), (4, 0, 3, 3), groups=2),
    "no output channels": case((2, 3, 5, 5), (0, 3, 3, 3)),
    "one output channel": case((2, 17, 6, 5), (1, 17, 4, 3), stride=2, padding=1),
    "no images": case((0, 3, 5, 5), (4, 3, 3, 3)),
}
special = pytest.mark.parametrize("problem", SPECIAL.values(), ids=SPECIAL.keys())


def numbers(shape, dtype, rng) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def products(kernels, problem, dtype, seed=0, arrange=lambda x: x):
    """Output, input gradient and weight gradient, with bias and without."""
    x_shape, weight_shape, options = problem
    rng = np.random.default_rng(seed)
    x, weight = arrange(numbers(x_shape, dtype, rng)), arrange(numbers(weight_shape, dtype, rng))
    bias = arrange(numbers(weight_shape[:1], dtype, rng))
    y = kernels.conv2d(x, weight, bias, **options)
    grad = arrange(numbers(y.shape, dtype, rng))
    channels_bias = arrange(numbers(x_shape[1:2], dtype, rng))
    sizes = {"input_size": x_shape[2:], **options}
    return {
        "y": y,
        "y without bias": kernels.conv2d(x, weight, **options),
        "gx": kernels.conv2d_input_grad(grad, weight, **sizes),
        "gx with bias": kernels.conv2d_input_grad(grad, weight, channels_bias, **sizes),
        "gw": kernels.conv2d_weight_grad(x, grad, kernel_size=weight_shape[2:], **options),
    }


def check_equal(problem, dtype, seed=0, arrange=lambda x: x):
    expected = products(reference, problem, dtype, seed)
    for name, value in products(cpu, problem, dtype, seed, arrange).items():
        assert value.dtype == dtype
        assert value.shape == expected[name].shape
        assert is_channels_last(value), name
        scale = np.max(np.abs(expected[name]), initial=1.0)
        np.testing.assert_allclose(
            value, expected[name], 0, TOLERANCE[dtype] * scale, err_msg=name
        )


@settings(max_examples=60)
@given(problems(), dtypes, layouts, seeds)
def test_equals_reference(problem, dtype, layout, seed):
    check_equal(problem, dtype, seed, lambda x: in_layout(x, layout))


@special
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_reference_in_special_cases(problem, dtype):
    check_equal(problem, dtype)


@settings(max_examples=20)
@given(problems(least_batch=1), seeds)
def test_reference_equals_torch(problem, seed):
    check_torch(problem, seed)


@pytest.mark.parametrize("name", [name for name in SPECIAL if not name.startswith("no ")])
def test_reference_equals_torch_in_special_cases(name):
    check_torch(SPECIAL[name], 0)


def check_torch(problem, seed):
    torch = pytest.importorskip("torch")
    x_shape, weight_shape, options = problem
    found = products(reference, problem, np.float64, seed)
    rng = np.random.default_rng(seed)  # draws what `products` draws
    x, weight, bias = (
        torch.tensor(numbers(shape, np.float64, rng), requires_grad=True)
        for shape in (x_shape, weight_shape, weight_shape[:1])
    )
    y = torch.nn.functional.conv2d(x, weight, bias, **options)
    y.backward(torch.tensor(numbers(y.shape, np.float64, rng)))
    for name, value in (("y", y), ("gx", x.grad), ("gw", weight.grad)):
        np.testing.assert_allclose(found[name], value.detach(), 1e-11, 1e-11, err_msg=name)


@special
def test_any_number_of_threads_gives_the_same_bits(problem):
    threads = numba.get_num_threads()
    first = products(cpu, problem, np.float32)
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for name, value in products(cpu, problem, np.float32).items():
                np.testing.assert_array_equal(value, first[name], err_msg=name)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("channels", [3, 17])  # the input gradient's two ways
def test_nan_and_infinity_reach_every_result_that_reads_them(channels):
    rng = np.random.default_rng(0)
    options = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    x, weight = rng.standard_normal((2, channels, 13, 12)), rng.uniform(1, 2, (5, channels, 4, 4))
    grad = rng.standard_normal((2, 5, 6, 6))
    x[0, 1, 2, 3], x[1, 2, 9, 9] = np.nan, np.inf
    grad[0, 1, 1, 2], grad[1, 2, 4, 4] = np.nan, -np.inf
    for name, args, sizes in [
        ("conv2d", (x, weight), {}),
        ("conv2d_input_grad", (grad, weight), {"input_size": (13, 12)}),
        ("conv2d_weight_grad", (x, grad), {"kernel_size": (4, 4)}),
    ]:
        with np.errstate(invalid="ignore"):  # NumPy warns of Inf - Inf
            expected = getattr(reference, name)(*args, **sizes, **options)
        assert not np.isfinite(expected).all()
        value = getattr(cpu, name)(*args, **sizes, **options)
        np.testing.assert_allclose(value, expected, 1e-10, 1e-10, err_msg=name)


def test_long_sums_keep_their_digits():
    """A weight gradient over 10⁵ pixels, in float32, of values with a common part."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.5, (4, 2, 160, 160)).astype(np.float32)
    grad = rng.uniform(0.5, 1.5, (4, 3, 160, 160)).astype(np.float32)
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    found = cpu.conv2d_weight_grad(x, grad, kernel_size=(3, 3), **options)
    expected = reference.conv2d_weight_grad(
        x.astype(np.float64), grad.astype(np.float64), kernel_size=(3, 3), **options
    )
    np.testing.assert_allclose(found, expected, 1e-5)
    assert math.isclose(expected.max(), 4 * 160 * 160, rel_tol=0.02)


def test_inputs_are_left_alone():
    problem = SPECIAL["several phases of blocks"]
    seen = []

    def remember(x):
        seen.append((x, x.copy()))
        return x

    products(cpu, problem, np.float32, 0, remember)
    assert len(seen) == 5
    for array, before in seen:
        np.testing.assert_array_equal(array, before)
