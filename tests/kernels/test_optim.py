"""Optimizer steps against PyTorch, closed forms and `kernels/reference`."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinygen_kernels.cpu import optim as cpu
from tinygen_kernels.cpu.jit import CHUNK
from tinygen_kernels.reference import optim as reference

BACKENDS = {"reference": reference, "cpu": cpu}
DTYPES = [np.float32, np.float64]
# A scalar, an empty one, odd sizes, and one that ends inside its third chunk.
SHAPES = [(), (0, 4), (5,), (4, 3, 3, 2), (2 * CHUNK + 17,)]

BETAS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-7}
RMS = {"lr": 0.01, "alpha": 0.95, "eps": 1e-7}
# function, settings, number of state lists, needs the step's number
STEPS = {
    "sgd": ("sgd_step", {"lr": 0.1, "weight_decay": 0.1}, 0, False),
    "momentum": ("sgd_step", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, 1, False),
    "nesterov": ("sgd_step", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, 1, False),
    "rmsprop": ("rmsprop_step", {**RMS, "weight_decay": 0.1}, 1, False),
    "rmsprop momentum": ("rmsprop_step", {**RMS, "momentum": 0.8}, 2, False),
    "rmsprop inside": ("rmsprop_step", {**RMS, "eps": 1e-3, "eps_inside_root": True}, 1, False),
    "adam": ("adam_step", {**BETAS, "weight_decay": 0.1}, 2, True),
    "adamw": ("adam_step", {**BETAS, "weight_decay": 0.1, "decoupled": True}, 2, True),
    "adam inside": ("adam_step", {**BETAS, "eps": 1e-3, "eps_inside_root": True}, 2, True),
    "adamax": ("adamax_step", {**BETAS, "weight_decay": 0.1}, 2, True),
}
each_step = pytest.mark.parametrize("rule", STEPS)
each_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw(seed: int, shapes, dtype=np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def zeros(params: list[np.ndarray], lists: int) -> list[list[np.ndarray]]:
    return [[np.zeros_like(p) for p in params] for _ in range(lists)]


def run(backend, rule: str, params, gradients) -> list[list[np.ndarray]]:
    """Steps on `params` in place; returns the state."""
    name, settings, lists, numbered = STEPS[rule]
    state = zeros(params, lists)
    pack = backend.pack(params, *state)
    for step, grads in enumerate(gradients, start=1):
        number = {"step": step} if numbered else {}
        getattr(backend, name)(pack, grads, **settings, **number)
    return state


TORCH = {
    "sgd": ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {**RMS, "weight_decay": 0.1}),
    "rmsprop momentum": ("RMSprop", {**RMS, "momentum": 0.8}),
    "adam": ("Adam", {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}),
    "adamax": ("Adamax", {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}),
}


@each_backend
@pytest.mark.parametrize("rule", TORCH)
def test_ten_steps_as_in_pytorch(backend, rule):
    torch = pytest.importorskip("torch")
    name, settings = TORCH[rule]
    params = draw(0, SHAPES)
    gradients = [draw(1 + step, SHAPES) for step in range(10)]
    twins = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    optimizer = getattr(torch.optim, name)(twins, **settings)

    run(backend, rule, params, gradients)
    for grads in gradients:
        for twin, g in zip(twins, grads, strict=True):
            twin.grad = torch.tensor(g)
        optimizer.step()

    for p, twin in zip(params, twins, strict=True):
        np.testing.assert_allclose(p, twin.detach().numpy(), rtol=1e-12, atol=1e-12)


@each_backend
def test_epsilon_inside_the_root_in_closed_form(backend):
    p, g = np.array([1.0, 1.0, 1.0]), np.array([1e-3, -1e-6, 0.0])
    run(backend, "adam inside", [p], [[g]])
    # After one step m̂ = g and v̂ = g².
    np.testing.assert_allclose(p, 1 - 0.01 * g / np.sqrt(g * g + 1e-3), rtol=1e-14)

    p = np.array([1.0, 1.0, 1.0])
    run(backend, "rmsprop inside", [p], [[g]])
    np.testing.assert_allclose(p, 1 - 0.01 * g / np.sqrt(0.05 * g * g + 1e-3), rtol=1e-14)


@each_dtype
@each_step
def test_cpu_equals_reference(rule, dtype):
    params = draw(0, SHAPES, dtype)
    expected = [p.copy() for p in params]
    gradients = [draw(1 + step, SHAPES, dtype) for step in range(3)]
    state = run(cpu, rule, params, gradients)
    expected_state = run(reference, rule, expected, gradients)

    # A parameter moves by about lr a step: rounding is relative to that and to its own size.
    tolerance = 20 * np.finfo(dtype).eps
    for found, wanted in zip([params, *state], [expected, *expected_state], strict=True):
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert not np.array_equal(params[-1], draw(0, SHAPES, dtype)[-1])


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.randoms(use_true_random=False),
)
def test_any_memory_order(shapes, dtype, random):
    def permuted(a: np.ndarray) -> np.ndarray:
        """The same values in memory that runs through the axes in another order."""
        axes = list(range(a.ndim))
        random.shuffle(axes)
        return a.transpose(axes).copy().transpose(np.argsort(axes))

    plain, grads = draw(0, shapes, dtype), draw(1, shapes, dtype)
    params = [permuted(p) for p in plain]
    strided = [np.repeat(permuted(g), 2, axis=-1)[..., ::2] if g.ndim else g for g in grads]
    run(cpu, "adam", params, [[permuted(g) for g in grads], strided])
    run(cpu, "adam", plain, [grads, grads])
    for a, b in zip(params, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@each_dtype
def test_one_thread_and_all_threads_agree(dtype, monkeypatch):
    gradients = [draw(1, SHAPES, dtype)]
    one, all_ = draw(0, SHAPES, dtype), draw(0, SHAPES, dtype)
    for rule in STEPS:
        monkeypatch.setattr(cpu, "_SERIAL", 10**9)
        run(cpu, rule, one, gradients)
        monkeypatch.setattr(cpu, "_SERIAL", 0)
        run(cpu, rule, all_, gradients)
        for a, b in zip(one, all_, strict=True):
            np.testing.assert_allclose(a, b, rtol=4 * np.finfo(dtype).eps, err_msg=rule)


def test_results_do_not_depend_on_the_number_of_threads():
    arrays = draw(0, SHAPES, np.float32)
    threads = numba.get_num_threads()

    def results(count: int) -> tuple:
        numba.set_num_threads(count)
        params = [a.copy() for a in arrays]
        run(cpu, "adam", params, [arrays])
        return cpu.global_norm(arrays), [p.tobytes() for p in params]

    try:
        assert results(1) == results(threads)
    finally:
        numba.set_num_threads(threads)


@each_backend
@each_step
def test_nan_and_infinity_reach_the_parameter(backend, rule):
    p, g = np.ones(8, np.float32), np.ones(8, np.float32)
    g[2], g[5] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        state = run(backend, rule, [p], [[g]])
    assert np.isnan([p[2], *(s[2] for (s,) in state)]).all()
    assert not np.isfinite(p[5])
    assert np.isfinite(np.delete(p, [2, 5])).all()


@each_backend
def test_a_zero_gradient_moves_nothing(backend):
    for rule in ("adam inside", "rmsprop inside", "nesterov"):
        p = np.full(3, 0.5, np.float32)
        run(backend, rule, [p], [[np.zeros(3, np.float32)]])
        np.testing.assert_array_equal(p, np.full(3, 0.5, np.float32))


@pytest.mark.parametrize(
    ("updates", "decay"), [({}, 0.9), ({"updates": 0}, 0.1), ({"updates": 1000}, 0.9)]
)
@each_dtype
@each_backend
def test_moving_average(backend, dtype, updates, decay):
    averages, params = draw(0, SHAPES, dtype), draw(1, SHAPES, dtype)
    expected = [decay * a + (1 - decay) * p for a, p in zip(averages, params, strict=True)]
    backend.ema_step(backend.pack(averages, params), 0.9, **updates)
    for a, e in zip(averages, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=8 * np.finfo(dtype).eps)


@each_backend
def test_global_norm(backend):
    arrays = draw(0, SHAPES, np.float32)
    arrays += [draw(1, [(6, 8)])[0][:, ::2], np.broadcast_to(np.float32(3), (7, 5))]
    flat = np.concatenate([a.ravel().astype(np.float64) for a in arrays])
    assert backend.global_norm(arrays) == pytest.approx(np.linalg.norm(flat), rel=1e-13)
    assert backend.global_norm([]) == 0
    # The squares overflow float32, their sum does not overflow float64.
    large = np.full(3, 1e30, np.float32)
    assert backend.global_norm([large]) == pytest.approx(np.sqrt(3) * 1e30, rel=1e-6)
    assert np.isnan(backend.global_norm([np.array([1.0, np.nan])]))


@each_backend
def test_scale(backend):
    arrays = draw(0, SHAPES, np.float32)
    expected = [a * np.float32(0.25) for a in arrays]
    backend.scale_(arrays, 0.25)
    for a, e in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_errors_say_what_is_wrong():
    p = np.zeros((3, 4), np.float32)
    with pytest.raises(TypeError, match="float32 and float64"):
        cpu.pack([p, p.astype(np.float64)])
    with pytest.raises(TypeError, match="int64"):
        cpu.pack([np.zeros(3, np.int64)])
    with pytest.raises(ValueError, match=r"state has shape \(4, 3\), its parameter \(3, 4\)"):
        cpu.pack([p], [np.zeros((4, 3), np.float32)])
    with pytest.raises(ValueError, match="zeros_like"):
        cpu.pack([p], [np.zeros((4, 3), np.float32).T])
    with pytest.raises(ValueError, match="dense"):
        cpu.pack([np.zeros((3, 8), np.float32)[:, ::2]])
    frozen = p.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        cpu.pack([frozen])
    pack = cpu.pack([p])
    with pytest.raises(ValueError, match=r"gradient has shape \(4,\), its parameter \(3, 4\)"):
        cpu.sgd_step(pack, [np.zeros(4, np.float32)], lr=1)
    with pytest.raises(TypeError, match="gradient is float64, its parameter float32"):
        cpu.sgd_step(pack, [np.zeros((3, 4))], lr=1)
    with pytest.raises(ValueError, match="zip"):
        cpu.sgd_step(pack, [], lr=1)
