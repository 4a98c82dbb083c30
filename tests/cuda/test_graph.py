"""Captured steps: a replay does what the call would have done, and says so where it can't."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen
from tinygen import CaptureError, nn, optim
from tinygen import functional as F


@pytest.fixture
def device(cuda_kernels):
    tinygen.device.check("cuda")
    with cuda_kernels("precision").precision("fp32"):
        yield "cuda"


def inputs(steps: int = 8, rows: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 3)).astype(np.float32) for _ in range(steps)]


def training_step(device: str, make_optimizer, *, seed: int = 3):
    """A step of a small net with noise in it; the net and its optimizer beside."""
    tinygen.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    net.to(device)
    optimizer = make_optimizer(net.parameters())
    noise = tinygen.random.Generator(11)

    def step(x):
        optimizer.zero_grad()
        z = tinygen.Tensor(noise.normal((len(x), 2), device=x.device))
        loss = ((net(x) - z) * (net(x) - z)).mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    return step, net, optimizer, noise


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.02, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.02),
    "adamax": lambda p: optim.Adamax(p, lr=0.02),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_training_is_the_same_as_eager(device, name):
    eager, net, optimizer, noise = training_step(device, OPTIMIZERS[name])
    step, twin, twin_optimizer, twin_noise = training_step(device, OPTIMIZERS[name])
    captured = tinygen.capture(step, device=device, warmup=2)
    for i, x in enumerate(inputs()):
        if i == 5:  # a schedule reaches into the graph
            for o in (optimizer, twin_optimizer):
                o.param_groups[0]["lr"] *= 0.5
        expected = eager(tinygen.tensor(x, device=device))
        got = captured(x)
        np.testing.assert_allclose(got["loss"].item(), expected["loss"].item(), rtol=2e-5)
    for (key, a), b in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        np.testing.assert_allclose(b.cpu().numpy(), a.cpu().numpy(), 2e-5, 1e-6, err_msg=key)
    # What a checkpoint would hold of the host's side.
    assert optimizer.steps == twin_optimizer.steps == [8] * 5
    assert noise.state == twin_noise.state


def test_an_update_repeated_within_a_step(device):
    results = []
    for wrap in (lambda f: f, lambda f: tinygen.capture(f, device=device, warmup=1)):
        w = tinygen.tensor(np.ones(3, np.float32), device=device, requires_grad=True)
        optimizer = optim.Adam([w], lr=0.1)

        def step(x, w=w, optimizer=optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                ((w - x) * (w - x)).sum().backward()
                optimizer.step()
            return w

        step = wrap(step)
        for _ in range(4):
            step(tinygen.full((3,), 5.0, device=device))
        results.append((w.detach().cpu().numpy(), optimizer.steps))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    assert results[0][1] == results[1][1] == [12]


def test_averages_and_clipping_in_a_graph(device):
    results = []
    for wrap in (lambda f: f, lambda f: tinygen.capture(f, device=device, warmup=1)):
        w = tinygen.tensor(np.ones(3, np.float32), device=device, requires_grad=True)
        optimizer = optim.SGD([w], lr=0.1)
        average = optim.ExponentialMovingAverage([w], 0.32)  # warm until 4 updates are done

        def step(x, w=w, optimizer=optimizer, average=average):
            optimizer.zero_grad()
            ((w - x) * (w - x)).sum().backward()
            norm = nn.utils.clip_grad_norm_([w], 3.0)
            optimizer.step()
            average.update()
            return norm

        step = wrap(step)
        norms = [step(tinygen.full((3,), 5.0 * i, device=device)).item() for i in range(5)]
        average.updates = 1  # what is loaded between two replays counts
        step(tinygen.full((3,), 9.0, device=device))
        results.append([*norms, average.updates, *average.state_dict()["0"].numpy()])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


def test_a_graph_outlives_what_it_was_made_with(device):
    """Gradients let go, packs forgotten: the graph still updates the parameter."""
    w = tinygen.tensor(np.ones(3, np.float32), device=device, requires_grad=True)
    optimizer = optim.Adam([w], lr=0.1)

    @tinygen.capture(device=device, warmup=1)
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    for _ in range(2):
        step(tinygen.ones(3, device=device))
    optimizer.zero_grad()
    optimizer._packs.clear()
    before = w.detach().cpu().numpy()
    step(tinygen.ones(3, device=device))
    np.testing.assert_allclose(w.detach().cpu().numpy(), before - 0.1, rtol=1e-5)


def test_every_replay_draws_new_numbers_those_of_the_stream(device):
    generator = tinygen.random.Generator(5)
    draw = tinygen.capture(
        lambda x: x + tinygen.Tensor(generator.uniform((6,), device=device)),
        device=device, warmup=1,
    )  # fmt: skip
    zero = tinygen.zeros(6, device=device)
    drawn = []
    for i in range(6):
        if i == 4:
            generator.uniform((9,))  # somebody else draws in between
        drawn.append(draw(zero).cpu().numpy())
    twin = tinygen.random.Generator(5)
    for i, numbers in enumerate(drawn):
        if i == 4:
            twin.uniform((9,))
        np.testing.assert_array_equal(numbers, twin.uniform((6,)))
    assert generator.state == twin.state


def test_replays_do_not_wait_for_the_gpu(device, cupy):
    statistics = getattr(cupy, "statistics", None)
    if statistics is None:
        pytest.skip("a real GPU does not count synchronisations")
    step, *_ = training_step(device, OPTIMIZERS["adam"])
    captured = tinygen.capture(step, device=device, warmup=2)
    batches = [tinygen.tensor(x, device=device) for x in inputs()]
    for x in batches[:3]:
        captured(x)
    before = vars(statistics).copy()
    for x in batches[3:]:
        captured(x)
    assert statistics.synchronizations == before["synchronizations"]
    assert statistics.replays == before["replays"] + 5


def test_an_eager_step_does_not_wait_for_the_gpu(device, cupy):
    statistics = getattr(cupy, "statistics", None)
    if statistics is None:
        pytest.skip("a real GPU does not count synchronisations")
    step, *_ = training_step(device, OPTIMIZERS["adam"])
    batches = [tinygen.tensor(x, device=device) for x in inputs()]
    step(batches[0])
    before = statistics.synchronizations
    for x in batches[1:]:
        step(x)
    assert statistics.synchronizations == before


def test_outputs_keep_their_structure_and_come_off_the_tape(device):
    def step(x):
        y = x * 2
        return {"several": (y, [y.sum(), None])}

    w = tinygen.tensor(np.ones(3, np.float32), device=device, requires_grad=True)
    captured = tinygen.capture(step, warmup=1)
    for i in range(3):
        out = captured(w.detach() * i)
        y, (total, nothing) = out["several"]
        assert not y.requires_grad
        assert nothing is None
        np.testing.assert_array_equal(y.cpu().numpy(), np.full(3, 2.0 * i))
        assert total.item() == 6 * i
    assert captured(w.detach())["several"][0] is y  # one set of outputs, overwritten each time


def test_on_the_cpu_the_function_is_called_as_it_is():
    step = tinygen.capture(lambda x: (x * 2).sum())
    for i in range(6):
        assert step(tinygen.full((3,), i)).item() == 6 * i


@tinygen.capture(device="cuda", warmup=1)
def reads_a_value(x):
    return x if x.sum().item() > 0 else -x


@tinygen.capture(device="cuda", warmup=1)
def decides_on_the_host(x):
    return x if x.sum() > 0 else -x


@tinygen.capture(device="cuda", warmup=1)
def brings_host_memory(x):
    return x + tinygen.tensor([1.0, 2.0, 3.0]).to("cuda")


@tinygen.capture(device="cuda", warmup=1)
def draws_on_the_host(x):
    return x + tinygen.randn(3).to("cuda")


@pytest.mark.parametrize(
    "step", [reads_a_value, decides_on_the_host, brings_host_memory, draws_on_the_host]
)
def test_what_can_not_be_captured_is_named_with_its_line(device, cupy, step):
    x = tinygen.ones(3, device=device)
    step(x)
    line = step.function.__code__.co_firstlineno + 2
    message = (
        f"capture: {step.__name__} reads a value on the host, or .* at .*test_graph.py:{line}"
    )
    with pytest.raises(CaptureError, match=message):
        step(x)
    assert not cupy.cuda.get_current_stream().is_capturing()
    np.testing.assert_array_equal((x + 1).cpu().numpy(), np.full(3, 2))  # the GPU goes on


def test_the_recording_may_take_more_memory_than_the_calls_before(device):
    sizes = iter([3, 5])
    step = tinygen.capture(
        lambda x: x.sum() + tinygen.ones(next(sizes) * 1000, device=device).sum(), warmup=1
    )
    got = [step(tinygen.ones(3, device=device)).item() for _ in range(3)]
    assert got == [3003, 5003, 5003]


def test_many_arrays_are_joined_in_a_graph(device):
    """CuPy joins more than 8 by a table that it copies from the host."""
    join = tinygen.capture(lambda x: F.cat([x * i for i in range(11)]), warmup=1)
    for _ in range(3):
        joined = join(tinygen.ones(2, device=device))
    np.testing.assert_array_equal(joined.cpu().numpy(), np.repeat(np.arange(11), 2))


def test_arguments_of_any_shape_from_the_host(device):
    double = tinygen.capture(lambda *x: [2 * a for a in x], device=device, warmup=1)
    for i in range(3):
        got = double(np.array(i, np.float32), np.full((2, 3), i, np.float32).T)
        assert got[0].item() == 2 * i
        np.testing.assert_array_equal(got[1].cpu().numpy(), np.full((3, 2), 2 * i))


def test_a_step_that_changes(device):
    generators = iter([tinygen.random.Generator(1), tinygen.random.Generator(2)])
    step = tinygen.capture(
        lambda x: x + tinygen.Tensor(next(generators).uniform((3,), device=device)), warmup=1
    )
    step(tinygen.ones(3, device=device))
    with pytest.raises(CaptureError, match="a generator while it is recorded that it did not use"):
        step(tinygen.ones(3, device=device))


def test_misuse(device):
    double = tinygen.capture(lambda x: F.relu(x) * 2, warmup=1)
    double(tinygen.ones(3, device=device))
    with pytest.raises(CaptureError, match=r"for arguments float32 \(3,\), got float32 \(4,\)"):
        double(tinygen.ones(4, device=device))
    with pytest.raises(TypeError, match="was called with float; a captured step takes Tensors"):
        double(3.0)
    with pytest.raises(CaptureError, match="the step returns float"):
        tinygen.capture(lambda x: 1.0)(tinygen.ones(3, device=device))
    with pytest.raises(ValueError, match="warmup=0"):
        tinygen.capture(lambda x: x, warmup=0)
