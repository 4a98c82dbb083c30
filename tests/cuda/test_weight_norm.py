"""Weight normalisation on the GPU against the definition: every size class, layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import weight_norm as reference

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
# Rows and columns with and without packs of 4, more than a block is wide; runs in the middle.
shapes = st.sampled_from(
    [
        (0, 3),
        (3, 0),
        (1, 1),
        (1, 300),
        (5, 7),
        (37, 4),
        (8, 132),
        (3, 1100),
        (4, 3, 3, 2),
        (2, 5, 3, 4),
    ]
)


def draw(shape, dim, dtype, seed, masked):
    """v, g, mask (or None), gradient of w; one slice counts as zeros."""
    rng = np.random.default_rng(seed)
    lengths = tuple(n if i == dim else 1 for i, n in enumerate(shape))
    v, g, grad = (rng.normal(size=s).astype(dtype) for s in (shape, lengths, shape))
    v += np.sign(v)  # a length near 0 would magnify rounding errors
    mask = (rng.random(shape) < 0.6).astype(dtype) if masked else None
    np.moveaxis(mask if masked else v, dim, 0)[:1] = 0
    return v, g, mask, grad


def assert_close(got, expected, tolerance):
    for a, b in zip(map(to_cpu, got), expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b[np.isfinite(b)]).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("plain", [False, True])
@settings(max_examples=12)
@given(
    shape=shapes,
    dim=st.integers(0, 1),
    masked=st.booleans(),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    layout=st.sampled_from(LAYOUTS),
    other=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**20),
)
def test_weight_and_gradient(cuda_kernels, plain, shape, dim, masked, dtype, layout, other, seed):
    cuda = cuda_kernels("weight_norm")
    v, g, mask, grad = draw(shape, dim, dtype, seed, masked)
    there = to_gpu(in_layout(v, layout))
    keep = to_gpu(in_layout(mask, other)) if masked else None
    got = cuda._weight_norm(there, to_gpu(g), keep, dim, plain=plain)
    expected = reference.weight_norm(v, g, mask, dim=dim)
    assert_close(got, expected, TOLERANCE[dtype])
    rest = g, expected[1]
    arranged = to_gpu(in_layout(grad, other))
    got = cuda._weight_norm_grad(arranged, there, *map(to_gpu, rest), keep, dim, plain=plain)
    assert_close(got, reference.weight_norm_grad(grad, v, *rest, mask, dim=dim), TOLERANCE[dtype])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values(cuda_kernels, plain):
    cuda = cuda_kernels("weight_norm")
    v = np.ones((4, 8))
    v[0], v[1, 2], v[2, 5] = 0, np.nan, np.inf
    g = np.full((4, 1), 2.0)
    expected = reference.weight_norm(v, g, dim=0)
    assert_close(cuda._weight_norm(to_gpu(v), to_gpu(g), None, 0, plain=plain), expected, 1e-13)
    arguments = np.ones_like(v), v, g, expected[1]
    got = cuda._weight_norm_grad(*map(to_gpu, arguments), None, 0, plain=plain)
    assert_close(got, reference.weight_norm_grad(*arguments, dim=0), 1e-13)


def test_the_public_functions_take_the_fast_way(cuda_kernels):
    cuda = cuda_kernels("weight_norm")
    v, g, mask, grad = draw((6, 4, 3, 3), 0, np.float32, 0, True)
    arrays = [to_gpu(in_layout(x, "channels_last")) for x in (v, mask, grad)]
    w, length = cuda.weight_norm(arrays[0], to_gpu(g), arrays[1], dim=0)
    expected = reference.weight_norm(v, g, mask, dim=0)
    assert_close((w, length), expected, 1e-5)
    got = cuda.weight_norm_grad(arrays[2], arrays[0], to_gpu(g), length, arrays[1], dim=0)
    assert w.strides == got[0].strides == arrays[0].strides
    assert_close(got, reference.weight_norm_grad(grad, v, g, expected[1], mask, dim=0), 1e-5)
