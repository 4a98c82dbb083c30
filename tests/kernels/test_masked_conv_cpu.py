"""Masked convolution: the CPU against the definition, and against a convolution with zeros."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import conv
from tinygen_kernels.cpu import masked_conv as cpu
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import masked_conv as reference

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


def mask(size, centre):
    """PixelCNN's live taps of a size x size kernel: A without its centre, B with it."""
    middle = size // 2
    before = [(kh, kw) for kh in range(middle) for kw in range(size)]
    return tuple(before + [(middle, kw) for kw in range(middle + centre)])


@st.composite
def problems(draw):
    """(shape of x, output channels, options): any taps, in any order, or a PixelCNN mask."""
    kernel_size, padding = draw(pairs(1, 4)), draw(pairs(0, 3))
    everywhere = [(kh, kw) for kh in range(kernel_size[0]) for kw in range(kernel_size[1])]
    taps = draw(st.lists(st.sampled_from(everywhere), unique=True))
    if draw(st.booleans()):
        taps = sorted(taps)
    size = [
        max(1, k - 2 * p) + draw(st.integers(0, 6))
        for k, p in zip(kernel_size, padding, strict=True)
    ]
    channels = st.sampled_from([1, 2, 5, 17])
    options = {"taps": tuple(taps), "kernel_size": kernel_size, "padding": padding}
    return (draw(st.integers(0, 3)), draw(channels), *size), draw(channels), options


def case(x_shape, o, size, centre):
    options = {"taps": mask(size, centre), "kernel_size": (size, size)}
    return x_shape, o, {**options, "padding": (size // 2, size // 2)}


SPECIAL = {
    "7x7 A": case((3, 1, 28, 28), 32, 7, False),
    "3x3 B, several blocks": case((5, 16, 19, 23), 16, 3, True),
    "5x5 B, deep rows of taps": case((2, 140, 6, 5), 9, 5, True),
    "1x1 B": case((2, 17, 5, 4), 3, 1, True),
    "1x1 A, nothing left": case((2, 3, 5, 4), 3, 1, False),
    "3x3 B, one column": case((2, 5, 9, 1), 4, 3, True),
    "1x1 B, many channels": case((2, 33, 5, 4), 35, 1, True),
    "a map larger than a block": case((1, 3, 2, 450), 16, 3, True),
    "no images": case((0, 3, 5, 4), 3, 3, True),
    "no input channels": case((2, 0, 5, 4), 3, 3, True),
    "no output channels": case((2, 3, 5, 4), 0, 3, True),
    "a row": case((2, 5, 1, 9), 4, 3, True),
}


def products(kernels, problem, dtype, seed=0, arrange=lambda x: x):
    """Output with bias and without, input gradient and weight gradient."""
    x_shape, o, options = problem
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return arrange(rng.standard_normal(shape).astype(dtype))

    x, weight = numbers(*x_shape), numbers(o, x_shape[1], len(options["taps"]))
    y = kernels.masked_conv2d(x, weight, numbers(o), **options)
    grad = numbers(*y.shape)
    return {
        "y": y,
        "y without bias": kernels.masked_conv2d(x, weight, **options),
        "gx": kernels.masked_conv2d_input_grad(grad, weight, input_size=x_shape[2:], **options),
        "gw": kernels.masked_conv2d_weight_grad(x, grad, **options),
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


@given(problems(), st.sampled_from([*TOLERANCE]), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_equals_reference(problem, dtype, layout, seed):
    check_equal(problem, dtype, seed, lambda x: in_layout(x, layout))


@pytest.mark.parametrize("problem", SPECIAL.values(), ids=SPECIAL.keys())
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_reference_in_special_cases(problem, dtype):
    check_equal(problem, dtype)


def test_more_output_than_the_taps_reach():
    """Taps that lie beside the map for every output pixel give the bias."""
    x = np.ones((2, 3, 2, 2), np.float32)
    options = {"taps": ((0, 0), (6, 6)), "kernel_size": (7, 7), "padding": (3, 3)}
    y = cpu.masked_conv2d(x, np.ones((5, 3, 2), np.float32), np.arange(5.0, dtype="f4"), **options)
    np.testing.assert_array_equal(y, np.arange(5.0)[None, :, None, None] + 0 * y)


@pytest.mark.parametrize(("size", "centre"), [(7, False), (5, True), (3, True)])
def test_is_a_convolution_with_zeros(size, centre):
    (_, channels, *_), o, options = case((2, 5, 9, 8), 6, size, centre)
    rng = np.random.default_rng(0)
    x, packed = rng.standard_normal((2, channels, 9, 8)), np.zeros((o, channels, size, size))
    live = rng.standard_normal((o, channels, len(options["taps"])))
    for tap, (kh, kw) in enumerate(options["taps"]):
        packed[:, :, kh, kw] = live[:, :, tap]
    plain = {"stride": (1, 1), "padding": options["padding"], "dilation": (1, 1), "groups": 1}
    y = cpu.masked_conv2d(x, live, **options)
    np.testing.assert_allclose(y, conv.conv2d(x, packed, **plain), 0, 1e-13)


@pytest.mark.parametrize("name", ["7x7 A", "3x3 B, several blocks"])
def test_any_number_of_threads_gives_the_same_bits(name):
    threads = numba.get_num_threads()
    first = products(cpu, SPECIAL[name], np.float32)
    try:
        numba.set_num_threads(1)
        for key, value in products(cpu, SPECIAL[name], np.float32).items():
            np.testing.assert_array_equal(value, first[key], err_msg=key)
    finally:
        numba.set_num_threads(threads)


def test_a_masked_pixel_has_no_influence():
    """Not even as NaN, which a product with zero would let through."""
    x_shape, o, options = case((1, 2, 7, 7), 3, 3, False)
    x = np.zeros(x_shape, np.float32)
    x[0, 0, 3, 4] = np.nan
    y = cpu.masked_conv2d(x, np.ones((o, 2, len(options["taps"])), np.float32), **options)
    reached = np.zeros((7, 7), bool)
    reached[3, 5] = reached[4, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y[0, 0]), reached)
