"""DRAW's windows: the paper's equations, CPU against reference, gradients, the tape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.cpu import window as cpu
from tinygen_kernels.reference import window as reference

from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

NAN = np.nan
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}
modules = pytest.mark.parametrize("module", [cpu, reference])
layouts = st.sampled_from(LAYOUTS)
rng = np.random.default_rng(0)


def draw(n, channels, height, width, size, dtype=np.float64, seed=0):
    """Images, patches and windows, which may be narrow, wide or partly beyond the edge."""
    rng = np.random.default_rng(seed)
    shapes = (n, channels, height, width), (n, channels, size, size), (n, 5)
    return [rng.normal(0, 0.8, shape).astype(dtype) for shape in shapes]


def assert_close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def filters(module, window, size, height, width):
    """F_y and F_x of one image, found by writing single pixels of a patch."""
    corner = np.zeros((size * size, 1, size, size))
    corner.reshape(size * size, -1)[...] = np.eye(size * size)
    windows = np.repeat(window[None], size * size, 0)
    products = module.write_window(corner, windows, height, width)[:, 0]
    return products.sum(2).reshape(size, size, -1)[:, 0], products.sum(1)[:size]


@modules
def test_filters_are_the_papers(module):
    """Equations 19 to 26 as they stand there, with pixels and filters counted from 1."""
    height, width, n = 7, 11, 4
    window = rng.uniform(-0.5, 0.5, 5)
    window[4] = 0
    gx, gy, log_variance, log_stride, _ = window
    stride = (max(height, width) - 1) / (n - 1) * math.exp(log_stride)
    rows, columns = filters(module, window, n, height, width)
    for found, length, g in ((columns, width, gx), (rows, height, gy)):
        g = (length + 1) / 2 * (g + 1)
        for i in range(1, n + 1):
            mu = g + (i - n / 2 - 0.5) * stride
            a = np.arange(1, length + 1)
            expected = np.exp(-((a - mu) ** 2) / (2 * math.exp(log_variance)))
            np.testing.assert_allclose(found[i - 1], expected / expected.sum(), rtol=1e-10)


@modules
@pytest.mark.parametrize("place", [0.0, 8.0, -9.0, 1e6, -1e6])
def test_filters_have_weight_1_wherever_they_are(module, place):
    window = np.array([place, 0.3, -3.0, -2.0, 0.0])
    _, columns = filters(module, window, 3, 6, 8)
    np.testing.assert_allclose(columns.sum(1), 1)
    if place:  # beyond the edge they see the edge
        np.testing.assert_allclose(columns[:, 0 if place < 0 else -1], 1)


@modules
def test_narrow_filters_pick_pixels_and_the_gain_scales(module):
    window = np.array([[0.0, 0.2, -20.0, math.log(0.5), math.log(3.0)]])
    image = rng.random((1, 2, 9, 9))  # centre (4, 5), every second pixel
    patch = module.read_window(image, window, 3)
    np.testing.assert_allclose(patch, 3 * image[:, :, 3:8:2, 2:7:2])


@modules
def test_a_window_moves_with_the_image(module):
    here = np.array([[0.1, -0.1, -0.7, math.log(0.2), 0.0]])
    there = here + np.array([2 / 21, -4 / 21, 0, 0, 0])  # a pixel to the right, two up
    image = np.zeros((1, 1, 20, 20))
    image[..., 6:13, 7:14] = rng.random((7, 7))
    first = module.read_window(image, here, 3)
    assert first.std() > 0.01
    moved = module.read_window(np.roll(image, (-2, 1), (2, 3)), there, 3)
    np.testing.assert_allclose(first, moved, rtol=1e-6)


@modules
def test_writing_is_the_transpose_of_reading(module):
    """<read(x), w> / γ = γ <x, write(w)>."""
    x, w, window = draw(2, 2, 5, 8, 3)
    window[:, 4] = 0.7
    a = (module.read_window(x, window, 3) * w).sum((1, 2, 3)) / math.exp(0.7)
    b = (module.write_window(w, window, 5, 8) * x).sum((1, 2, 3)) * math.exp(0.7)
    np.testing.assert_allclose(a, b)


@settings(max_examples=15)
@given(
    n=st.sampled_from([0, 1, 2, 19]),
    channels=st.integers(1, 3),
    height=st.sampled_from([1, 5, 28, 33]),
    width=st.sampled_from([1, 7, 32, 40]),
    size=st.sampled_from([1, 2, 5, 12]),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    layout=layouts,
    other=layouts,
    seed=st.integers(0, 99),
)
def test_cpu_agrees_with_reference(n, channels, height, width, size, dtype, layout, other, seed):
    images, patches, window = draw(n, channels, height, width, size, dtype, seed)
    x, p, w = in_layout(images, layout), in_layout(patches, other), in_layout(window, layout)
    tolerance = TOLERANCE[dtype]
    expected = reference.read_window(images, window, size)
    assert_close([cpu.read_window(x, w, size)], [expected], tolerance)
    expected = reference.read_window_grad(patches, images, window)
    assert_close(cpu.read_window_grad(p, x, w), expected, 10 * tolerance)
    expected = reference.write_window(patches, window, height, width)
    assert_close([cpu.write_window(p, w, height, width)], [expected], tolerance)
    expected = reference.write_window_grad(images, patches, window)
    assert_close(cpu.write_window_grad(x, p, w), expected, 10 * tolerance)


@modules
def test_nan_stays_with_its_image(module):
    images, patches, window = draw(3, 1, 6, 7, 2)
    window[1, 0] = NAN
    for found in (
        module.read_window(images, window, 2),
        *module.read_window_grad(patches, images, window),
        module.write_window(patches, window, 6, 7),
        *module.write_window_grad(images, patches, window),
    ):
        assert np.isnan(found[1]).any()
        assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_on_the_tape(order):
    images, patches, window = draw(2, 2, 4, 5, 2)
    gradcheck(lambda x, w: F.read_window(x, w, 2), [images, window], order=order)
    gradcheck(lambda p, w: F.write_window(p, w, 4, 5), [patches, window], order=order)


def test_mistakes_are_named():
    images, patches, window = map(Tensor, draw(2, 1, 4, 5, 2))
    with pytest.raises(ValueError, match=r"read_window: .* a window \(N, 5\), got .* \(2, 4\)"):
        F.read_window(images, window[:, :4], 2)
    with pytest.raises(ValueError, match="read_window: size=0;"):
        F.read_window(images, window, 0)
    with pytest.raises(ValueError, match=r"write_window: patches .* must be square"):
        F.write_window(images, window, 4, 5)
    with pytest.raises(TypeError, match=r"write_window: .*float32"):
        F.write_window(patches.float(), window, 4, 5)
