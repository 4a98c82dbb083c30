"""PixelRNN's scans: reference against formulas and finite differences, CPU against reference."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels import wavefront
from tinygen_kernels.cpu import scan as cpu
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import scan as reference

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}
SCANS = {
    "row": ("row_lstm", {}),
    "diagonal": ("diagonal_lstm", {}),
    "mirrored": ("diagonal_lstm", {"reverse": True}),
}
scans = pytest.mark.parametrize("scan", SCANS)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)

sizes = st.tuples(  # N, h, H, W
    st.integers(0, 9), st.sampled_from([1, 2, 5, 17]), st.integers(1, 7), st.integers(1, 7)
)


def draw_inputs(scan, shape, k=3, dtype=np.float64, *, seed=0, scale=1.0, initial=True):
    """[z, weight, h0, c0] for N images of H × W with h units; k is for the row scan."""
    n, hidden, height, width = shape
    rng = np.random.default_rng(seed)
    taps, lines = (k, width) if scan == "row" else (2, height)
    z = scale * rng.normal(size=(n, 4 * hidden, height, width))
    weight = rng.normal(size=(4 * hidden, hidden, taps)) * (hidden * taps) ** -0.5
    states = [rng.normal(size=(hidden, lines)) for _ in range(2)]
    if not initial:
        return [z.astype(dtype), weight.astype(dtype), None, None]
    return [x.astype(dtype) for x in (z, weight, *states)]


def forward(module, scan, inputs):
    name, options = SCANS[scan]
    return getattr(module, name)(*inputs, **options)


def backward(module, scan, grad_output, inputs, output, saved):
    name, options = SCANS[scan]
    gradient = getattr(module, f"{name}_grad")
    return list(gradient(grad_output, *inputs[1:], output, saved, **options))


def run(module, scan, inputs, seed=1, arrange=lambda x: x):
    """[output, gradients of z, weight, h0 and c0] for a random gradient of the output."""
    output, saved = forward(module, scan, inputs)
    grad_output = np.random.default_rng(seed).normal(size=output.shape).astype(output.dtype)
    return [output, *backward(module, scan, arrange(grad_output), inputs, output, saved)]


def assert_close(got, expected, tolerance):
    """Errors relative to the largest number of the expected array, or to 1."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if b.size:
            assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


def pixel_by_pixel(scan, z, weight, h0, c0):
    """The formulas for one pixel after the other, with nothing vectorised but the units."""
    n, _, height, width = z.shape
    hidden, taps = weight.shape[1:]
    behind = 1 if scan == "mirrored" else -1
    near = [(-1, tap - taps // 2) for tap in range(taps)]
    if scan != "row":
        near = [(-1, 0), (0, behind)]

    def state(states, initial, image, i, j):
        if 0 <= i < height and 0 <= j < width:
            return states[image, :, i, j]
        if scan == "row" and 0 <= j < width:
            return initial[:, j]
        if scan != "row" and 0 <= i < height:
            return initial[:, i]
        return np.zeros(hidden)

    h, c = np.zeros((2, n, hidden, height, width))
    for image, i, column in np.ndindex(n, height, width):
        j = width - 1 - column if scan == "mirrored" else column
        a = z[image, :, i, j].copy()
        for tap, (up, aside) in enumerate(near):
            a += weight[:, :, tap] @ state(h, h0, image, i + up, j + aside)
        in_, forget, new, out = np.split(a, 4)
        carry = state(c, c0, image, *((i - 1, j) if scan == "row" else (i, j + behind)))
        in_, forget, out = (1 / (1 + np.exp(-gate)) for gate in (in_, forget, out))
        c[image, :, i, j] = forget * carry + in_ * np.tanh(new)
        h[image, :, i, j] = out * np.tanh(c[image, :, i, j])
    return h


@scans
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 2, 6, 4), (2, 1, 1, 5), (1, 4, 5, 1)])
def test_reference_is_the_formulas(scan, shape):
    for k in (1, 3, 5):
        inputs = draw_inputs(scan, shape, k)
        output, _ = forward(reference, scan, inputs)
        assert_close([output], [pixel_by_pixel(scan, *inputs)], 1e-14)


@scans
def test_reference_gradients_by_finite_differences(scan):
    inputs = draw_inputs(scan, (2, 3, 4, 5))
    _, *grads = run(reference, scan, inputs)
    grad_output = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    step = 1e-6
    rng = np.random.default_rng(2)
    for k, grad in enumerate(grads):
        direction = rng.normal(size=inputs[k].shape)
        ahead, behind = (
            forward(reference, scan, [x + s * direction if i == k else x for i, x in each])[0]
            for s, each in ((step, [*enumerate(inputs)]), (-step, [*enumerate(inputs)]))
        )
        numeric = ((ahead - behind) * grad_output).sum() / (2 * step)
        assert numeric == pytest.approx((grad * direction).sum(), rel=1e-7, abs=1e-7)


@scans
@pytest.mark.parametrize("module", [reference, cpu])
def test_an_output_depends_on_its_past_only(scan, module):
    height, width, hidden = 5, 7, 3
    inputs = draw_inputs(scan, (1, hidden, height, width))
    output, saved = forward(module, scan, inputs)
    i, j = np.indices((height, width))
    for row, column in np.ndindex(height, width):
        if scan == "row":
            past = (i < row) & (abs(j - column) <= row - i) | (i == row) & (j == column)
        else:
            past = (i <= row) & (j >= column if scan == "mirrored" else j <= column)
        grad_output = np.zeros_like(output)
        grad_output[:, :, row, column] = 1
        grad_z = backward(module, scan, grad_output, inputs, output, saved)[0]
        np.testing.assert_array_equal((grad_z != 0).any(axis=(0, 1)), past)


