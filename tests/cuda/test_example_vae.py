"""The VAE's way through `--device cuda`: the numbers of the CPU, captured and not."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygen
from tinygen.train import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
TOY = [
    "--hidden", "8", "--latent-dim", "2", "--batch-size", "4", "--image-size", "8",
    "--score-k", "3", "--score-images", "4",
]  # fmt: skip


@pytest.fixture
def vae(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/vae.py"])
    spec = importlib.util.spec_from_file_location("vae_on_cuda", EXAMPLES / "vae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.CADENCE, "log_every", 1)
    for name, small in {"SHOWN": 4, "WATCHED": 8, "EVALUATED": 16, "ROUNDS": 2}.items():
        monkeypatch.setattr(module, name, small)
    yield module
    tinygen.device.set_precision("tf32")


def run(script, *flags) -> int:
    return cli.command(script.main, [*flags, *TOY])


def metrics(folder: str) -> np.ndarray:
    with Path(folder, "metrics.csv").open() as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


def scores(folder: str) -> list[float]:
    return list(json.loads(Path(folder, "scores.json").read_text()).values())


@pytest.mark.parametrize("options", [[], ["--eager", "--net", "conv", "--width", "2", "--k", "2"]])
def test_vae_trains_as_on_the_cpu(vae, options, monkeypatch):
    """The same pixels and codes, the same updates, the same score."""
    if "--eager" in options:  # the pictures were drawn by the other case
        monkeypatch.setattr(vae, "draw_pictures", lambda *arguments: None)
    flags = ["--steps", "6", "--half-life", "4", *options]
    assert run(vae, *flags, "--out", "here") == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert run(vae, *flags, *there) == 0
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(scores("there"), scores("here"), rtol=2e-3, atol=1e-4)
    pictures = sorted(p.name for p in Path("here").rglob("*.png"))
    assert pictures == sorted(p.name for p in Path("there").rglob("*.png"))
