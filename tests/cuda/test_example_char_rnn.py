"""char-RNN on a GPU: the captured step carries the state from replay to replay as the CPU does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scripts import check_weights, load_script, metrics, run, run_on_both

import tinygen

TOY = ["--data", "poem.txt", "--hidden", "4", "--layers", "2", "--batch-size", "2",
       "--window", "5", "--no-score"]  # fmt: skip


@pytest.fixture
def char_rnn(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder but for a text."""
    small = {"LENGTH": 3, "HELD_OUT_STEPS": 4, "CADENCE": {"log_every": 1, "save_every": 100}}
    script = load_script("char_rnn", tmp_path, monkeypatch, **small)
    Path("poem.txt").write_text("abcab " * 14)
    yield script
    tinygen.device.set_precision("tf32")


@pytest.mark.parametrize("how", ["captured", "eager"])
def test_it_trains_as_on_the_cpu(char_rnn, how):
    """Seven windows are the whole text: the eighth step starts it again with an empty memory."""
    run_on_both(char_rnn, "--steps", 9, *TOY, *(["--eager"] if how == "eager" else []))
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-4)
    assert load_file("here/checkpoint.safetensors")["carried.h"].any()
    check_weights(rtol=0.01, atol=1e-4)


def test_a_replay_goes_on_after_a_resume(char_rnn):
    flags = [*TOY, "--device", "cuda", "--precision", "fp32"]
    assert run(char_rnn, "--steps", "9", "--out", "straight", *flags) == 0
    assert run(char_rnn, "--steps", "6", "--out", "resumed", *flags) == 0
    assert run(char_rnn, *TOY, "--steps", "9", "--out", "resumed", "--resume") == 0
    a, b = (Path(p, "checkpoint.safetensors").read_bytes() for p in ("straight", "resumed"))
    assert a == b
