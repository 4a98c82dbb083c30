"""The flow in the plane: it comes near the densities it is given, and draws them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scripts import files, load_script, run

import tinygen
from tinygen import Tensor
from tinygen.models.iaf import IAF


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return load_script("iaf_toy", tmp_path, monkeypatch)


def test_it_draws_a_picture(toy, monkeypatch, capsys):
    for name, value in {"SHOWN": 50, "WIDTH": 8, "BATCH": 16}.items():
        monkeypatch.setattr(toy, name, value)
    assert run(toy, "--steps", 2, "--flow-steps", 1, "--out", "a.png") == 0
    assert "see a.png" in capsys.readouterr().out
    with Image.open("a.png") as picture:
        assert picture.size[0] == 990
    assert files(".") == ["a.png"]


def test_energies_are_lowest_where_they_should_be(toy):
    assert toy.ring(tinygen.tensor([[2.0, 0.0], [0.0, -2.0]])).numpy() == pytest.approx(
        0, abs=1e-5
    )
    expected = -np.log1p(2 * np.exp(-16.0) + np.exp(-32.0))
    for centre in toy.CENTRES:
        assert toy.hills(Tensor(centre[None])).item() == pytest.approx(expected, abs=1e-5)
    mass = toy.unnormalised(toy.hills).mean() * (2 * toy.SIDE) ** 2
    assert mass == pytest.approx(4 * 2 * np.pi * 0.25, rel=0.02)


def test_the_flow_comes_nearer(toy, monkeypatch):
    monkeypatch.setattr(toy, "BATCH", 64)
    tinygen.manual_seed(0)
    flow = IAF(2, 0, steps=4, width=24, gated=False)
    before = toy.divergence(flow, toy.ring)
    toy.fit(flow, toy.ring, 120)
    assert 0 < toy.divergence(flow, toy.ring) < before - 1


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--flow-steps", "0"]])
def test_mistakes_are_one_line(toy, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        run(toy, *flags)
    assert stop.value.code == 2
    assert "0 is not above zero" in capsys.readouterr().err.splitlines()[-1]
