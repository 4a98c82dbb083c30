"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import check_resuming, error_of, files, load_script, run

from tinygen.train import checkpoint
from tinygen.train.pictures import bars, plot

TOY = ["--width", "6", "--batch-size", "16", "--latent-dim", "4", "--context", "5", "--k", "2"]


@pytest.fixture
def iaf(tmp_path, monkeypatch):
    script = load_script("iaf", tmp_path, monkeypatch, EVALUATED=20, SCORED=20, SHOWN=16)
    monkeypatch.setitem(script.CADENCE, "log_every", 2)
    for name in ("plot", "bars"):  # half of a run's time
        monkeypatch.setattr(script.pictures, name, lambda *arguments, **options: None)
    return script


def scores_of(folder: str) -> dict:
    """The figures in scores.json that are not times."""
    scores = json.loads(Path(folder, "scores.json").read_text())
    return {name: value for name, value in scores.items() if "seconds" not in name}


def test_a_run_leaves_everything_that_was_promised(iaf, monkeypatch, capsys):
    monkeypatch.setattr(iaf.pictures, "plot", plot)
    monkeypatch.setattr(iaf.pictures, "bars", bars)
    assert run(iaf, *TOY, "--steps", 3) == 0
    folder = Path("runs/iaf-fashion-small")
    assert files(folder) == [
        "checkpoint.safetensors", "config.json", "interpolation.png", "kl.png", "losses.png",
        "metrics.csv", "reconstructions.png", "samples", "samples.png", "scores.json",
        "timing.csv", "training.gif",
    ]  # fmt: skip
    with Image.open(folder / "interpolation.png") as picture:
        assert picture.size == (10 * 58 + 2, 8 * 58 + 2)
    samples = files(folder / "samples")
    assert samples == ["step-000000.png", "step-000001.png", "step-000003.png"]
    with Image.open(folder / "reconstructions.png") as picture:
        assert picture.size == (8 * 58 + 2, 2 * 58 + 2)  # 2 rows of 4 pairs, doubled
    header = checkpoint.read_header(folder / "checkpoint.safetensors")
    assert (header.model, header.step, header.config["flow_steps"]) == ("iaf", 3, 2)
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,-elbo,-log p(x|z),kl"
    assert [line.partition(",")[0] for line in lines[1:]] == ["2", "3"]
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["-log p"] <= scores["-elbo"]
    assert (scores["k"], scores["images"], scores["images of -log p"]) == (2, 20, 20)
    assert scores["seconds for 16 samples"] > 0
    assert "20 held-out images, in nats; -log p by 2 samples" in capsys.readouterr().out


@pytest.mark.parametrize(("how", "stop"), [("fewer steps", 3), ("Ctrl-C", 4)])
def test_a_resumed_run_ends_with_the_same_bytes(iaf, capsys, how, stop):
    same = ["checkpoint.safetensors", "samples.png", "reconstructions.png", "interpolation.png"]
    if how == "Ctrl-C":  # with fewer steps, their last one is logged too
        same.append("metrics.csv")
    check_resuming(iaf, capsys, *TOY, steps=7, stop=stop, how=how, same=same)
    straight, resumed = (scores_of(folder) for folder in ("straight", "resumed"))
    assert straight == resumed


@pytest.mark.parametrize("flow", ["none", "affine"])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_every_flow_on_every_network(iaf, flow, network):
    flags = ["--flow", flow, "--network", network, "--steps", 2]
    assert run(iaf, *TOY, *flags, "--out", "here") == 0
    assert np.isfinite(list(json.loads(Path("here/scores.json").read_text()).values())).all()
    config = checkpoint.read_header("here/checkpoint.safetensors").config
    assert ("flow_steps" in config) == (flow == "affine")


@pytest.mark.parametrize(("flow", "levels"), [("none", 2), ("affine", 1)])
def test_the_resnet_for_colours(iaf, capsys, flow, levels):
    flags = ["--preset", "colour", "--image-size", 8, "--layers", 1, "--width", 4, "--flow", flow]
    flags += ["--levels", levels]
    assert run(iaf, *TOY, *flags, "--steps", 2, "--out", "here") == 0
    scores = json.loads(Path("here/scores.json").read_text())
    assert scores["bits per value"] == pytest.approx(scores["-log p"] / (192 * np.log(2)))
    config = checkpoint.read_header("here/checkpoint.safetensors").config
    assert (config["layers"], config["levels"], config["flow"]) == (1, levels, flow)


def test_a_folder_of_pictures_gives_its_tenth_to_the_scores(iaf, capsys):
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(f"photos/{i}.png")
    assert run(iaf, *TOY, "--data", "photos", "--image-size", 12, "--steps", 2) == 0
    assert "2 held-out images" in capsys.readouterr().out
    with Image.open("runs/iaf-photos/samples.png") as picture:
        assert picture.mode == "RGB"


def test_mistakes_are_one_line_and_leave_nothing_behind(iaf, capsys):
    for flags, message in [
        (["--data", "nosuch"], "there is no data set or folder 'nosuch'"),
        (["--batch-size", 10**6], "--batch-size 1000000: fashion-small has 9000 images"),
        (["--k", 0], "argument --k: 0 is not above zero"),
        (["--flow", "planar"], "argument --flow: invalid choice: 'planar'"),
        (["--free-bits", -1], "argument --free-bits: -1"),
        (["--average", 1], "argument --average: 1 is not below 1"),
        (["--network", "conv", "--image-size", 7], "need square images of at least 8 pixels"),
        (["--preset", "colour", "--flow", "iaf"], "--flow iaf: --network resnet has affine steps"),
        (["--preset", "colour", "--image-size", 7], "7 × 7 pixels can't be halved 4 times"),
        (["--preset", "colour", "--image-size", 12, "--levels", 3], "divisible by 8"),
        (["--flow-steps", 0], "argument --flow-steps: 0 is not above zero"),
        (["--width", 0], "argument --width: 0 is not above zero"),
        (["--layers", 0], "argument --layers: 0 is not above zero"),
        (["--network", "resnet", "--flow", "none"], "preset small has no --layers, --levels"),
    ]:
        assert message in error_of(iaf, capsys, *TOY, *flags)
    assert not list(Path().iterdir())


def test_a_checkpoint_of_another_architecture(iaf, capsys):
    assert run(iaf, *TOY, "--steps", 1, "--out", "a") == 0
    assert run(iaf, *TOY, "--steps", 1, "--out", "b", "--flow", "none") == 0
    shutil.copy("b/checkpoint.safetensors", "a")
    line = error_of(iaf, capsys, *TOY, "--resume", "--out", "a")
    assert "of a iaf with context=None, flow=none" in line
    assert "would change" in error_of(iaf, capsys, *TOY, "--resume", "--out", "b", "--flow", "iaf")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(iaf, monkeypatch, capsys):
    assert run(iaf, *TOY, "--steps", 2, "--out", "here") == 0
    good = Path("here/checkpoint.safetensors").read_bytes()
    binarize = iaf.binarize
    monkeypatch.setattr(iaf, "binarize", lambda x, **options: binarize(x, **options) * np.nan)
    assert run(iaf, *TOY, "--resume", "--steps", 5, "--out", "here") == 2
    assert "-elbo was nan at step 4" in capsys.readouterr().err.splitlines()[-1]
    assert Path("here/checkpoint.safetensors").read_bytes() == good
