"""The IAF gate: the formula and its digits, gradients, CPU against reference, the tape."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, check_op, in_layout, values
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.cpu import flow as cpu
from tinygen_kernels.reference import flow as reference

from tinygen import Tensor, grad
from tinygen import functional as F

INF, NAN = np.inf, np.nan
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}
modules = pytest.mark.parametrize("module", [cpu, reference])
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
layouts = st.sampled_from(LAYOUTS)


def draw(rows, width, dtype, seed=0):
    """z, ms, and gradients of the output and of log_det."""
    rng = np.random.default_rng(seed)
    shapes = (rows, width), (rows, 2 * width), (rows, width), (rows,)
    return [(3 * rng.normal(size=shape)).astype(dtype) for shape in shapes]


def assert_close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@dtypes
@settings(max_examples=12)
@given(st.integers(0, 9), st.sampled_from([0, 1, 5, 32, 67]), layouts, layouts, st.integers(0, 99))
def test_cpu_agrees_with_reference(dtype, rows, width, layout, other, seed):
    z, ms, g, of_log_det = draw(rows, width, dtype, seed)
    inputs = in_layout(z, layout), in_layout(ms, other)
    expected = reference.iaf_gate(z, ms, bias=1.5)
    assert_close(cpu.iaf_gate(*inputs, bias=1.5), expected, TOLERANCE[dtype])
    expected = reference.iaf_gate_grad(g, of_log_det, z, ms, bias=1.5)
    got = cpu.iaf_gate_grad(in_layout(g, other), in_layout(of_log_det, layout), *inputs, bias=1.5)
    assert_close(got, expected, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize(("rows", "width"), [(700, 67), (3, 20_001)])
def test_large_inputs_in_parallel(rows, width):
    z, ms, *grads = draw(rows, width, np.float32)
    exact = reference.iaf_gate(z.astype(float), ms.astype(float), bias=0.5)
    got = cpu.iaf_gate(z, ms, bias=0.5)
    assert_close([x.astype(float) for x in got], exact, 1e-6)
    expected = reference.iaf_gate_grad(*grads, z, ms, bias=0.5)
    assert_close(cpu.iaf_gate_grad(*grads, z, ms, bias=0.5), expected, 1e-5)


@modules
@dtypes
def test_nothing_is_lost_where_the_gate_is_nearly_open_or_shut(module, dtype):
    """1 - σ(60) is 1e-26, not 0, and log σ(-1e4) is -1e4."""
    s = np.array([30, 60, -60, 1e4, -1e4], dtype)[:, None]
    z, m = np.zeros_like(s), np.ones_like(s)
    out, log_det = module.iaf_gate(z, np.concatenate([m, s], 1), bias=0.0)
    rtol = 8 * TOLERANCE[dtype]
    tails = np.exp([-30.0, -60.0])
    exact = [*tails / (1 + tails), 1, 0, 1]
    np.testing.assert_allclose(out[:, 0], exact, rtol)
    np.testing.assert_allclose(log_det, [*-np.log1p(tails), -60, 0, -1e4], rtol)


@modules
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_and_inf_travel(module):
    z = np.array([[NAN, 1.0], [INF, 1.0], [1.0, 1.0], [1.0, 1.0]])
    ms = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [NAN, 0, 0, 0], [0, 0, NAN, 0]], float)
    out, log_det = module.iaf_gate(z, ms, bias=1.0)
    np.testing.assert_array_equal(np.isfinite(out[:, 0]), [False] * 4)
    np.testing.assert_array_equal(np.isfinite(out[:, 1]), [True] * 4)
    np.testing.assert_array_equal(np.isnan(log_det), [False, False, False, True])


@pytest.mark.parametrize("step", [F.iaf_gate, F.iaf_affine])
@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 1, 3)])
def test_gradients_of_two_orders(step, shape):
    z = values(shape, 0)
    ms = values((shape[0], 2 * shape[1], *shape[2:]), 1)

    def formula(z, ms):
        m, s = np.split(ms, 2, axis=1)
        axes = tuple(range(1, z.ndim))
        if step is F.iaf_affine:
            return (z - 0.1 * m) / np.exp(0.1 * s), -0.1 * s.sum(axes)
        keep = 1 / (1 + np.exp(-s - 1.5))
        return keep * z + (1 - keep) * m, np.log(keep).sum(axes)

    check_op(step, [z, ms], formula)


@pytest.mark.parametrize("used", [0, 1])
def test_either_output_alone_has_gradients(used):
    z, ms = Tensor(values((3, 4), 0), requires_grad=True), Tensor(values((3, 8), 1))
    ms.requires_grad = True
    both = [np.zeros((3, 4)), np.zeros(3)]
    both[used] += 1
    expected = reference.iaf_gate_grad(*both, z.data, ms.data, bias=1.5)
    got = grad(F.iaf_gate(z, ms)[used].sum(), [z, ms], allow_unused=True)
    assert_close([g.data for g in got], expected, 1e-14)


@pytest.mark.parametrize("step", [F.iaf_gate, F.iaf_affine])
def test_shapes_that_do_not_fit_are_one_line(step):
    for z, ms in [((3, 4), (3, 4)), ((3, 4), (2, 8)), ((4,), (8,)), ((3, 2, 5), (3, 4, 6))]:
        with pytest.raises(ValueError, match=r"so ms must hold m and s as \(N, 2D, ...\), got"):
            step(np.zeros(z), np.zeros(ms))
    with pytest.raises(TypeError, match="expected float32 for all"):
        step(np.zeros((3, 4), int), np.zeros((3, 8), int))
