"""The cases of the GPU report, as far as they can be tested without a GPU.

Our side of every case runs on the emulated GPU at toy sizes, PyTorch on the CPU as its peer.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

import pytest
from gpu import missing, mode, to_cpu, to_gpu

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from report import (  # noqa: E402
    densities,
    elements,
    products,
    recurrences,
    rows,
    steps,
    table,
    workers,
    zoo,
)
from report.cases import Case, normal  # noqa: E402
from twins.common import Torch  # noqa: E402

FAMILIES = elements, rows, densities, products, recurrences
CASES = [case for family in FAMILIES for case in family.cases(quick=True)]


@pytest.fixture(scope="module")
def measure():
    """The module that measures, with a `Gpu` for this machine."""
    mode()
    if missing():
        pytest.skip(missing())
    from report import measure

    return measure


@pytest.fixture(scope="module")
def gpu(measure):
    """Our kernels on the GPU that the tests use; PyTorch on the CPU; a clock that stands still."""

    class OnTheCPU(measure.Gpu):
        def __init__(self):
            self.device = torch.device("cpu")
            self.stream = measure.cupy.cuda.Stream(non_blocking=True)

        def current(self):
            return self.stream

        def to_array(self, tensor):
            return to_gpu(tensor.numpy())

        def to_tensor(self, array):
            return torch.from_numpy(to_cpu(array))

        def record_theirs(self, call):
            return measure.Recorded(call, (), None)

        def time(self, call, seconds):
            call()
            return {"median": 1.0, "p20": 1.0, "p80": 1.0, "calls": 1}

        def host_time(self, call):
            return 0.5

        def free(self):
            pass

    return OnTheCPU()


@pytest.fixture
def settings(measure):
    """What `measure` sets for good is put back."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [f.allow_tf32 for f in flags], torch.backends.cudnn.benchmark
    with measure.precision.precision(measure.precision.get()):
        yield
    for flag, value in zip(flags, before[0], strict=True):
        flag.allow_tf32 = value
    torch.backends.cudnn.benchmark = before[1]


# --------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_case_is_right_eager_and_replayed(case, measure, gpu, settings):
    row = measure.measure(case, gpu, seed=5, seconds=0)
    assert row["timed"] == "graph", row
    assert row["error"] < 1e-2
    assert set(row["peers"]) == set(case.peers)
    assert all("median" in peer for peer in row["peers"].values()), row
    assert case.bytes > 0


def test_full_size_cases_have_names_of_their_own():
    full = [case for family in FAMILIES for case in family.cases()]
    assert len({case.key for case in full}) == len(full)
    assert len({case.key for case in CASES}) == len(CASES)
    families = {case.family for case in full}
    assert families == {case.family for case in CASES}
    assert {
        "conv",
        "matmul",
        "lstm",
        "norm",
        "softmax",
        "optim",
        "random",
        "density",
        "flow",
    } <= families


def doubling(ours, **options) -> Case:
    """A case that doubles 1,000 numbers, as `ours(arrays)` does it."""
    return Case(
        family="toy",
        name="doubling",
        inputs={"x": normal(1000)},
        ours=lambda kernels, a: lambda: ours(a["x"]),
        peers={"torch": lambda a: lambda: 2 * a["x"]},
        bytes=8000,
        **options,
    )


def off_by_little(x):
    y = 2 * x
    y[7:8] *= 1.01
    return y


def with_a_nan(x):
    y = 2 * x
    y[7:8] = float("nan")
    return y


def partly_unwritten(x):
    import cupy

    y = cupy.empty_like(x)
    y[:-1] = 2 * x[:-1]
    return y


@pytest.mark.parametrize("wrong", [off_by_little, with_a_nan, partly_unwritten])
def test_a_wrong_result_is_not_timed(wrong, measure, gpu, settings):
    with pytest.raises(RuntimeError, match="relative error"):
        measure.measure(doubling(wrong), gpu, seed=0, seconds=0)
    measure.measure(doubling(lambda x: 2 * x), gpu, seed=0, seconds=0)


def test_results_of_another_shape_are_wrong(measure, gpu, settings):
    with pytest.raises(RuntimeError, match=r"shapes \[\(999,\)\], expected \[\(1000,\)\]"):
        measure.measure(doubling(lambda x: 2 * x[1:]), gpu, seed=0, seconds=0)


def test_a_replay_that_writes_nothing_is_wrong(measure, gpu, settings):
    """A result that is computed once and handed out again is right eagerly, but not in a graph."""
    kept = []

    def once(x):
        kept.append(2 * x) if not kept else None
        return kept[0]

    with pytest.raises(RuntimeError, match="relative error nan"):
        measure.measure(doubling(once), gpu, seed=0, seconds=0)


