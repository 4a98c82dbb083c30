"""PixelRNN's scans on the GPU: each version against the reference, and the choice between them."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import scan as reference
from tinygen_kernels.wavefront import by_diagonals, by_rows

TOLERANCE = {np.float32: 3e-6, np.float64: 1e-14}
SCANS = {
    "row": ("row_lstm", {}),
    "diagonal": ("diagonal_lstm", {}),
    "mirrored": ("diagonal_lstm", {"reverse": True}),
}
scans = pytest.mark.parametrize("scan", SCANS)
versions = pytest.mark.parametrize("version", ["plain", "gemm", "persistent"])


@pytest.fixture(scope="module")
def kernels(cuda_kernels):
    """The module under test, with products in full float32."""
    with cuda_kernels("precision").precision("fp32"):
        yield cuda_kernels("scan")


def draw_inputs(scan, shape, k=3, dtype=np.float32, *, seed=0, scale=1.0, initial=True):
    """[z, weight, h0, c0, gradient of the output] for N images of H × W pixels with h units."""
    n, hidden, height, width = shape
    rng = np.random.default_rng(seed)
    taps, lines = (k, width) if scan == "row" else (2, height)
    z = scale * rng.normal(size=(n, 4 * hidden, height, width))
    weight = rng.normal(size=(4 * hidden, hidden, taps)) * (hidden * taps) ** -0.5
    states = [rng.normal(size=(hidden, lines)).astype(dtype) for _ in range(2)]
    grad_output = rng.normal(size=shape).astype(dtype)
    states = states if initial else [None, None]
    return [z.astype(dtype), weight.astype(dtype), *states, grad_output]


def run(module, scan, inputs):
    """[output, gradients of z, weight, h0 and c0]."""
    name, options = SCANS[scan]
    *inputs, grad_output = inputs
    output, saved = getattr(module, name)(*inputs, **options)
    gradient = getattr(module, f"{name}_grad")
    return [output, *gradient(grad_output, *inputs[1:], output, saved, **options)]


def mapped(function, arrays):
    return [None if a is None else function(a) for a in arrays]


@contextlib.contextmanager
def using(kernels, version):
    """Inside, every scan runs by this version, whatever its sizes."""
    with mock.patch.object(kernels, "choose", return_value=version):
        yield


def run_on_gpu(kernels, version, scan, inputs, arrange=lambda x: x):
    """The same through one version of the scan, as NumPy arrays."""
    with using(kernels, version):
        results = run(kernels, scan, mapped(lambda a: to_gpu(arrange(a)), inputs))
    assert all(is_channels_last(a) for a in results[:2])
    return mapped(to_cpu, results)


def run_wide(scan, inputs):
    """The reference in float64."""
    return run(reference, scan, mapped(lambda a: a.astype(np.float64), inputs))


def assert_close(got, expected, dtype, factor=1.0):
    """Errors relative to the largest number of the expected array, or to 1."""
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape
        assert a.dtype == dtype
        error = np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1)
        assert error <= factor * TOLERANCE[dtype], (i, error)


@scans
@versions
@given(
    batch=st.sampled_from([0, 1, 2, 3]),
    hidden=st.sampled_from([1, 2, 4, 5, 16, 17]),
    size=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    k=st.sampled_from([1, 3, 5, 7]),
    initial=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
@settings(max_examples=12)
def test_equals_the_reference(
    kernels, scan, version, batch, hidden, size, k, initial, dtype, layout, seed
):
    inputs = draw_inputs(scan, (batch, hidden, *size), k, dtype, seed=seed, initial=initial)
    got = run_on_gpu(kernels, version, scan, inputs, lambda a: in_layout(a, layout))
    assert_close(got, run_wide(scan, inputs), dtype, 4)


@scans
@versions
@pytest.mark.parametrize(
    "shape", [(2, 33, 13, 1), (2, 33, 1, 13), (1, 20, 31, 2), (1, 20, 2, 31), (9, 8, 6, 7)]
)
def test_more_units_than_threads_and_thin_maps(kernels, scan, version, shape):
    inputs = draw_inputs(scan, shape)
    got = run_on_gpu(kernels, version, scan, inputs)
    assert_close(got, run_wide(scan, inputs), np.float32, 4)


@scans
@versions
def test_initial_states_are_optional_one_by_one(kernels, scan, version):
    inputs = draw_inputs(scan, (2, 3, 3, 4))
    for missing in (2, 3):
        given_states = [None if i == missing else x for i, x in enumerate(inputs)]
        got = run_on_gpu(kernels, version, scan, given_states)
        assert_close(got, run_wide(scan, given_states), np.float32, 4)


@scans
@versions
def test_gradients_that_are_one_number(cupy, kernels, scan, version):
    """As of a sum: broadcast, with strides of zero."""
    inputs = draw_inputs(scan, (2, 3, 4, 3))
    there = mapped(to_gpu, inputs)
    there[-1] = cupy.broadcast_to(cupy.ones((), np.float32), there[-1].shape)
    with using(kernels, version):
        got = mapped(to_cpu, run(kernels, scan, there))
    inputs[-1][...] = 1
    assert_close(got, run_wide(scan, inputs), np.float32, 4)


@scans
@versions
def test_saturated_gates_and_nan(kernels, scan, version):
    inputs = draw_inputs(scan, (2, 3, 4, 5), scale=1e30)
    got = run_on_gpu(kernels, version, scan, inputs)
    assert all(np.isfinite(a).all() for a in got)
    expected = run(reference, scan, inputs)  # in float32 too: what saturates is the same
    assert_close(got[:1], expected[:1], np.float32, 4)
    inputs[0][1, 2, 1, 2] = np.nan
    lost = ~np.isfinite(run_on_gpu(kernels, version, scan, inputs)[0])
    np.testing.assert_array_equal(lost, ~np.isfinite(run(reference, scan, inputs)[0]))
    assert lost.any()
    assert not lost.all()


@scans
@versions
def test_an_output_depends_on_its_past_only(kernels, scan, version):
    """Gradients of one pixel are exactly zero where the reference's are."""
    inputs = draw_inputs(scan, (1, 2, 4, 5), dtype=np.float64)
    for row, column in ((2, 3), (0, 2), (3, 0)):
        inputs[-1][...] = 0
        inputs[-1][:, :, row, column] = 1
        got, expected = run_on_gpu(kernels, version, scan, inputs)[1], run_wide(scan, inputs)[1]
        np.testing.assert_array_equal(got != 0, expected != 0)


