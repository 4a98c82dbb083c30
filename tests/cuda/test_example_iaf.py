"""IAF on a GPU: the captured step gives the CPU's numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scripts import check_weights, load_script, metrics, run_on_both

import tinygen

TOY = ["--batch-size", "4", "--image-size", "8", "--latent-dim", "2", "--k", "2"]
KINDS = {
    "dense": ["--width", "4", "--context", "3"],
    "resnet": ["--preset", "colour", "--width", "4", "--layers", "1", "--levels", "1"],
}


@pytest.fixture
def iaf(cupy, tmp_path, monkeypatch):
    constants = {"SHOWN": 2, "EVALUATED": 2, "SCORED": 2}
    constants["CADENCE"] = {"log_every": 1, "save_every": 100}
    script = load_script("iaf", tmp_path, monkeypatch, **constants)
    small = functools.partial(script.dense_networks, hidden=8)
    monkeypatch.setattr(script, "dense_networks", small)
    for name in ("plot", "bars"):
        monkeypatch.setattr(script.pictures, name, lambda *arguments, **options: None)
    yield script
    tinygen.device.set_precision("tf32")


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_as_on_the_cpu(iaf, kind):
    run_on_both(iaf, "--steps", 5, *TOY, *KINDS[kind])
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-3)
    check_weights(rtol=0.02, atol=5e-3)
