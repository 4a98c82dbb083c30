"""LSTM and GRU scans: reference against PyTorch and finite differences, CPU against reference."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tinygen_kernels.cpu import recurrent as cpu
from tinygen_kernels.reference import recurrent as reference

GATES = {"lstm": 4, "gru": 3}
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}

cells = pytest.mark.parametrize("cell", GATES)
directions = pytest.mark.parametrize("reverse", [False, True])


def draw_inputs(cell, sizes, dtype=np.float64, *, seed=0, scale=1.0, bias=True):
    """(x, states, weights, biases) of a layer with sizes (T, N, I, H)."""
    steps, batch, inputs, hidden = sizes
    rng = np.random.default_rng(seed)
    rows = GATES[cell] * hidden

    def array(*shape, factor=1.0):
        return (factor * rng.normal(size=shape)).astype(dtype)

    states = [array(batch, hidden) for _ in range(2 if cell == "lstm" else 1)]
    weights = [array(rows, size, factor=max(size, 1) ** -0.5) for size in (inputs, hidden)]
    biases = [array(rows) if bias else None for _ in range(1 if cell == "lstm" else 2)]
    return array(steps, batch, inputs, factor=scale), states, weights, biases


def run(module, cell, inputs, seed=0, *, reverse=False, need_grad_x=True):
    """Outputs of a scan, and the gradients for random gradients of the outputs."""
    x, states, weights, biases = inputs
    output, *last, saved = getattr(module, cell)(x, *states, *weights, *biases, reverse=reverse)
    rng = np.random.default_rng(seed + 1)
    grads_out = [rng.normal(size=a.shape).astype(x.dtype) for a in (output, *last)]
    grads = getattr(module, f"{cell}_grad")(
        *grads_out, x, *states, *weights, output, saved, reverse=reverse, need_grad_x=need_grad_x
    )
    return [output, *last], grads_out, list(grads)


def assert_close(got, expected, tolerance):
    """Errors relative to the largest number of the expected array, or to 1."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if b.size:
            assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@cells
@directions
def test_reference_agrees_with_torch(cell, reverse):
    torch = pytest.importorskip("torch")
    inputs = draw_inputs(cell, (5, 3, 4, 6))
    outputs, grads_out, grads = run(reference, cell, inputs, reverse=reverse)

    x, states, weights, biases = ([torch.tensor(a) for a in part] for part in inputs)
    x = torch.stack(list(x))
    if cell == "lstm":  # PyTorch has a second bias, which adds to the first
        biases.append(torch.zeros_like(biases[0]))
    leaves = [x, *states, *weights, *biases]
    for leaf in leaves:
        leaf.requires_grad_()
    layer = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(4, 6).double()
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    parameters = dict(zip(names, [*weights, *biases], strict=True))
    initial = tuple(s[None] for s in states)
    sequence = x.flip(0) if reverse else x
    arguments = (sequence, initial if cell == "lstm" else initial[0])
    output, last = torch.func.functional_call(layer, parameters, arguments)
    results = [output.flip(0) if reverse else output]
    results += [s[0] for s in (last if cell == "lstm" else [last])]
    torch.autograd.backward(results, [torch.tensor(g) for g in grads_out])

    assert_close(outputs, [r.detach().numpy() for r in results], 1e-14)
    expected = [leaf.grad.numpy() for leaf in leaves]
    assert_close(grads, expected[: len(grads)], 1e-14)


@cells
@directions
def test_reference_gradients_by_finite_differences(cell, reverse):
    inputs = draw_inputs(cell, (4, 3, 2, 5))
    _, grads_out, grads = run(reference, cell, inputs, reverse=reverse)
    flat = [inputs[0], *inputs[1], *inputs[2], *inputs[3]]

    def loss(arrays):
        *results, _ = getattr(reference, cell)(*arrays, reverse=reverse)
        return sum((r * g).sum() for r, g in zip(results, grads_out, strict=True))

    step = 1e-6
    rng = np.random.default_rng(2)
    for k, grad in enumerate(grads):
        direction = rng.normal(size=flat[k].shape)
        ahead = [a + step * direction if i == k else a for i, a in enumerate(flat)]
        behind = [a - step * direction if i == k else a for i, a in enumerate(flat)]
        numeric = (loss(ahead) - loss(behind)) / (2 * step)
        assert numeric == pytest.approx((grad * direction).sum(), rel=1e-7, abs=1e-7)


@cells
@directions
@pytest.mark.parametrize("dtype", TOLERANCE)
@given(
    sizes=st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 9), st.integers(1, 35)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_cpu_agrees_with_reference(cell, reverse, dtype, sizes, bias, seed):
    inputs = draw_inputs(cell, sizes, dtype, seed=seed, bias=bias)
    outputs, _, grads = run(cpu, cell, inputs, seed, reverse=reverse)
    expected, _, expected_grads = run(reference, cell, inputs, seed, reverse=reverse)
    # Gradients of the weights sum over all steps and sequences.
    assert_close(outputs, expected, TOLERANCE[dtype])
    assert_close(grads, expected_grads, 4 * TOLERANCE[dtype])


