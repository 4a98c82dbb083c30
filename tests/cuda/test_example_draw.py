"""DRAW on a GPU: the captured step gives the CPU's numbers."""

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

SCRIPT = Path(__file__).parents[2] / "examples" / "draw.py"
TOY = ["--hidden", "4", "--latent-dim", "2", "--glimpses", "2", "--batch-size", "2",
       "--image-size", "6", "--read", "2", "--write", "3", "--no-score"]  # fmt: skip


@pytest.fixture
def draw(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/draw.py"])
    spec = importlib.util.spec_from_file_location("draw_on_cuda", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CADENCE", {"log_every": 1, "save_every": 100})
    for name, value in {"SHOWN": 4, "ROWS": 2}.items():
        monkeypatch.setattr(module, name, value)
    yield module
    tinygen.device.set_precision("tf32")


def losses(folder: str) -> np.ndarray:
    with Path(folder, "metrics.csv").open() as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


@pytest.mark.parametrize("attention", [True, False])
def test_it_trains_as_on_the_cpu(draw, attention):
    flags = ["--steps", "6", *TOY, *([] if attention else ["--no-attention"])]
    assert cli.command(draw.main, [*flags, "--out", "here"]) == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert cli.command(draw.main, [*flags, *there]) == 0
    np.testing.assert_allclose(losses("there"), losses("here"), rtol=1e-3)
    here, there = (load_file(f"{place}/checkpoint.safetensors") for place in ("here", "there"))
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=0.02, atol=2e-3, err_msg=name)
