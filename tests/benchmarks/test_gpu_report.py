"""The GPU report, as far as it can be tested without one: cases, checks, tables, its command.

Our side of every case runs on the emulated GPU at toy sizes, PyTorch on the CPU as its peer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import missing, mode, to_cpu, to_gpu

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_report.py"
sys.path.append(str(ROOT / "benchmarks"))

from report import elements, products, recurrences, rows, steps, suite, table  # noqa: E402
from report.cases import Case, normal  # noqa: E402

CASES = [
    case for family in (elements, rows, products, recurrences) for case in family.cases(quick=True)
]


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
    full = [c for family in (elements, rows, products, recurrences) for c in family.cases()]
    assert len({case.key for case in full}) == len(full)
    assert len({case.key for case in CASES}) == len(CASES)
    families = {case.family for case in full}
    assert families == {case.family for case in CASES}
    assert {"conv", "matmul", "lstm", "norm", "softmax", "optim", "random"} <= families


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


def test_the_loops_that_scans_are_compared_with_are_right():
    from tinygen_kernels.reference import scan

    g = torch.Generator().manual_seed(0)
    z, w = normal(2, 12, 4, 5)(g).double(), normal(12, 3, 3)(g).double()
    expected = scan.row_lstm(z.numpy(), w.numpy())[0]
    torch.testing.assert_close(recurrences.row_lstm(z, w), torch.from_numpy(expected))
    w = w[..., :2].contiguous()
    expected = scan.diagonal_lstm(z.numpy(), w.numpy())[0]
    torch.testing.assert_close(recurrences.diagonal_lstm(z, w), torch.from_numpy(expected))


# --------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("name", steps.MODELS)
def test_a_step_and_its_twin_run(name):
    model = steps.MODELS[name]
    step, arguments = model.tinygen(model.few, "cpu")
    assert all(0 < float(value.item()) < 5 for value in step(*arguments).values())
    for options in ({}, {"channels_last": True}, {"bf16": True}):
        twin = steps.Twin(device="cpu", **options)
        values = twin.finish(model.torch(model.few, twin))()
        assert all(0 < float(value) < 5 for value in values)


@pytest.mark.parametrize("name", steps.MODELS)
def test_twins_have_the_same_parameters(name):
    model = steps.MODELS[name]
    step, _ = model.tinygen(model.sizes, "cpu")
    twin = model.torch(model.sizes, steps.Twin(device="cpu"))
    for ours, theirs in zip(_nets(step), _nets(twin), strict=True):
        shapes = [[tuple(p.shape) for p in net.parameters()] for net in (ours, theirs)]
        assert shapes[0] == shapes[1]


def _nets(step) -> list:
    """The two networks that a step works on, G first."""
    held = dict(zip(step.__code__.co_freevars, step.__closure__, strict=True))
    return [held[name].cell_contents for name in ("G", "D")]


@pytest.mark.parametrize("provider", ["tinygen", "tinygen captured"])
def test_a_step_is_measured_on_the_gpu(provider, measure, monkeypatch):
    monkeypatch.setattr(steps, "ROW", 1)
    monkeypatch.setattr(steps, "WARM_UP", 4)
    model = steps.MODELS["DCGAN 28x28, batch 128"]
    with measure.precision.precision("fp32"):
        row = steps.measure(model, provider, precision="tf32", seconds=0, quick=True)
    assert row["steps"] == 5
    assert row["images_per_second"] == pytest.approx(4e3 / row["median"])
    assert 0 < row["p20"] <= row["median"] <= row["p80"]
    assert 0 < row["host"] <= row["p80"]


# ------------------------------------------------------------------------------------- figures


def row(family="conv", *, ours=1.0, peers=None, flops=0.0, bytes=1e9, precision="tf32", name="a"):
    """A row as a worker hands it in; times in ms."""
    times = {"p20": ours, "p80": ours, "median": ours, "host": 0.1}
    peers = {"NHWC": 2.0, "NCHW": 3.0} if peers is None else peers
    return {
        "family": family, "name": name, "precision": precision, "bytes": bytes, "flops": flops,
        "error": 1e-4, "timed": "graph", "ours": times,
        "peers": {n: {"median": t, "host": 0.1} for n, t in peers.items()},
    }  # fmt: skip


CEILINGS = {"memory": 2e12, "fp32": 5e13, "tf32": 4e14, "bf16": 8e14, "empty_graph_ms": 0.004}


def results() -> dict:
    return {
        "date": "2030-01-02T03:04:05+00:00", "commit": "0123456789abcdef", "seed": 1,
        "machine": {"gpu": "Some GPU", "driver": "1.2"}, "quick": False, "ceilings": CEILINGS,
        "tests": {"passed": 5, "failed": 1, "skipped": 2, "failures": {"t": "x"}, "seconds": 1.0},
        "kernels": {
            "a": row(), "b": row(ours=4.0, name="slow"),
            "c": row("lstm", peers={"cuDNN": 0.5, "generic": 3.0}),
            "d": row(name="bad") | {"failed": "Wrong: relative error"},
            "e": row(name="late") | {"skipped": "out of time"},
        },
        "models": [
            {"model": "DCGAN 64x64, batch 128", "precision": "tf32", "provider": p, "median": m,
             "p20": m, "p80": m, "host": 1.0, "images_per_second": 128e3 / m, "peak_mb": 100.0}
            for p, m in [("tinygen", 8.0), ("tinygen captured", 4.0), ("torch", 10.0)]
        ],
    }  # fmt: skip


def finished() -> dict:
    found = results()
    for key in "de":
        del found["kernels"][key]["ours"]
    return found


def test_the_ceiling_is_that_of_what_takes_longest():
    assert table.attainment(row(ours=1.0), CEILINGS) == (pytest.approx(0.5), "memory")
    heavy = row(ours=2.0, flops=4e11)
    assert table.attainment(heavy, CEILINGS) == (pytest.approx(0.5), "tf32")


def test_speed_is_beside_the_fastest_peer_or_the_one_asked_for():
    case = row(ours=1.0, peers={"cuDNN": 0.5, "generic": 3.0})
    assert table.fastest(case) == "cuDNN"
    assert table.speed(case) == 0.5
    assert table.speed(case, "generic") == 3.0
    assert table.speed(case, "nobody") is None
    assert table.speed(row(peers={})) is None


def test_the_worst_rows_come_first_and_are_marked():
    found = finished()
    assert table.worst(found["kernels"]) == ["b", "c", "a"]
    many = {str(i): row(ours=1 + i) for i in range(15)}
    assert table.worst(many) == [str(i) for i in range(14, 4, -1)]
    text = table.kernel_table(found | {"kernels": many})
    assert text.count("← ") == 10
    lines = table.kernel_table(finished()).splitlines()
    assert any("conv: bad" in line and "failed: Wrong" in line for line in lines)
    assert any("conv: late" in line and "out of time" in line for line in lines)


def test_goals_say_what_was_reached():
    verdicts = {what: (value, verdict) for what, _, value, verdict in table.goals(finished())}
    step = "DCGAN 64x64 training step, {}: speed / PyTorch"
    assert verdicts[step.format("tinygen")] == ("1.25", "reached")
    assert verdicts[step.format("tinygen captured")] == ("2.5", "reached")
    assert verdicts["kernels bound by memory: copy bandwidth, lowest"] == ("12.5 %", "missed")
    assert verdicts["convolutions: speed / cuDNN, lowest"] == ("0.5", "missed")
    assert verdicts["LSTM: speed / PyTorch's generic path, lowest"] == ("3", "reached")
    assert table.goals(finished() | {"kernels": {}, "models": []}) == []


def test_the_section_is_written_between_its_markers(tmp_path):
    file = tmp_path / "results.md"
    file.write_text(f"before\n\n{table.section(None)}\n\nafter\n")
    table.write_section(file, json.loads(json.dumps(finished())))
    text = file.read_text()
    assert text.startswith("before\n\n<!-- gpu report: begin -->\n## On a GPU\n")
    assert text.endswith("<!-- gpu report: end -->\n\nafter\n")
    for part in ("Some GPU", "0123456789", "5 passed, 1 failed", "2,000 GB/s", "tinygen captured"):
        assert part in text
    assert "no figures" not in text
    table.write_section(file, None)
    assert file.read_text() == f"before\n\n{table.section(None)}\n\nafter\n"
    file.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the lines"):
        table.write_section(file, None)


def test_the_section_in_the_docs_is_the_last_report():
    report = ROOT / "docs" / "gpu_report.json"
    last = json.loads(report.read_text()) if report.exists() else None
    assert table.section(last) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------- the tests

TESTS = {
    "test_mixed.py": """
        import pytest
        pytestmark = pytest.mark.cuda
        def test_right(): pass
        def test_wrong(): assert 1 == 2, "one is not two"
        def test_skipped(): pytest.skip("not here")
        @pytest.mark.parametrize("x", ["a b", "c - d"])
        def test_names(x): pass
        """,
    "test_crash.py": """
        import os, pytest
        @pytest.mark.cuda
        def test_fine(): pass
        @pytest.mark.cuda
        def test_exit(): os._exit(7)
        """,
    "test_hang.py": """
        import time, pytest
        @pytest.mark.cuda
        def test_quick(): pass
        @pytest.mark.cuda
        def test_slow(): time.sleep(600)
        """,
    "test_elsewhere.py": "def test_without_the_mark(): pass",
}


def test_the_suite_counts_and_survives_crashes_and_hangs(tmp_path):
    folder = tmp_path / "tests" / "cuda"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\nmarkers = cuda: on a GPU\n")
    for name, text in TESTS.items():
        lines = text.strip("\n").splitlines()
        (folder / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    found = suite.run(15, tmp_path)
    assert (found["passed"], found["skipped"], found["failed"]) == (5, 1, 3)
    wrong, crash, hang = (
        next(line for name, line in found["failures"].items() if part in name)
        for part in ("test_wrong", "test_crash.py", "test_hang.py")
    )
    assert "one is not two" in wrong
    assert "pytest ended with 7" in crash
    assert "stopped after" in hang


# ----------------------------------------------------------------------------------- the command


@pytest.fixture
def gpu_report(monkeypatch, tmp_path):
    """The script as a module, with workers that follow a script of their own."""
    spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "describe", lambda: {"gpu": "Some GPU"})
    monkeypatch.setattr(
        module.suite, "run", lambda seconds: results()["tests"] | {"failed": 0, "failures": {}}
    )
    return module


class FakeWorker:
    """Answers as a worker on a GPU would; case "crash" takes the process with it."""

    started = 0

    def __init__(self, script, name, threads):
        FakeWorker.started += 1
        self.name, self.process = name, argparse.Namespace(kill=lambda: None, wait=lambda: -9)

    def ask(self, **request):
        if "model" in request:
            return {"median": 2.0, "p20": 2.0, "p80": 2.0, "host": 1.0, "peak_mb": 1.0,
                    "images_per_second": 64e3}  # fmt: skip
        if request["ask"] == "ceilings":
            return CEILINGS
        if request["ask"] == "cases":
            names = ("family", "name", "precision", "bytes", "flops")
            return {key: {n: row(name=key)[n] for n in names} for key in ("good", "crash", "bad")}
        if request["key"] == "crash":
            raise RuntimeError("the kernels worker ended")
        if request["key"] == "bad":
            return {"failed": "Wrong: relative error 0.5", "lost": False}
        return {k: row()[k] for k in ("error", "timed", "ours", "peers")}


def test_a_run_goes_on_after_failures_and_leaves_its_figures(
    gpu_report, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(gpu_report, "Worker", FakeWorker)
    FakeWorker.started = 0
    file = tmp_path / "new" / "report.json"
    args = gpu_report.parser().parse_args(["--json", str(file), "--seed", "3"])
    assert gpu_report.run(args) == 1
    found = json.loads(file.read_text())
    assert found["seed"] == 3
    assert [("failed" in r) for r in found["kernels"].values()] == [False, True, True]
    assert found["kernels"]["crash"]["failed"] == "the worker 'kernels': ended with code -9"
    assert len(found["models"]) == len(steps.PROVIDERS) * len(steps.MODELS) * 2
    assert FakeWorker.started == 2 + len(steps.PROVIDERS)  # one more, after the crash
    printed = capsys.readouterr().out
    assert "the ten worst rows" in printed
    assert "failed: 2 rows, 0 tests" in printed
    assert "reached: DCGAN" in printed


def test_parts_can_be_chosen_and_late_cases_are_skipped(gpu_report, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_report, "Worker", FakeWorker)
    monkeypatch.setattr(gpu_report.Report, "left", lambda self, part: -1.0)
    file = tmp_path / "report.json"
    options = ["--only", "kernels", "--match", "a", "--json", str(file)]
    assert gpu_report.run(gpu_report.parser().parse_args(options)) == 0
    found = json.loads(file.read_text())
    assert [*found["kernels"]] == ["crash", "bad"]
    assert all(r["skipped"] == "out of time" for r in found["kernels"].values())
    assert found["models"] == []
    assert "tests" not in found


def test_a_worker_that_hangs_is_ended_and_replaced(gpu_report, monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(60 * ('hang' in line))\n"
        "    print('{\"ok\": 1}', flush=True)\n"
    )
    monkeypatch.setattr(gpu_report, "__file__", str(script))
    worker = gpu_report.Contained("kernels")
    try:
        assert worker.ask(30, ask="something") == {"ok": 1}
        assert worker.ask(1, ask="hang") == {"failed": "the worker 'kernels': no answer in 1 s"}
        assert worker.ask(30, ask="something") == {"ok": 1}
    finally:
        worker.close()


def test_errors_in_a_worker_are_answers(monkeypatch):
    from report import workers

    monkeypatch.setattr(workers, "_alive", lambda: False)
    monkeypatch.setattr(workers.Kernels, "cases", lambda self, quick: {})
    answer = workers.answering("kernels")({"ask": "case", "key": "no such", "quick": True})
    assert answer == {"failed": "KeyError: 'no such'", "lost": True}


def test_workers_list_the_cases_without_a_gpu():
    from report import workers

    cases = workers.answering("kernels")({"ask": "cases", "quick": True})
    assert [*cases] == [case.key for case in CASES]
    json.dumps(cases)


def test_without_a_gpu_there_is_one_clear_line(tmp_path):
    if mode() == "cuda":
        pytest.skip("this machine has a GPU")
    environment = {k: v for k, v in os.environ.items() if k != "TINYGEN_TEST_GPU"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu_report: no usable GPU: device 'cuda'")


def test_kernels_are_found_where_tinygen_is_not_installed(gpu_report, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    gpu_report.importable(str(tmp_path))
    code = "import tinygen, tinygen_kernels.layout as m; print(m.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout.strip() == str(tmp_path / "tinygen_kernels" / "layout.py"), done.stderr
