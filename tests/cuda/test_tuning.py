"""Measured choices: the fastest wins, is remembered on disk, and is never measured in a graph."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
from gpu import to_cpu, to_gpu


class Config(NamedTuple):
    name: str
    size: int


CANDIDATES = [Config("a", 1), Config("b", 2), Config("c", 3)]
PROBLEM = ("conv", 64, 32)


@pytest.fixture
def tuning(cupy, cuda_kernels, tmp_path, monkeypatch):
    module = cuda_kernels("tuning")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TINYGEN_AUTOTUNE", "1")
    module._file.cache_clear()
    yield module
    module._file.cache_clear()


def with_times(monkeypatch, tuning, times: dict[Config, list[float]]) -> list[Config]:
    """Have the clock say these milliseconds for the runs of each candidate."""
    ran: list[Config] = []
    left = {c: list(t) for c, t in times.items()}
    monkeypatch.setattr(
        tuning.cupy.cuda, "get_elapsed_time", lambda start, end: left[ran[-1]].pop(0)
    )
    return ran


TIMES = {CANDIDATES[0]: [3, 3, 3], CANDIDATES[1]: [9, 2, 9], CANDIDATES[2]: [4, 2.5, 2.5]}


def test_the_fastest_wins_and_later_processes_know_it(tuning, monkeypatch):
    ran = with_times(monkeypatch, tuning, TIMES)
    choices = tuning.Choices(Config)
    assert choices.get(PROBLEM) is None
    assert choices.find(PROBLEM, lambda: CANDIDATES, ran.append) == Config("b", 2)
    assert len(ran) == 3 * (1 + tuning.REPEATS)
    assert choices.get(PROBLEM) == Config("b", 2)
    assert tuning.Choices(Config).get(PROBLEM) == Config("b", 2)
    assert isinstance(tuning.Choices(Config).get(PROBLEM), Config)
    assert choices.get(("conv", 64, 33)) is None


def test_processes_add_to_one_file(tuning, monkeypatch, tmp_path):
    for problem in (("one",), ("two",)):
        ran = with_times(monkeypatch, tuning, TIMES)
        tuning.Choices(Config).find(problem, lambda: CANDIDATES, ran.append)
    (file,) = (tmp_path / "tinygen" / "tuning").iterdir()
    assert json.loads(file.read_text()) == {'["one"]': ["b", 2], '["two"]': ["b", 2]}


@pytest.mark.parametrize("content", ["", "{", "[1, 2"])
def test_a_damaged_file_is_no_file(tuning, monkeypatch, content):
    file = tuning._file(0)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    ran = with_times(monkeypatch, tuning, TIMES)
    choices = tuning.Choices(Config)
    assert choices.get(PROBLEM) is None
    choices.find(PROBLEM, lambda: CANDIDATES, ran.append)
    assert json.loads(file.read_text()) == {json.dumps(PROBLEM): ["b", 2]}


def test_a_folder_that_can_not_be_made_costs_the_memory_alone(tuning, monkeypatch, tmp_path):
    (tmp_path / "tinygen").write_text("a file where the folder should be")
    ran = with_times(monkeypatch, tuning, TIMES)
    choices = tuning.Choices(Config)
    assert choices.find(PROBLEM, lambda: CANDIDATES, ran.append) == Config("b", 2)
    assert choices.get(PROBLEM) == Config("b", 2)


def test_when_nothing_is_measured(tuning, cupy, monkeypatch):
    ran = with_times(monkeypatch, tuning, TIMES)
    choices = tuning.Choices(Config)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert choices.find(PROBLEM, lambda: CANDIDATES, ran.append) is None
        stream.end_capture()
    monkeypatch.setenv("TINYGEN_AUTOTUNE", "0")
    assert choices.find(PROBLEM, lambda: CANDIDATES, ran.append) is None
    assert not ran

    monkeypatch.setenv("TINYGEN_AUTOTUNE", "1")
    choices.find(PROBLEM, lambda: CANDIDATES, ran.append)
    with stream:
        stream.begin_capture()  # known is known
        assert choices.get(PROBLEM) == Config("b", 2)
        stream.end_capture()
    monkeypatch.setenv("TINYGEN_AUTOTUNE", "0")
    assert choices.get(PROBLEM) is None


def test_products_are_measured_once(tuning, cuda_kernels, monkeypatch):
    gemm, matmul = cuda_kernels("gemm"), cuda_kernels("matmul")
    monkeypatch.setattr(gemm, "MEASURED", tuning.Choices(gemm.Config))
    a, b = (to_gpu(np.ones(shape, np.float32)) for shape in ((70, 40), (40, 50)))
    ran = []
    run = gemm.run
    monkeypatch.setattr(
        gemm, "run", lambda config, *rest: (ran.append(config), run(config, *rest))
    )
    monkeypatch.setattr(tuning.cupy.cuda, "get_elapsed_time", lambda start, end: -hash(ran[-1]))
    first = matmul.product(a, b)
    times = len(ran)
    tried = set(ran)
    assert len(tried) > 2
    assert ran[-1] == max(tried, key=hash)
    np.testing.assert_array_equal(to_cpu(matmul.product(a, b)), to_cpu(first))
    assert len(ran) == times + 1
    assert ran[-1] == ran[-2]
