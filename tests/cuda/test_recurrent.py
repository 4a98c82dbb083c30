"""LSTM and GRU on the GPU: each version against the reference, and the choice between them."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import recurrent as reference

GATES = {"lstm": 4, "gru": 3}
VERSIONS = ("plain", "gemm", "persistent 1", "persistent 4")
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-14}

cells = pytest.mark.parametrize("cell", GATES)
versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def kernels(cuda_kernels):
    """The module under test, with products in full float32."""
    with cuda_kernels("precision").precision("fp32"):
        yield cuda_kernels("recurrent")


def draw_inputs(cell, sizes, dtype=np.float32, *, seed=0, scale=1.0, bias=True):
    """(x, states, weights, biases) of a layer with sizes (T, N, I, H)."""
    steps, batch, inputs, hidden = sizes
    rng = np.random.default_rng(seed)
    rows = GATES[cell] * hidden

    def array(*shape, factor=1.0):
        return (factor * rng.normal(size=shape)).astype(dtype)

    states = [array(batch, hidden) for _ in range(2 if cell == "lstm" else 1)]
    weights = [array(rows, inputs, factor=inputs**-0.5), array(rows, hidden, factor=hidden**-0.5)]
    biases = [array(rows) if bias else None for _ in range(1 if cell == "lstm" else 2)]
    return array(steps, batch, inputs, factor=scale), states, weights, biases


def draw_grads(cell, inputs, seed=1):
    """Gradients of the output and of the last states."""
    x, states, _, _ = inputs
    shapes = [(len(x), *states[0].shape), *(s.shape for s in states)]
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(x.dtype) for shape in shapes]


def run(module, cell, inputs, grads, **options):
    """Outputs, last states and gradients; options are those of the gradient and `reverse`."""
    x, states, weights, biases = inputs
    reverse = options.get("reverse", False)
    output, *last, saved = getattr(module, cell)(x, *states, *weights, *biases, reverse=reverse)
    gradient = getattr(module, f"{cell}_grad")
    return [output, *last, *gradient(*grads, x, *states, *weights, output, saved, **options)]


def mapped(function, inputs):
    """The function of each array of (x, states, weights, biases)."""
    x, *lists = inputs
    return function(x), *([None if a is None else function(a) for a in part] for part in lists)


@contextlib.contextmanager
def using(kernels, version):
    """Inside, every scan runs by this version, whatever its sizes."""
    name, _, rows = version.partition(" ")
    chosen = kernels.Version(name, int(rows or 0))
    with mock.patch.object(kernels, "choose", return_value=chosen):
        yield


def run_on_gpu(kernels, version, cell, inputs, grads, arrange=lambda x: x, **options):
    """The same through one version of the scan, as NumPy arrays."""
    there = mapped(lambda a: to_gpu(arrange(a)), inputs)
    grads = [to_gpu(arrange(g)) for g in grads]
    with using(kernels, version):
        results = run(kernels, cell, there, grads, **options)
    return [None if a is None else to_cpu(a) for a in results]


def run_wide(cell, inputs, grads, **options):
    """The reference in float64."""

    def wide(a):
        return a.astype(np.float64)

    return run(reference, cell, mapped(wide, inputs), [wide(g) for g in grads], **options)


def assert_close(got, expected, dtype, factor=1.0):
    """Errors relative to the largest number of the expected array, or to 1."""
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == dtype
        error = np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1)
        assert error <= factor * TOLERANCE[dtype], (i, error)


@cells
@versions
@given(
    steps=st.integers(0, 3),
    batch=st.sampled_from([0, 1, 2, 3, 4, 5, 7]),
    width=st.integers(1, 5),
    hidden=st.sampled_from([1, 2, 3, 7, 16, 31, 33]),
    bias=st.booleans(),
    reverse=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
@settings(max_examples=10)
def test_equals_the_reference(
    kernels, cell, version, steps, batch, width, hidden, bias, reverse, dtype, layout, seed
):
    if version == "persistent 4":
        dtype = np.float32  # all that this version is compiled for
    inputs = draw_inputs(cell, (steps, batch, width, hidden), dtype, seed=seed, bias=bias)
    grads = draw_grads(cell, inputs)
    got = run_on_gpu(
        kernels, version, cell, inputs, grads, lambda a: in_layout(a, layout), reverse=reverse
    )
    assert_close(got, run_wide(cell, inputs, grads, reverse=reverse), dtype, 4)


@given(
    batch=st.sampled_from([0, 1, 3, 38]),
    width=st.integers(1, 5),
    hidden=st.sampled_from([1, 7, 33]),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=8)
def test_the_cell_equals_the_reference(kernels, batch, width, hidden, bias, dtype, layout):
    inputs = draw_inputs("lstm", (1, batch, width, hidden), dtype, bias=bias)
    grads = draw_grads("lstm", inputs)[1:]

    def run_cell(module, arrange, result):
        (x, (h, c), weights, biases), there = mapped(arrange, inputs), map(arrange, grads)
        h_after, c_after, gates = module.lstm_cell(x[0], h, c, *weights, *biases)
        back = module.lstm_cell_grad(*there, gates, c, c_after)
        return [result(a) for a in (h_after, c_after, *back)]

    got = run_cell(kernels, lambda a: to_gpu(in_layout(a, layout)), to_cpu)
    expected = run_cell(reference, lambda a: a.astype(np.float64), np.asarray)
    assert_close(got, expected, dtype, 4)


@cells
@versions
@pytest.mark.parametrize("hidden", [65, 100, 128])
def test_weights_beyond_the_registers(kernels, cell, version, hidden):
    """More units than the 64 whose weights the persistent kernels keep in registers."""
    inputs = draw_inputs(cell, (2, 5, 3, hidden))
    grads = draw_grads(cell, inputs)
    got = run_on_gpu(kernels, version, cell, inputs, grads)
    assert_close(got, run_wide(cell, inputs, grads), np.float32, 4)


@cells
@versions
def test_many_sequences_and_steps(kernels, cell, version):
    """More elements than a block has threads, and more steps than are ever fetched ahead."""
    inputs = draw_inputs(cell, (9, 38, 2, 7))
    grads = draw_grads(cell, inputs)
    got = run_on_gpu(kernels, version, cell, inputs, grads, reverse=True)
    assert_close(got, run_wide(cell, inputs, grads, reverse=True), np.float32, 8)


@cells
@versions
def test_gradients_that_are_one_number(cupy, kernels, cell, version):
    """As of a sum: broadcast, with strides of zero."""
    inputs = draw_inputs(cell, (3, 5, 2, 6))
    grads = draw_grads(cell, inputs)
    ones = [np.ones_like(g) for g in grads]
    there = [cupy.broadcast_to(cupy.ones((), np.float32), g.shape) for g in grads]
    with using(kernels, version):
        got = run(kernels, cell, mapped(to_gpu, inputs), there)
    assert_close([to_cpu(a) for a in got], run_wide(cell, inputs, ones), np.float32, 4)


@cells
@versions
def test_saturated_gates_infinities_and_nan(kernels, cell, version):
    inputs = draw_inputs(cell, (3, 6, 5, 6), scale=1e30)
    grads = draw_grads(cell, inputs)
    got = run_on_gpu(kernels, version, cell, inputs, grads)
    expected = run(reference, cell, inputs, grads)  # in float32 too: what saturates is the same
    assert all(np.isfinite(a).all() for a in got)
    assert_close(got[:2], expected[:2], np.float32, 4)

    x, states, _, _ = inputs
    x[1, 2] = np.nan
    states[0][1, 3] = np.inf
    states[0][4, 5] = -np.inf
    output, *_ = run_on_gpu(kernels, version, cell, inputs, grads)
    with np.errstate(invalid="ignore"):
        expected, *_ = run(reference, cell, inputs, grads)
    np.testing.assert_array_equal(np.isfinite(output), np.isfinite(expected))
    lost = ~np.isfinite(output).all(axis=2)
    assert lost[:, 2].tolist() == [False, True, True]  # only this sequence, from that step on
    assert not lost[:, [0, 3, 5]].any()


@cells
@versions
def test_the_gradient_of_x_is_optional(kernels, cell, version):
    inputs = draw_inputs(cell, (2, 3, 4, 5))
    grads = draw_grads(cell, inputs)
    whole = run_on_gpu(kernels, version, cell, inputs, grads)
    parts = run_on_gpu(kernels, version, cell, inputs, grads, need_grad_x=False)
    at = 1 + len(inputs[1])
    assert parts[at] is None
    for a, b in zip(parts[:at] + parts[at + 1 :], whole[:at] + whole[at + 1 :], strict=True):
        np.testing.assert_array_equal(a, b)


@cells
@versions
def test_inputs_stay_as_they_were(kernels, cell, version):
    inputs = draw_inputs(cell, (3, 2, 3, 4))
    grads = draw_grads(cell, inputs)
    there, grads_there = mapped(to_gpu, inputs), [to_gpu(g) for g in grads]
    with using(kernels, version):
        run(kernels, cell, there, grads_there)
    np.testing.assert_equal(mapped(to_cpu, there), inputs)
    np.testing.assert_equal([to_cpu(g) for g in grads_there], grads)


@cells
@versions
def test_a_captured_scan_follows_its_inputs(cupy, cuda_kernels, kernels, cell, version):
    """Nothing waits for the GPU or depends on values: a graph of the launches can be replayed."""
    inputs = draw_inputs(cell, (3, 5, 2, 6))
    grads = draw_grads(cell, inputs)
    there, grads_there = mapped(to_gpu, inputs), [to_gpu(g) for g in grads]
    cupy.cuda.Device().synchronize()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with (
        stream,
        cupy.cuda.using_allocator(pool.malloc),
        cuda_kernels("launch").inside_a_graph(),
        using(kernels, version),
    ):
        run(kernels, cell, there, grads_there)  # compiles the kernels and fills the pool
        stream.begin_capture()
        results = run(kernels, cell, there, grads_there)
        graph = stream.end_capture()
        there[0][...] = -2 * there[0]
        graph.launch(stream)
    stream.synchronize()
    inputs[0][...] *= -2
    assert_close([to_cpu(a) for a in results], run_wide(cell, inputs, grads), np.float32, 4)


@pytest.mark.parametrize(
    ("shape", "itemsize", "kilobytes", "expected"),
    [
        # (T, N, gates, H)
        ((9, 128, 4, 128), 4, 227, ("persistent", 1)),
        ((9, 133, 4, 128), 4, 227, ("persistent", 4)),
        ((9, 264, 4, 64), 4, 227, ("persistent", 1)),  # two blocks of 256 threads in an SM
        ((9, 265, 4, 64), 4, 227, ("persistent", 4)),
        ((9, 999, 4, 64), 8, 227, ("persistent", 1)),
        ((1, 128, 4, 128), 4, 227, ("gemm", 0)),
        ((9, 1, 4, 129), 4, 227, ("gemm", 0)),
        ((9, 1, 3, 129), 4, 227, ("gemm", 0)),
        ((9, 1, 4, 128), 8, 227, ("gemm", 0)),
        ((9, 500, 4, 128), 4, 163, ("persistent", 4)),
        ((9, 500, 4, 104), 4, 99, ("persistent", 1)),  # partial sums of four don't fit
        ((9, 1, 4, 128), 4, 99, ("gemm", 0)),
        ((9, 500, 4, 64), 4, 64, ("persistent", 4)),
        ((9, 500, 4, 96), 4, 64, ("persistent", 1)),
    ],
)
def test_choice(kernels, shape, itemsize, kilobytes, expected):
    limits = {"processors": 132, "most_shared": 1024 * kilobytes}
    assert kernels.choose(*shape, itemsize=itemsize, **limits) == expected


def test_shared_memory_of_a_block(kernels):
    """h, weights and partial sums, as in the header of the source."""
    in_kb = [kernels.shared_bytes(hidden, 4, 4, 4) / 1024 for hidden in (64, 96, 128)]
    assert in_kb == [1 + 16, 1.5 + 48 + 24, 2 + 128 + 32]


@cells
def test_the_choice_runs(kernels, cell):
    """What `choose` says is launched, with limits read from the GPU."""
    for hidden in (5, 130):
        inputs = draw_inputs(cell, (2, 3, 2, hidden))
        grads = draw_grads(cell, inputs)
        got = run(kernels, cell, mapped(to_gpu, inputs), [to_gpu(g) for g in grads])
        assert_close([to_cpu(a) for a in got], run_wide(cell, inputs, grads), np.float32, 4)
