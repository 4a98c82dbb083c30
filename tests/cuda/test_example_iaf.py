"""IAF on a GPU: the captured step gives the CPU's numbers."""

from __future__ import annotations

import csv
import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tinygen
from tinygen.train import cli

SCRIPT = Path(__file__).parents[2] / "examples" / "iaf.py"
TOY = ["--batch-size", "4", "--image-size", "8", "--latent-dim", "2", "--k", "2"]
KINDS = {
    "dense": ["--width", "4", "--context", "3"],
    "resnet": ["--preset", "colour", "--width", "4", "--layers", "1", "--levels", "1"],
}


@pytest.fixture
def iaf(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/iaf.py"])
    spec = importlib.util.spec_from_file_location("iaf_on_cuda", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CADENCE", {"log_every": 1, "save_every": 100})
    for name, value in {"SHOWN": 2, "EVALUATED": 2, "SCORED": 2}.items():
        monkeypatch.setattr(module, name, value)
    small = functools.partial(module.dense_networks, hidden=8)
    monkeypatch.setattr(module, "dense_networks", small)
    for name in ("plot", "bars"):
        monkeypatch.setattr(module.pictures, name, lambda *arguments, **options: None)
    yield module
    tinygen.device.set_precision("tf32")


def losses(folder: str) -> np.ndarray:
    with Path(folder, "metrics.csv").open() as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_as_on_the_cpu(iaf, kind):
    flags = ["--steps", "5", *TOY, *KINDS[kind]]
    assert cli.command(iaf.main, [*flags, "--out", "here"]) == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert cli.command(iaf.main, [*flags, *there]) == 0
    np.testing.assert_allclose(losses("there"), losses("here"), rtol=2e-3)
    here, there = (load_file(f"{place}/checkpoint.safetensors") for place in ("here", "there"))
    assert here.keys() == there.keys()
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=0.02, atol=5e-3, err_msg=name)