def test_reference_cell_is_a_step_of_the_scan():
    """Its gradient is the one that the scan's, checked above, is made of."""
    inputs = draw_inputs("lstm", (1, 3, 4, 5))
    (output, h, c), (grad, grad_h, grad_c), expected = run(reference, "lstm", inputs)
    grad_x, _, grad_c0, grad_ih, grad_hh, grad_bias = expected
    got, back = run_cell(reference, inputs, (grad[0] + grad_h, grad_c))
    np.testing.assert_array_equal(got, [output[0], c])
    np.testing.assert_array_equal(h, output[0])
    grad_z, grad_c = back
    x, (h, _), (weight_ih, _), _ = inputs
    found = [grad_z @ weight_ih, grad_c, grad_z.T @ x[0], grad_z.T @ h, grad_z.sum(0)]
    assert_close(found, [grad_x[0], grad_c0, grad_ih, grad_hh, grad_bias], 1e-14)


def run_cell(module, inputs, grads):
    """h and c after a step from the first of x, and the gradients for z and the c before."""
    x, (h, c), weights, biases = inputs
    h_after, c_after, gates = module.lstm_cell(x[0], h, c, *weights, *biases)
    return [h_after, c_after], [*module.lstm_cell_grad(*grads, gates, c, c_after)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(
    sizes=st.tuples(st.just(1), st.integers(0, 40), st.integers(0, 9), st.integers(1, 35)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@example(sizes=(1, 70, 9, 65), bias=True, seed=0)  # on all threads
def test_cpu_cell_agrees_with_reference(dtype, sizes, bias, seed):
    inputs = draw_inputs("lstm", sizes, dtype, seed=seed, bias=bias)
    rng = np.random.default_rng(seed)
    grads = [rng.normal(size=(sizes[1], 2 * sizes[3])).astype(dtype)[:, ::2] for _ in range(2)]
    before = [g.copy() for g in grads]
    for got, expected in zip(
        run_cell(cpu, inputs, grads), run_cell(reference, inputs, grads), strict=True
    ):
        assert_close(got, expected, 2 * TOLERANCE[dtype])
    np.testing.assert_array_equal(grads, before)


@cells
@directions
def test_threads_do_not_change_the_result(cell, reverse):
    inputs = draw_inputs(cell, (3, 75, 5, 50), np.float32)
    results = []
    usual = numba.get_num_threads()
    for threads in (1, usual):
        numba.set_num_threads(threads)
        try:
            outputs, _, grads = run(cpu, cell, inputs, reverse=reverse)
        finally:
            numba.set_num_threads(usual)
        results.append([*outputs, *grads])
    expected, _, expected_grads = run(reference, cell, inputs, reverse=reverse)
    assert_close(results[0], [*expected, *expected_grads], 1e-5)
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


@cells
def test_strided_inputs(cell):
    inputs = draw_inputs(cell, (4, 6, 3, 5))
    expected, _, expected_grads = run(cpu, cell, inputs)

    def strided(a):
        return np.repeat(a, 2, axis=0)[::2].T.copy().T

    views = (strided(inputs[0]), *([strided(a) for a in part] for part in inputs[1:]))
    outputs, _, grads = run(cpu, cell, views)
    assert_close([*outputs, *grads], [*expected, *expected_grads], 1e-14)
    # The gradient of a sum is one number, broadcast.
    x, states, weights, biases = inputs
    *_, saved = getattr(cpu, cell)(x, *states, *weights, *biases)
    ones = [np.ones_like(a) for a in expected]
    gradient = getattr(cpu, f"{cell}_grad")
    dense = gradient(*ones, x, *states, *weights, expected[0], saved)
    broadcast = [np.broadcast_to(np.float64(1), a.shape) for a in ones]
    assert_close(gradient(*broadcast, x, *states, *weights, expected[0], saved), dense, 1e-14)


@cells
@pytest.mark.parametrize("module", [cpu, reference])
def test_the_gradient_of_x_is_optional(cell, module):
    inputs = draw_inputs(cell, (2, 3, 4, 5))
    *_, grads = run(module, cell, inputs, need_grad_x=False)
    *_, expected = run(module, cell, inputs)
    assert grads[0] is None
    assert_close(grads[1:], expected[1:], 0)


@cells
def test_saturated_gates_and_nan(cell):
    inputs = draw_inputs(cell, (3, 4, 5, 6), np.float32, scale=1e4)
    outputs, _, grads = run(cpu, cell, inputs)
    expected, *_ = run(reference, cell, inputs)
    assert_close(outputs, expected, 1e-5)
    assert all(np.isfinite(grad).all() for grad in grads)
    inputs[0][1, 2] = np.nan
    output = run(cpu, cell, inputs)[0][0]
    finite = np.isfinite(output).all(axis=2)  # from step 1 on, sequence 2 is lost
    np.testing.assert_array_equal(
        finite, [[True] * 4, [True, True, False, True], [True, True, False, True]]
    )
