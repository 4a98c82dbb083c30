"""The GPU report's tables, its run of the tests, and its command, with pretended workers."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import mode

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_report.py"
sys.path.append(str(ROOT / "benchmarks"))

from report import section, steps, suite, table, workers, zoo  # noqa: E402

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
    verdicts = {what: (value, verdict) for what, _, value, verdict in section.goals(finished())}
    step = "DCGAN 64x64 training step, {}: speed / PyTorch"
    assert verdicts[step.format("tinygen")] == ("1.25", "reached")
    assert verdicts[step.format("tinygen captured")] == ("2.50", "reached")
    memory = "kernels bound by memory: share of the copy bandwidth, {}"
    assert verdicts[memory.format("lowest")] == ("0.12", "missed")
    assert verdicts[memory.format("median")] == ("0.50", "missed")
    assert verdicts["convolutions: speed / cuDNN, lowest"] == ("0.50", "missed")
    assert verdicts["LSTM: speed / PyTorch's generic path, lowest"] == ("3.00", "reached")
    assert section.goals(finished() | {"kernels": {}, "models": []}) == []


def test_the_section_is_written_between_its_markers(tmp_path):
    file = tmp_path / "results.md"
    file.write_text(f"before\n\n{section.section(None)}\n\nafter\n")
    section.write_section(file, json.loads(json.dumps(finished())))
    text = file.read_text()
    assert text.startswith("before\n\n<!-- gpu report: begin -->\n## On a GPU\n")
    assert text.endswith("<!-- gpu report: end -->\n\nafter\n")
    for part in ("Some GPU", "0123456789", "5 passed, 1 failed", "2,000 GB/s", "tinygen captured"):
        assert part in text
    assert "no figures" not in text
    section.write_section(file, None)
    assert file.read_text() == f"before\n\n{section.section(None)}\n\nafter\n"
    file.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the lines"):
        section.write_section(file, None)


def test_the_command_writes_the_section_but_not_from_a_quick_run(
    gpu_report, monkeypatch, tmp_path, capsys
):
    docs, report = tmp_path / "results.md", tmp_path / "report.json"
    docs.write_text(section.section(None))
    monkeypatch.setattr(gpu_report, "RESULTS", docs)
    report.write_text(json.dumps(finished() | {"quick": True}))
    assert gpu_report.main(["--write-results", str(report)]) == 2
    assert "a --quick run is no result" in capsys.readouterr().err
    assert docs.read_text() == section.section(None)
    report.write_text(json.dumps(finished()))
    assert gpu_report.main(["--write-results", str(report)]) == 0
    assert docs.read_text() == section.section(finished())


def test_a_report_without_kernels_has_a_section_too():
    found = finished() | {"kernels": {"ceilings": {"failed": "no answer"}}}
    del found["ceilings"]
    text = section.section(found)
    assert "tinygen captured" in text
    assert "speed / PyTorch" in text


def test_the_section_in_the_docs_is_the_last_report():
    report = ROOT / "docs" / "gpu_report.json"
    last = json.loads(report.read_text()) if report.exists() else None
    assert section.section(last) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


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


def test_the_suite_counts_and_survives_crashes_and_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # ten seconds are for the tests
    folder = tmp_path / "tests" / "cuda"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\nmarkers = cuda: on a GPU\n")
    for name, text in TESTS.items():
        lines = text.strip("\n").splitlines()
        (folder / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    found = suite.run(10, tmp_path)
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
    monkeypatch.setattr(workers, "Worker", FakeWorker)
    FakeWorker.started = 0
    file = tmp_path / "new" / "report.json"
    args = gpu_report.parser().parse_args(["--json", str(file), "--seed", "3"])
    assert gpu_report.run(args) == 1
    found = json.loads(file.read_text())
    assert found["seed"] == 3
    assert [("failed" in r) for r in found["kernels"].values()] == [False, True, True]
    assert found["kernels"]["crash"]["failed"] == "the worker 'kernels': ended with code -9"
    timed = sum(len(m.providers) * len(m.precisions) for m in zoo.MODELS.values())
    assert len(found["models"]) == timed
    assert FakeWorker.started == 2 + len(steps.PROVIDERS)  # one more, after the crash
    printed = capsys.readouterr().out
    assert "the ten worst rows" in printed
    assert "failed: 2 rows, 0 tests" in printed
    assert "reached: DCGAN" in printed


def test_parts_can_be_chosen_and_late_cases_are_skipped(gpu_report, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "Worker", FakeWorker)
    monkeypatch.setattr(gpu_report.Report, "left", lambda self, part: -1.0)
    file = tmp_path / "report.json"
    options = ["--only", "kernels", "--match", "a", "--json", str(file)]
    assert gpu_report.run(gpu_report.parser().parse_args(options)) == 0
    found = json.loads(file.read_text())
    assert [*found["kernels"]] == ["crash", "bad"]
    assert all(r["skipped"] == "out of time" for r in found["kernels"].values())
    assert found["models"] == []
    assert "tests" not in found


def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(60 * ('hang' in line))\n"
        "    print('{\"ok\": 1}', flush=True)\n"
    )
    worker = workers.Contained(str(script), "kernels")
    try:
        assert worker.ask(30, ask="something") == {"ok": 1}
        assert worker.ask(1, ask="hang") == {"failed": "the worker 'kernels': no answer in 1 s"}
        assert worker.ask(30, ask="something") == {"ok": 1}
    finally:
        worker.close()


def test_errors_in_a_worker_are_answers(monkeypatch):
    monkeypatch.setattr(workers, "_alive", lambda: False)
    monkeypatch.setattr(workers.Kernels, "cases", lambda self, quick: {})
    answer = workers.answering("kernels")({"ask": "case", "key": "no such", "quick": True})
    assert answer == {"failed": "KeyError: 'no such'", "lost": True}


def test_a_worker_without_a_usable_gpu_says_why_and_asks_to_be_replaced():
    if mode() == "cuda":
        pytest.skip("this machine has a GPU")
    answer = workers.answering("kernels")({"ask": "machine"})
    assert answer["lost"]
    assert "CUDA" in answer["failed"]


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
