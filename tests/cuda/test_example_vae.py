"""The VAE's way through `--device cuda`: the numbers of the CPU, captured and not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script, metrics, run_on_both

import tinygen

TOY = [
    "--hidden", "8", "--latent-dim", "2", "--batch-size", "4", "--image-size", "8",
    "--score-k", "3", "--score-images", "4",
]  # fmt: skip


@pytest.fixture
def vae(cupy, tmp_path, monkeypatch):
    small = {"SHOWN": 4, "WATCHED": 8, "EVALUATED": 16, "ROUNDS": 2}
    script = load_script("vae", tmp_path, monkeypatch, **small)
    monkeypatch.setitem(script.CADENCE, "log_every", 1)
    yield script
    tinygen.device.set_precision("tf32")


def scores(folder: str) -> list[float]:
    return list(json.loads(Path(folder, "scores.json").read_text()).values())


@pytest.mark.parametrize("options", [[], ["--eager", "--net", "conv", "--width", "2", "--k", "2"]])
def test_vae_trains_as_on_the_cpu(vae, options, monkeypatch):
    """The same pixels and codes, the same updates, the same score."""
    if "--eager" in options:  # the pictures were drawn by the other case
        monkeypatch.setattr(vae, "draw_pictures", lambda *arguments: None)
    run_on_both(vae, "--steps", 6, "--half-life", 4, *options, *TOY)
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(scores("there"), scores("here"), rtol=2e-3, atol=1e-4)
    pictures = sorted(p.name for p in Path("here").rglob("*.png"))
    assert pictures == sorted(p.name for p in Path("there").rglob("*.png"))
