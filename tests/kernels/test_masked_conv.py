"""Masked convolution: the definition against a full convolution whose other weights are zero."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import conv, masked_conv

seeds = st.integers(0, 2**20)


@st.composite
def problems(draw):
    """Shapes of input and weight, and options; any taps of the kernel in any order."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    every = list(itertools.product(range(kernel[0]), range(kernel[1])))
    taps = draw(st.lists(st.sampled_from(every), unique=True))
    size = [
        max(1, k - 2 * p) + draw(st.integers(0, 5)) for k, p in zip(kernel, padding, strict=True)
    ]
    n, c, o = draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {"taps": tuple(taps), "kernel_size": kernel, "padding": padding}
    return (n, c, *size), (o, c, len(taps)), options


def full(weight, taps, kernel_size):
    """The weights (O, C, KH, KW) with zeros for the taps that are not live."""
    spread = np.zeros((*weight.shape[:2], *kernel_size))
    for index, (kh, kw) in enumerate(taps):
        spread[:, :, kh, kw] = weight[..., index]
    return spread


@settings(max_examples=60)
@given(problems(), seeds)
def test_reference_equals_a_convolution_with_zeros(problem, seed):
    x_shape, weight_shape, options = problem
    taps, kernel_size, padding = options.values()
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal(x_shape), rng.standard_normal(weight_shape)
    bias = rng.standard_normal(weight_shape[0])
    plain = {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1}
    spread = full(weight, taps, kernel_size)

    y = masked_conv.masked_conv2d(x, weight, bias, **options)
    np.testing.assert_allclose(y, conv.conv2d(x, spread, bias, **plain), 1e-12, 1e-12)
    without = masked_conv.masked_conv2d(x, weight, **options)
    np.testing.assert_allclose(without, conv.conv2d(x, spread, **plain), 1e-12, 1e-12)

    grad = rng.standard_normal(y.shape)
    gx = masked_conv.masked_conv2d_input_grad(grad, weight, input_size=x_shape[2:], **options)
    expected = conv.conv2d_input_grad(grad, spread, input_size=x_shape[2:], **plain)
    np.testing.assert_allclose(gx, expected, 1e-12, 1e-12)

    gw = masked_conv.masked_conv2d_weight_grad(x, grad, **options)
    assert gw.shape == weight_shape
    expected = conv.conv2d_weight_grad(x, grad, kernel_size=kernel_size, **plain)
    for index, (kh, kw) in enumerate(taps):
        np.testing.assert_allclose(gw[..., index], expected[..., kh, kw], 1e-12, 1e-12)


def test_the_mask_of_a_pixelcnn_sees_the_past_only():
    """With the taps above, and to the left, changing a pixel changes none before it."""
    taps = tuple((kh, kw) for kh in range(3) for kw in range(3) if (kh, kw) < (1, 1))
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 2, 5, 6)), rng.standard_normal((3, 2, len(taps)))
    options = {"taps": taps, "kernel_size": (3, 3), "padding": (1, 1)}
    changed = x.copy()
    changed[0, :, 2, 3] += 1
    before, after = (masked_conv.masked_conv2d(v, weight, **options)[0] for v in (x, changed))
    differs = (before != after).any(0)
    assert not differs.ravel()[: 2 * 6 + 3 + 1].any()
    assert differs.any()
