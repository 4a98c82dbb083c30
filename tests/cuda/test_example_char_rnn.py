"""char-RNN on a GPU: the captured step carries the state from replay to replay as the CPU does."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tinygen
from tinygen.train import cli

SCRIPT = Path(__file__).parents[2] / "examples" / "char_rnn.py"
TOY = ["--data", "poem.txt", "--hidden", "4", "--layers", "2", "--batch-size", "2",
       "--window", "5", "--no-score"]  # fmt: skip


@pytest.fixture
def char_rnn(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder but for a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/char_rnn.py"])
    spec = importlib.util.spec_from_file_location("char_rnn_on_cuda", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CADENCE", {"log_every": 1, "save_every": 100})
    for name, value in {"LENGTH": 3, "HELD_OUT_STEPS": 4}.items():
        monkeypatch.setattr(module, name, value)
    Path("poem.txt").write_text("abcab " * 14)
    yield module
    tinygen.device.set_precision("tf32")


def run(script, *flags) -> int:
    return cli.command(script.main, [*flags, *TOY])


def losses(folder: str) -> np.ndarray:
    with Path(folder, "metrics.csv").open() as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


@pytest.mark.parametrize("how", ["captured", "eager"])
def test_it_trains_as_on_the_cpu(char_rnn, how):
    """Seven windows are the whole text: the eighth step starts it again with an empty memory."""
    assert run(char_rnn, "--steps", "9", "--out", "here") == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert run(char_rnn, "--steps", "9", *there, *(["--eager"] if how == "eager" else [])) == 0
    np.testing.assert_allclose(losses("there"), losses("here"), rtol=2e-4)
    here, there = (load_file(f"{place}/checkpoint.safetensors") for place in ("here", "there"))
    assert here["carried.h"].any()
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=0.01, atol=1e-4, err_msg=name)


def test_a_replay_goes_on_after_a_resume(char_rnn):
    flags = ["--device", "cuda", "--precision", "fp32"]
    assert run(char_rnn, "--steps", "9", "--out", "straight", *flags) == 0
    assert run(char_rnn, "--steps", "6", "--out", "resumed", *flags) == 0
    assert run(char_rnn, "--steps", "9", "--out", "resumed", "--resume") == 0
    a, b = (Path(p, "checkpoint.safetensors").read_bytes() for p in ("straight", "resumed"))
    assert a == b