def test_what_reads_on_the_host_is_timed_eagerly_and_says_so(measure, gpu, settings):
    def reads(x):
        return 2 * x if float(x[0]) < 100 else x

    row = measure.measure(doubling(reads), gpu, seed=0, seconds=0)
    assert row["timed"] == "eager"
    assert "Capture" in row["why"]
    assert row["ours"]["median"] == 1


def test_a_peer_that_fails_is_named_and_the_row_goes_on(measure, gpu, settings):
    def broken(a):
        raise ValueError("no such layout\nand more")

    case = doubling(lambda x: 2 * x)
    row = measure.measure(
        Case(**{**vars(case), "peers": {**case.peers, "other": broken}}), gpu, seed=0, seconds=0
    )
    assert row["peers"]["other"] == {"failed": "ValueError: no such layout"}
    assert table.fastest(row) == "torch"


def test_inputs_are_fresh_for_every_seed():
    case = doubling(lambda x: 2 * x)
    one, same, other = (case.draw(torch.Generator().manual_seed(s))["x"] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_worker_answers_with_a_row(gpu, settings):
    worker = workers.Kernels()
    worker._gpu = gpu
    key = "elementwise: tanh 37, fp32"
    row = worker.answer({"ask": "case", "key": key, "quick": True, "seed": 1, "seconds": 0})
    assert json.loads(json.dumps(row)) == row
    assert table.speed(row) == 1


def test_workers_list_the_cases_without_a_gpu():
    cases = workers.answering("kernels")({"ask": "cases", "quick": True})
    assert {*cases} == {case.key for case in CASES}
    json.dumps(cases)


# --------------------------------------------------------------------------------------- clock


class Scrap:
    """Stands for the buffer larger than L2."""

    def zero_(self):
        self.written = getattr(self, "written", 0) + 1


def test_times_are_percentiles_between_events_with_a_flush_before_each(measure, monkeypatch):
    clock = count(1)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = next(clock) ** 2

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    gpu = object.__new__(measure.Gpu)
    gpu.scrap, gpu.torch_stream = Scrap(), None
    calls = []
    found = gpu.time(lambda: calls.append(1), seconds=0)
    # (2i)² - (2i - 1)² = 4i - 1 for i = 1 ... 10
    assert found == {"median": 21, "p20": pytest.approx(10.2), "p80": pytest.approx(31.8),
                     "calls": 10}  # fmt: skip
    assert len(calls) == 11
    assert gpu.scrap.written == 10


def test_a_graph_of_pytorch_is_ended_even_if_the_call_fails(measure, monkeypatch):
    log = []

    class Graph:
        def capture_begin(self, capture_error_mode):
            log.append("begin")

        def capture_end(self):
            log.append("end")

        def replay(self):
            log.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    gpu = object.__new__(measure.Gpu)
    recorded = gpu.record_theirs(lambda: log.append("call"))
    recorded.launch()
    assert log == ["call", "call", "begin", "call", "end", "replay"]
    log.clear()

    def fails_when_recorded():
        if "begin" in log:
            raise ValueError("it reads on the host")

    with pytest.raises(ValueError, match="reads on the host"):
        gpu.record_theirs(fails_when_recorded)
    assert log == ["begin", "end"]
    assert gpu.host_time(lambda: None) >= 0


# --------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_step_and_its_twin_run(name):
    model = zoo.MODELS[name]
    running = [model.module.tinygen_step(model.few)]
    for options in ({}, {"channels_last": True}, {"bf16": True}):
        running.append(model.module.torch_step(model.few, Torch(**options)))
    for step in running:
        assert all(0 < float(loss.item()) < 50 for loss in step())


def test_models_are_timed_with_what_there_is():
    for model in zoo.MODELS.values():
        assert {"tinygen", "tinygen captured", "torch"} <= {*model.providers} <= {*steps.PROVIDERS}
        assert {*model.precisions} <= {*steps.PRECISIONS}
        assert type(model.sizes) is type(model.few)


@pytest.mark.parametrize("provider", ["tinygen", "tinygen captured"])
def test_a_step_is_measured_on_the_gpu(provider, measure, monkeypatch):
    monkeypatch.setattr(steps, "ROW", 1)
    monkeypatch.setattr(steps, "LEAST", 2)
    monkeypatch.setattr(steps, "WARM_UP", 4)  # the recording included
    request = {"model": "DCGAN 28x28, batch 128", "precision": "tf32", "seconds": 0, "quick": True}
    with measure.precision.precision("fp32"):
        row = workers.answering(provider)(request)
    json.dumps(row)
    assert row["steps"] == 2
    assert row["images_per_second"] == pytest.approx(4e3 / row["median"])
    assert 0 < row["p20"] <= row["median"] <= row["p80"]
    assert 0 < row["host"] <= row["p80"]
