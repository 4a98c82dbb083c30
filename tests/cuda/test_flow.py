"""The IAF gate on the GPU against the definition: every size class, layout and version."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import flow as reference

INF, NAN = np.inf, np.nan
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}
plains = pytest.mark.parametrize("plain", [False, True])
# Some lanes of a warp to a row, with and without vectors; a block, with one turn and with several.
shapes = st.one_of(
    st.tuples(st.sampled_from([0, 1, 5, 33, 70]), st.sampled_from([0, 1, 7, 8, 31, 32])),
    st.tuples(st.sampled_from([1, 9]), st.sampled_from([100, 127, 256])),
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([257, 260, 1024, 2501, 4000])),
)


def draw(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    rows, width = shape
    sizes = (rows, width), (rows,), shape, (rows, 2 * width)
    return [(3 * rng.normal(size=size)).astype(dtype) for size in sizes]


def assert_close(got, expected, tolerance):
    for a, b in zip(map(to_cpu, got), expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b[np.isfinite(b)]).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@plains
@settings(max_examples=15)
@given(
    shape=shapes,
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    layout=st.sampled_from(LAYOUTS),
    other=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**20),
)
def test_gate_and_gradient(cuda_kernels, plain, shape, dtype, layout, other, seed):
    cuda = cuda_kernels("flow")
    grad, of_log_det, z, ms = draw(shape, dtype, seed)
    inputs = to_gpu(in_layout(z, layout)), to_gpu(in_layout(ms, other))
    got = cuda._iaf_gate(*inputs, 1.5, plain=plain)
    assert_close(got, reference.iaf_gate(z, ms, bias=1.5), TOLERANCE[dtype])
    grads = to_gpu(in_layout(grad, other)), to_gpu(in_layout(of_log_det, layout))
    got = cuda._iaf_gate_grad(*grads, *inputs, 1.5, plain=plain)
    expected = reference.iaf_gate_grad(grad, of_log_det, z, ms, bias=1.5)
    assert_close(got, expected, TOLERANCE[dtype])


@plains
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values(cuda_kernels, plain):
    cuda = cuda_kernels("flow")
    special = np.array([NAN, INF, -INF, 0, 1e4, -1e4, 60, -60])
    z, m, s = (x.reshape(64, 8) for x in np.meshgrid(special, special, special))
    ms = np.concatenate([m, s], axis=1)
    expected = reference.iaf_gate(z, ms, bias=0.0)
    assert_close(cuda._iaf_gate(to_gpu(z), to_gpu(ms), 0.0, plain=plain), expected, 1e-13)
    grads = np.ones_like(z), np.ones(64)
    got = cuda._iaf_gate_grad(*map(to_gpu, (*grads, z, ms)), 0.0, plain=plain)
    assert_close(got, reference.iaf_gate_grad(*grads, z, ms, bias=0.0), 1e-13)


def test_the_public_functions_take_the_fast_way(cuda_kernels):
    cuda = cuda_kernels("flow")
    grad, of_log_det, z, ms = draw((5, 32), np.float32, 0)
    got = cuda.iaf_gate(to_gpu(z), to_gpu(ms), bias=1.0)
    assert_close(got, reference.iaf_gate(z, ms, bias=1.0), 4e-6)
    got = cuda.iaf_gate_grad(*map(to_gpu, (grad, of_log_det, z, ms)), bias=1.0)
    assert_close(got, reference.iaf_gate_grad(grad, of_log_det, z, ms, bias=1.0), 4e-6)
