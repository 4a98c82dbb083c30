"""DRAW on a GPU: the captured step gives the CPU's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import check_weights, load_script, metrics, run_on_both

import tinygen

TOY = ["--hidden", "4", "--latent-dim", "2", "--glimpses", "2", "--batch-size", "2",
       "--image-size", "6", "--read", "2", "--write", "3", "--no-score"]  # fmt: skip


@pytest.fixture
def draw(cupy, tmp_path, monkeypatch):
    small = {"SHOWN": 4, "ROWS": 2, "CADENCE": {"log_every": 1, "save_every": 100}}
    yield load_script("draw", tmp_path, monkeypatch, **small)
    tinygen.device.set_precision("tf32")


@pytest.mark.parametrize("attention", [True, False])
def test_it_trains_as_on_the_cpu(draw, attention):
    run_on_both(draw, "--steps", 6, *TOY, *([] if attention else ["--no-attention"]))
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=1e-3)
    check_weights(rtol=0.02, atol=2e-3)