@scans
@versions
def test_inputs_stay_as_they_were(kernels, scan, version):
    inputs = draw_inputs(scan, (2, 3, 4, 5))
    there = mapped(to_gpu, inputs)
    with using(kernels, version):
        run(kernels, scan, there)
    np.testing.assert_equal(mapped(to_cpu, there), inputs)


@scans
@versions
def test_a_captured_scan_follows_its_inputs(cupy, cuda_kernels, kernels, scan, version):
    """Nothing waits for the GPU or depends on values: a graph of the launches can be replayed."""
    inputs = draw_inputs(scan, (2, 3, 4, 5))
    there = mapped(to_gpu, inputs)
    cupy.cuda.Device().synchronize()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with (
        stream,
        cupy.cuda.using_allocator(pool.malloc),
        cuda_kernels("launch").inside_a_graph(),
        using(kernels, version),
    ):
        run(kernels, scan, there)  # compiles the kernels and fills the pool
        stream.begin_capture()
        results = run(kernels, scan, there)
        graph = stream.end_capture()
        there[0][...] = -2 * there[0]
        graph.launch(stream)
    stream.synchronize()
    inputs[0][...] *= -2
    assert_close(mapped(to_cpu, results), run_wide(scan, inputs), np.float32, 4)


@scans
def test_the_choice_runs(kernels, scan):
    """What `choose` says is launched, with the limits read from the GPU: 17 and 100 units."""
    for hidden, size in ((17, (3, 4)), (100, (2, 2))):
        inputs = draw_inputs(scan, (1, hidden, *size))
        got = mapped(to_cpu, run(kernels, scan, mapped(to_gpu, inputs)))
        assert_close(got, run_wide(scan, inputs), np.float32, 4)


@pytest.mark.parametrize(
    ("order", "hidden", "kilobytes"),
    [
        (by_diagonals(28, 28, False), 16, (13.3, 18.8)),
        (by_diagonals(28, 28, True), 64, (149.5, 171)),
        (by_rows(32, 32, 3), 16, (18.3, 24.5)),
        (by_diagonals(32, 32, False), 128, (561, 610)),
    ],
)
def test_shared_memory_of_a_block(kernels, order, hidden, kilobytes):
    """As in the header of the source; what does not fit goes by GEMMs."""
    found = kernels.shared_bytes(order, hidden, 4)
    assert [b / 1024 for b in found] == pytest.approx(kilobytes, abs=0.5)
    assert kernels.choose(found[0], found[0]) == "persistent"
    assert kernels.choose(found[0], found[0] - 1) == "gemm"