@pytest.mark.parametrize("module", [reference, cpu])
def test_reverse_is_the_mirrored_scan(module):
    inputs = draw_inputs("mirrored", (2, 5, 4, 6))
    output, *grads = run(module, "mirrored", inputs, arrange=lambda g: g[..., ::-1])
    mirrored = [inputs[0][..., ::-1], *inputs[1:]]
    expected, expected_grad_z, *expected_grads = run(module, "diagonal", mirrored)
    assert_close([output, grads[0]], [expected[..., ::-1], expected_grad_z[..., ::-1]], 1e-14)
    assert_close(grads[1:], expected_grads, 1e-14)


@scans
@dtypes
@given(
    shape=sizes,
    k=st.sampled_from([1, 3, 5]),
    layout=st.sampled_from(LAYOUTS),
    initial=st.booleans(),
    seed=st.integers(0, 99),
)
def test_cpu_agrees_with_reference(scan, dtype, shape, k, layout, initial, seed):
    inputs = draw_inputs(scan, shape, k, dtype, seed=seed, initial=initial)
    expected, *expected_grads = run(reference, scan, inputs)
    arranged = [None if x is None else in_layout(x, layout) for x in inputs]
    output, *grads = run(cpu, scan, arranged, arrange=lambda x: in_layout(x, layout))
    assert is_channels_last(output)
    assert is_channels_last(grads[0])
    # Gradients of the weight sum over all pixels.
    assert_close([output], [expected], TOLERANCE[dtype])
    assert_close(grads, expected_grads, 4 * TOLERANCE[dtype])


@scans
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 5, 0), (0, 1, 0, 0)])
def test_empty_maps(scan, shape):
    inputs = draw_inputs(scan, shape)
    n, hidden, height, width = shape
    for module in (reference, cpu):
        output, grad_z, *grads = run(module, scan, inputs)
        assert output.shape == shape
        assert grad_z.shape == (n, 4 * hidden, height, width)
        for x, grad in zip(inputs[1:], grads, strict=True):
            np.testing.assert_array_equal(grad, np.zeros_like(x))


@scans
def test_threads_do_not_change_the_result(scan):
    """Several blocks of images, in two sizes of steps' products."""
    inputs = draw_inputs(scan, (13, 33, 9, 8), dtype=np.float32)
    results = []
    usual = numba.get_num_threads()
    for threads in (1, usual):
        numba.set_num_threads(threads)
        try:
            results.append(run(cpu, scan, inputs))
        finally:
            numba.set_num_threads(usual)
    assert_close(results[0], run(reference, scan, inputs), 1e-5)
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


@scans
def test_initial_states_are_optional_one_by_one(scan):
    z, weight, h0, c0 = draw_inputs(scan, (2, 3, 4, 5))
    nothing = np.zeros_like(h0)
    for states, zeros in (([h0, None], [h0, nothing]), ([None, c0], [nothing, c0])):
        for module in (reference, cpu):
            found = run(module, scan, [z, weight, *states])
            expected = run(reference, scan, [z, weight, *zeros])
            for k, given_state in enumerate(states):
                expected[3 + k] = None if given_state is None else expected[3 + k]
            assert_close(found, expected, 1e-14)


@scans
def test_saturated_gates_and_nan(scan):
    inputs = draw_inputs(scan, (2, 3, 4, 5), dtype=np.float32, scale=1e4)
    output, *grads = run(cpu, scan, inputs)
    assert_close([output], run(reference, scan, inputs)[:1], 1e-5)
    assert all(np.isfinite(grad).all() for grad in grads)
    inputs[0][1, 2, 1, 2] = np.nan
    lost = ~np.isfinite(run(cpu, scan, inputs)[0]).all(axis=1)
    expected = ~np.isfinite(run(reference, scan, inputs)[0]).all(axis=1)
    np.testing.assert_array_equal(lost, expected)
    assert expected.any()
    assert not expected.all()


def test_inputs_are_left_alone():
    inputs = draw_inputs("row", (2, 3, 4, 5))
    before = [x.copy() for x in inputs]
    output, saved = forward(cpu, "row", inputs)
    kept = [x.copy() for x in (output, *saved)]
    grad_output = np.ones_like(output)
    backward(cpu, "row", grad_output, inputs, output, saved)
    for x, copy in zip([*inputs, output, *saved, grad_output], [*before, *kept, 1], strict=True):
        np.testing.assert_array_equal(x, copy)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (4, 7), (7, 4)])
def test_every_pixel_has_one_step_and_follows_what_it_reads(size):
    height, width = size
    for order, near in (
        (wavefront.by_rows(height, width, 3), [(-1, -1), (-1, 0), (-1, 1)]),
        (wavefront.by_diagonals(height, width, False), [(-1, 0), (0, -1)]),
        (wavefront.by_diagonals(height, width, True), [(-1, 0), (0, 1)]),
    ):
        when = {}
        for t in range(order.steps()):
            for line in range(*order.active(t)):
                pixel = order.pixel(t, line)
                assert pixel not in when
                when[pixel] = t
        assert sorted(when) == list(range(height * width))
        for i, j in np.ndindex(height, width):
            for up, aside in near:
                if i + up >= 0 and 0 <= j + aside < width:
                    earlier = when[(i + up) * width + j + aside]
                    assert earlier == when[i * width + j] - 1
