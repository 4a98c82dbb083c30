"""Chains of element-wise operations: the definition against NumPy, the CPU against it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LAYOUTS, in_layout
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import elementwise as cpu
from tinygen_kernels.cpu.jit import CHUNK
from tinygen_kernels.reference import elementwise as reference

each_backend = pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
layouts = st.sampled_from(LAYOUTS)


@each_backend
def test_every_step_is_numpys(backend):
    x, b = np.random.default_rng(0).uniform(0.5, 2, (2, 4, 3)).astype(np.float32)
    expected = {
        **{"neg": -x, "abs": abs(x), "square": x * x, "sqrt": np.sqrt(x), "exp": np.exp(x)},
        **{"log": np.log(x), "add": x + b, "sub": x - b, "rsub": b - x, "mul": x * b},
        **{"div": x / b, "rdiv": b / x, "max": np.maximum(x, b), "min": np.minimum(x, b)},
    }
    assert {*expected, *reference.SAVED} == {*reference.STEPS}
    for name, value in expected.items():
        operand = [b] if name in reference._BINARY else []
        np.testing.assert_array_equal(backend.chain(x, [(name, *operand)]), value)
    for name in reference.SAVED:
        np.testing.assert_array_equal(backend.chain(x, [(name,)]), reference.activation(x, name))
    np.testing.assert_array_equal(
        backend.chain(-x, [("leaky_relu", 0.25), ("mul", -4)]), x, strict=True
    )


@each_backend
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), layouts, layouts, st.integers(0, 99))
def test_operands_broadcast(backend, shape, layout, other, seed):
    x, eps = np.random.default_rng(seed).standard_normal((2, *shape))
    bias = np.random.default_rng(seed).standard_normal(shape[-1])
    channel = np.random.default_rng(seed).standard_normal((shape[0], *(1,) * (len(shape) - 1)))
    steps = [("exp",), ("mul", in_layout(eps, other)), ("add", bias), ("div", channel)]
    kept = x.copy()
    found = backend.chain(in_layout(x, layout), [*steps, ("rsub", 1), ("max", np.ones(()))])
    np.testing.assert_array_equal(
        found, np.maximum(1 - (np.exp(x) * eps + bias) / channel, 1), strict=True
    )
    np.testing.assert_array_equal(x, kept)


def test_many_chunks_and_memory_order_on_the_cpu():
    x = in_layout(np.random.default_rng(0).standard_normal((2, 3, 7, CHUNK // 8)), "channels_last")
    steps = [("mul", x), ("add", np.arange(3.0)[:, None, None])]
    found = cpu.chain(x, steps)
    assert found.strides == x.strides
    np.testing.assert_array_equal(found, reference.chain(x, steps))


@each_backend
def test_a_chain_never_returns_its_input(backend):
    x = np.arange(3.0)
    y = backend.chain(x, [])
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(y, x)


@each_backend
@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        ([("swish",)], ValueError, "'swish' is not one of relu, .*, min"),
        ([("exp", 1.0)], ValueError, "exp got 1 operands, expected 0"),
        ([("add",)], ValueError, "add got 0 operands, expected 1"),
        ([("elu", -1.0)], ValueError, "elu with the parameter -1"),
        ([("mul", np.ones(3, np.float32))], TypeError, "mul of float32 to float64; convert"),
        ([("mul", np.ones(2))], ValueError, r"shape \(2,\) for x of shape \(2, 3\)"),
        ([("mul", np.ones((1, 1, 1)))], ValueError, r"shape \(1, 1, 1\) for x of"),
        ([("exp",)] * 9, ValueError, "9 steps with 0 arrays, at most 8"),
        ([("mul", np.ones(3))] * 7, ValueError, "7 steps with 7 arrays, at most 8 with 6"),
    ],
)
def test_errors(backend, steps, error, message):
    with pytest.raises(error, match=message):
        backend.chain(np.ones((2, 3)), steps)
