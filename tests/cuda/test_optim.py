"""Optimizer steps on the GPU against `kernels/reference`."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import optim as reference

DTYPES = [np.float32, np.float64]
# A scalar, empty ones, odd sizes, and one that ends inside its second chunk.
SHAPES = [(), (0, 4), (1,), (5,), (4, 3, 3, 2), (1025,), (4096 + 17,), (0,), (3,), (4096,)]

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
    "adam without momentum": ("adam_step", {**BETAS, "beta1": 0.0}, 2, True),
    "adamax": ("adamax_step", {**BETAS, "weight_decay": 0.1}, 2, True),
}
each_step = pytest.mark.parametrize("rule", STEPS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def optim(cuda_kernels):
    return cuda_kernels("optim")


def draw(seed: int, shapes, dtype=np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def there(arrays) -> list:
    return [to_gpu(a) for a in arrays]


def run(kernels, rule: str, params, gradients, numbers=lambda lr, step: (lr, step)) -> list:
    """Steps on `params` in place, with a new set of gradients each; returns the state."""
    name, options, lists, numbered = STEPS[rule]
    state = [[np.zeros_like(p) for p in params] for _ in range(lists)]
    pack = kernels.pack(params, *state)
    for step, grads in enumerate(gradients, start=1):
        lr, step = numbers(options["lr"], step)
        number = {"step": step} if numbered else {}
        getattr(kernels, name)(pack, grads, **{**options, "lr": lr, **number})
    return state


def assert_same(found, expected, dtype):
    """A parameter moves by about lr a step: rounding is relative to that and to its own size."""
    tolerance = 20 * np.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(to_cpu(a), b, rtol=tolerance, atol=tolerance)


@each_dtype
@each_step
def test_steps_equal_the_reference(optim, rule, dtype):
    expected, gradients = draw(0, SHAPES, dtype), [draw(s, SHAPES, dtype) for s in (1, 2, 3)]
    params = there(expected)
    state = run(optim, rule, params, map(there, gradients))
    expected_state = run(reference, rule, expected, gradients)
    for found, wanted in zip([params, *state], [expected, *expected_state], strict=True):
        assert_same(found, wanted, dtype)
    assert not np.array_equal(to_cpu(params[-1]), draw(0, SHAPES, dtype)[-1])


@each_dtype
def test_plain_adam_equals_the_reference(optim, dtype):
    expected, grads = draw(0, SHAPES, dtype), draw(1, SHAPES, dtype)
    params, expected_state = there(expected), [draw(2, SHAPES, dtype) for _ in range(2)]
    expected_state[1] = [np.asarray(np.abs(v)) for v in expected_state[1]]
    state = [there(arrays) for arrays in expected_state]
    optim._adam_step_plain(optim.pack(params, *state), there(grads), **BETAS, step=3)
    reference.adam_step(reference.pack(expected, *expected_state), grads, **BETAS, step=3)
    for found, wanted in zip([params, *state], [expected, *expected_state], strict=True):
        assert_same(found, wanted, dtype)


@pytest.mark.parametrize("lr_dtype", DTYPES)
@each_step
def test_learning_rate_and_step_on_the_device(optim, rule, lr_dtype):
    """Read by the kernel: new values in the same memory count at the next step."""
    expected = draw(0, SHAPES)
    params, gradients = there(expected), [draw(s, SHAPES) for s in (1, 2, 3)]
    rate, number = to_gpu(np.zeros((), lr_dtype)), to_gpu(np.zeros((), np.int64))

    def on_the_device(lr, step):
        rate.fill(lr * step)
        number.fill(step)
        return rate, number

    def on_the_host(lr, step):
        return float(lr_dtype(lr * step)), step

    run(optim, rule, params, map(there, gradients), on_the_device)
    run(reference, rule, expected, gradients, on_the_host)
    assert_same(params, expected, np.float64)


def test_a_late_step(optim):
    """1 - βᵗ where βᵗ is near 1 and where it is 0 to all digits."""
    for step in (1, 10, 1000, 10**6):
        for beta2 in (0.9, 0.999999):
            options = {**BETAS, "beta2": beta2, "step": step}
            (p,), (g,), (m,), (v,) = (draw(s, [(7,)]) for s in range(4))
            arrays = [p], [m], [np.abs(v)]
            moved = [there(a) for a in arrays]
            optim.adam_step(optim.pack(*moved), there([g]), **options)
            reference.adam_step(reference.pack(*arrays), [g], **options)
            np.testing.assert_allclose(to_cpu(moved[0][0]), p, rtol=1e-14, atol=1e-14)


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.randoms(use_true_random=False),
)
@settings(max_examples=15)
def test_any_memory_order(optim, shapes, dtype, random):
    def permuted(a: np.ndarray) -> np.ndarray:
        """The same values in memory that runs through the axes in another order."""
        axes = list(range(a.ndim))
        random.shuffle(axes)
        return a.transpose(axes).copy().transpose(np.argsort(axes))

    expected, grads = draw(0, shapes, dtype), draw(1, shapes, dtype)
    params = [to_gpu(permuted(p)) for p in expected]
    orders = [p.strides for p in params]
    strided = [in_layout(permuted(g), "strided") for g in grads]
    run(optim, "adam", params, [there([permuted(g) for g in grads]), there(strided)])
    run(reference, "adam", expected, [grads, grads])
    assert_same(params, expected, dtype)
    assert [p.strides for p in params] == orders


def test_channels_last_parameters(optim):
    """A weight as convolutions keep it, its gradient in C order at first."""
    (p,), (g,) = draw(0, [(6, 5, 3, 3)]), draw(1, [(6, 5, 3, 3)])
    params = [to_gpu(in_layout(p, "channels_last"))]
    run(optim, "adam", params, [there([g]), there([in_layout(g, "channels_last")])])
    expected = [p.copy()]
    run(reference, "adam", expected, [[g], [g]])
    assert_same(params, expected, np.float64)


@pytest.mark.parametrize("shifted", range(4))
@each_dtype
def test_memory_that_no_vector_fits(optim, shifted, dtype):
    """One of the four arrays begins one element after a multiple of 16 bytes."""
    arrays = [np.abs(a) for a in draw(0, [(1030,)] * 4, dtype)]
    moved = there(arrays)
    moved[shifted] = to_gpu(np.concatenate([[7], arrays[shifted]]).astype(dtype))[1:]
    p, m, v, g = moved
    optim.adam_step(optim.pack([p], [m], [v]), [g], **BETAS, step=2)
    p_, m_, v_, g_ = arrays
    reference.adam_step(reference.pack([p_], [m_], [v_]), [g_], **BETAS, step=2)
    assert_same([p, m, v], [p_, m_, v_], dtype)


def test_more_parameters_than_a_launch_takes(optim, monkeypatch):
    shapes = [(n % 7,) for n in range(449)]
    expected, grads = draw(0, shapes), draw(1, shapes)
    params = there(expected)
    pack = optim.pack(params)
    assert len(pack.parts) == 2
    optim.sgd_step(pack, there(grads), lr=0.5)
    reference.sgd_step(reference.pack(expected), grads, lr=0.5)
    assert_same(params, expected, np.float64)
    gpu_grads = there(grads)
    norm = np.linalg.norm(np.concatenate(grads))
    assert to_cpu(optim.global_norm(gpu_grads)) == pytest.approx(norm, rel=1e-14)
    optim.scale_(gpu_grads, 2)
    assert_same(gpu_grads, [2 * g for g in grads], np.float64)


def test_no_parameters(optim):
    optim.sgd_step(optim.pack([]), [], lr=1)
    optim.ema_step(optim.pack([], []), 0.9)
    optim.sgd_step(optim.pack(there([np.zeros(0)])), there([np.zeros(0)]), lr=1)
    optim.scale_([], 2)


@each_step
def test_nan_and_infinity_reach_the_parameter(optim, rule):
    g = np.ones(8, np.float32)
    g[2], g[5] = np.nan, np.inf
    params = there([np.ones(8, np.float32)])
    state = run(optim, rule, params, [there([g])])
    p = to_cpu(params[0])
    assert np.isnan([p[2], *(to_cpu(s)[2] for (s,) in state)]).all()
    assert not np.isfinite(p[5])
    assert np.isfinite(np.delete(p, [2, 5])).all()


@pytest.mark.parametrize("on_device", [False, True])
@each_dtype
def test_moving_average(optim, dtype, on_device):
    averages, params = draw(0, SHAPES, dtype), draw(1, SHAPES, dtype)
    found, of = there(averages), there(params)
    for updates in (0, 30, np.inf):  # a warm-up, its end, none
        count = to_gpu(np.array(updates)) if on_device else updates
        optim.ema_step(optim.pack(found, of), 0.7, updates=count)
        reference.ema_step(reference.pack(averages, params), 0.7, updates=updates)
    assert_same(found, averages, dtype)
    assert_same(of, params, dtype)


def arrays_of_all_kinds() -> list[np.ndarray]:
    """Two dtypes, and memory that has gaps or repeats itself."""
    mixed = draw(0, SHAPES, np.float32) + draw(1, SHAPES[3:6], np.float64)
    return [*mixed, in_layout(draw(2, [(6, 8)], np.float32)[0], "strided")]


def test_global_norm(optim):
    arrays = [*arrays_of_all_kinds(), np.broadcast_to(np.float32(3), (7, 5))]
    flat = np.concatenate([a.ravel().astype(np.float64) for a in arrays])
    found = optim.global_norm(there(arrays))
    assert found.shape == ()
    assert to_cpu(found) == pytest.approx(np.linalg.norm(flat), rel=1e-13)
    assert to_cpu(optim.global_norm([])) == 0
    # The squares overflow float32, their sum does not overflow float64.
    large = there([np.full(3, 1e30, np.float32)])
    assert to_cpu(optim.global_norm(large)) == pytest.approx(np.sqrt(3) * 1e30, rel=1e-6)
    assert np.isnan(to_cpu(optim.global_norm(there([np.array([1.0, np.nan])]))))


@pytest.mark.parametrize("on_device", [False, True])
def test_scale(optim, on_device):
    arrays = arrays_of_all_kinds()
    found = there(arrays)
    optim.scale_(found, to_gpu(np.float64(0.25)) if on_device else 0.25)
    for a, e in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(to_cpu(a), e * a.dtype.type(0.25))


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
def test_clip_norm(optim, max_norm):
    arrays = arrays_of_all_kinds()
    norm = reference.global_norm(arrays)
    found = there(arrays)
    assert to_cpu(optim.clip_norm_(found, max_norm)) == pytest.approx(norm, rel=1e-13)
    factor = min(1.0, max_norm / norm)
    for a, e in zip(found, arrays, strict=True):
        np.testing.assert_allclose(to_cpu(a), e * factor, rtol=1e-6 if factor < 1 else 0)
    if factor < 1:
        after = reference.global_norm([to_cpu(a) for a in found])
        assert after == pytest.approx(max_norm, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clip_norm_shows_what_is_not_finite(optim, bad):
    arrays = [np.array([1.0, bad, -2.0]), np.array([5.0])]
    found = there(arrays)
    assert not np.isfinite(to_cpu(optim.clip_norm_(found, 0.1)))
    for a, e in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(to_cpu(a), e)


def test_a_recorded_step_reads_its_numbers_anew(cupy, optim):
    """Clipping and Adam in a CUDA graph: each replay sees the rate, the step and the gradients."""
    expected, gradients = draw(0, SHAPES), [draw(s, SHAPES) for s in (1, 2, 3, 4)]
    params, grads = there(expected), there(gradients[0])
    moments = [[np.zeros_like(p) for p in params] for _ in range(2)]
    rate, step = to_gpu(np.zeros(())), to_gpu(np.zeros((), np.int64))
    pack = optim.pack(params, *moments)
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.Device().synchronize()

    def work():
        result = optim._norm_and_factor(grads, 1.5)  # as `clip_norm_` does
        optim.scale_(grads, result[1])
        optim.adam_step(pack, grads, **{**BETAS, "lr": rate}, step=step)
        return result

    with stream, cupy.cuda.using_allocator(pool.malloc):
        first = work()  # compiles, and makes the tables, with rate and step 0
        stream.synchronize()
        del first
        stream.begin_capture()
        result = work()
        graph = stream.end_capture()
        for p, m, v, start in zip(params, *moments, expected, strict=True):
            p.set(start)
            m.fill(0)
            v.fill(0)
        norms = []
        for number, new in enumerate(gradients, start=1):
            for g, values in zip(grads, new, strict=True):
                g.set(values)
            rate.fill(0.01 * number)
            step.fill(number)
            graph.launch(stream)
            stream.synchronize()
            norms.append(to_cpu(result)[0])
    moments = [[np.zeros_like(p) for p in expected] for _ in range(2)]
    for number, grads in enumerate(gradients, start=1):
        assert norms[number - 1] == pytest.approx(reference.global_norm(grads))
        reference.scale_(grads, 1.5 / norms[number - 1])
        options = {**BETAS, "lr": 0.01 * number, "step": number}
        reference.adam_step(reference.pack(expected, *moments), grads, **options)
    assert_same(params, expected, np.float64)


def test_errors_say_what_is_wrong(optim):
    p = to_gpu(np.zeros((3, 4), np.float32))
    with pytest.raises(TypeError, match="float32 and float64"):
        optim.pack([p, p.astype(np.float64)])
    with pytest.raises(TypeError, match="int64"):
        optim.pack([to_gpu(np.zeros(3, np.int64))])
    with pytest.raises(ValueError, match=r"state has shape \(4, 3\), its parameter \(3, 4\)"):
        optim.pack([p], [to_gpu(np.zeros((4, 3), np.float32))])
    with pytest.raises(ValueError, match="zeros_like"):
        optim.pack([p], [to_gpu(np.zeros((4, 3), np.float32)).T])
    pack = optim.pack([p])
    with pytest.raises(ValueError, match=r"gradient has shape \(4,\), its parameter \(3, 4\)"):
        optim.sgd_step(pack, [to_gpu(np.zeros(4, np.float32))], lr=1)
    with pytest.raises(TypeError, match="gradient is float64, its parameter float32"):
        optim.sgd_step(pack, [to_gpu(np.zeros((3, 4)))], lr=1)
    with pytest.raises(ValueError, match="zip"):
        optim.sgd_step(pack, [], lr=1)
    with pytest.raises(TypeError, match=r"got float32 \(2,\) for a number"):
        optim.sgd_step(pack, [p], lr=to_gpu(np.zeros(2, np.float32)))
