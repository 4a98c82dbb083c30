"""DRAW's windows on the GPU against the definition: both versions, every size and layout."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import window as reference

NAN = np.nan
TOLERANCE = {np.dtype("float32"): 2e-5, np.dtype("float64"): 4e-13}
layouts = st.sampled_from(LAYOUTS)
versions = pytest.mark.parametrize("version", ["plain", "fused"])


def draw(n, channels, height, width, size, dtype=np.float32, seed=0):
    """Images, patches and windows, which may be narrow, wide or partly beyond the edge."""
    rng = np.random.default_rng(seed)
    shapes = (n, channels, height, width), (n, channels, size, size), (n, 5)
    return [rng.normal(0, 0.8, shape).astype(dtype) for shape in shapes]


def expected(images, patches, window):
    """Of the four functions: the patches, two gradients, the images, two gradients; in float64,
    then rounded."""
    dtype = window.dtype
    images, patches, window = (x.astype(np.float64) for x in (images, patches, window))
    results = [
        reference.read_window(images, window, patches.shape[2]),
        *reference.read_window_grad(patches, images, window),
        reference.write_window(patches, window, *images.shape[2:]),
        *reference.write_window_grad(images, patches, window),
    ]
    return [x.astype(dtype) for x in results]


def on_gpu(cuda, images, patches, window):
    return [
        cuda.read_window(images, window, patches.shape[2]),
        *cuda.read_window_grad(patches, images, window),
        cuda.write_window(patches, window, *images.shape[2:]),
        *cuda.write_window_grad(images, patches, window),
    ]


def run(cuda, version, *inputs):
    """The same through one version."""
    with mock.patch.object(cuda, "choose", return_value=version):
        return on_gpu(cuda, *map(to_gpu, inputs))


def assert_close(got, wanted):
    for a, b in zip(map(to_cpu, got), wanted, strict=True):
        tolerance = TOLERANCE[b.dtype]
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@versions
@settings(max_examples=12)
@given(
    n=st.sampled_from([0, 1, 3]),
    channels=st.integers(0, 3),
    height=st.sampled_from([1, 5, 28]),
    width=st.sampled_from([1, 7, 33]),
    size=st.sampled_from([1, 2, 5, 9]),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    layout=layouts,
    other=layouts,
    seed=st.integers(0, 99),
)
def test_agrees_with_reference(
    cuda_kernels, version, n, channels, height, width, size, dtype, layout, other, seed
):
    images, patches, window = draw(n, channels, height, width, size, dtype, seed)
    inputs = in_layout(images, layout), in_layout(patches, other), in_layout(window, layout)
    got = run(cuda_kernels("window"), version, *inputs)
    assert_close(got, expected(images, patches, window))


def test_more_filters_than_warps_on_a_larger_image(cuda_kernels):
    inputs = draw(1, 1, 50, 64, 12, np.float64)
    got = run(cuda_kernels("window"), "fused", *inputs)
    assert_close(got, expected(*inputs))


@versions
@pytest.mark.parametrize("place", [8.0, -9.0, 1e6, -1e6])
def test_beyond_the_edge_a_filter_sees_the_edge(cuda_kernels, version, place):
    images, patches, _ = draw(1, 1, 6, 8, 3, np.float64)
    window = np.array([[place, 0.3, -3.0, -2.0, 0.0]])
    got = run(cuda_kernels("window"), version, images, patches, window)
    assert_close(got, expected(images, patches, window))
    weights = to_cpu(got[3]).sum(2)[0, 0]  # of the columns in what was written
    edge = 0 if place < 0 else 7
    only = np.where(np.arange(8) == edge, patches.sum(), 0)
    np.testing.assert_allclose(weights, only, rtol=1e-8, atol=1e-99)


@versions
def test_nan_stays_with_its_image(cuda_kernels, version):
    images, patches, window = draw(3, 1, 6, 7, 2)
    window[1, 0] = NAN
    got = run(cuda_kernels("window"), version, images, patches, window)
    for found in map(to_cpu, got):
        assert np.isnan(found[1]).any()
        assert np.isfinite(found[[0, 2]]).all()


def test_what_fits_is_fused(cuda_kernels):
    cuda = cuda_kernels("window")
    inputs = draw(2, 2, 6, 7, 3)
    forwards, backwards = cuda.shared_bytes(3, 6, 7, 4)
    for most_shared, fused in (
        (backwards, {"read_fused", "write_fused", "grad_fused"}),
        (backwards - 1, {"read_fused", "write_fused"}),
        (forwards - 1, set()),
    ):
        with (
            mock.patch.object(cuda, "_most_shared", return_value=most_shared),
            mock.patch.object(cuda.FUSED, "kernel", wraps=cuda.FUSED.kernel) as kernel,
        ):
            assert_close(on_gpu(cuda, *map(to_gpu, inputs)), expected(*inputs))
        assert {call.args[0] for call in kernel.call_args_list} == fused
