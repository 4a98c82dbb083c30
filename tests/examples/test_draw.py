"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import check_resuming, error_of, files, load_script, metrics, run

from tinygen import Tensor
from tinygen.data import load

TOY = ["--hidden", "5", "--latent-dim", "3", "--glimpses", "2", "--batch-size", "8"]
QUICK = [*TOY, "--no-score", "--image-size", "12"]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    return load_script("draw", tmp_path, monkeypatch)


def test_a_run_leaves_everything_that_was_promised(draw, capsys):
    assert run(draw, "--steps", 3, *TOY) == 0
    folder = Path("runs/draw-fashion-small")
    assert files(folder) == [
        "checkpoint.safetensors", "config.json", "drawing.gif", "drawing.png", "losses.png",
        "metrics.csv", "reading.png", "reconstructions.png", "samples", "scores.json",
        "timing.csv", "training.gif",
    ]  # fmt: skip
    samples = files(folder / "samples")
    assert samples == ["step-000000.png", "step-000001.png", "step-000003.png"]
    with Image.open(folder / "drawing.gif") as animation:
        assert animation.n_frames == 2  # a frame for each stroke
    with Image.open(folder / "drawing.png") as picture:
        assert picture.size == (2 * (112 + 2) + 2, 8 * (112 + 2) + 2)
        colours = {colour for _, colour in picture.getcolors(10**6)}
        assert (255, 26, 26) in colours
    with Image.open(folder / "reading.png") as picture:
        colours = {colour for _, colour in picture.getcolors(10**6)}
        assert {(255, 26, 26), (26, 230, 51)} <= colours
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["images"] == 1000
    p = load("fashion-small").images.mean(0) / 255  # pixels drawn apart from each other
    q = load("fashion-small", split="validation").images.mean(0) / 255
    apart = -(q * np.log(p) + (1 - q) * np.log(1 - p)).sum()
    assert scores["minus_elbo"] == pytest.approx(apart, rel=0.05)
    assert scores["minus_elbo"] == pytest.approx(scores["reconstruction"] + scores["kl"])
    assert len(scores["kl_of_each_glimpse"]) == 2
    assert "minus_elbo:" in capsys.readouterr().out


def test_the_first_losses_are_pinned(draw, monkeypatch):
    """A change that is meant to change nothing shows here."""
    monkeypatch.setitem(draw.CADENCE, "log_every", 1)
    assert run(draw, "--steps", 3, "--out", "here", *QUICK) == 0
    np.testing.assert_allclose(metrics("here", "minus_elbo", "kl"), PINNED, rtol=2e-4)


PINNED = [[83.7496, 0.555313], [67.2825, 0.40767], [66.0023, 0.424432]]


def test_a_resumed_run_ends_with_the_same_bytes(draw, monkeypatch, capsys):
    monkeypatch.setitem(draw.CADENCE, "log_every", 2)
    same = ["checkpoint.safetensors", "config.json", "metrics.csv", "drawing.png", "reading.png",
            "samples/step-000007.png"]  # fmt: skip
    check_resuming(draw, capsys, *QUICK, steps=7, stop=4, same=same)


def test_without_attention_there_are_no_windows(draw):
    assert run(draw, "--steps", 1, "--no-attention", "--out", "here", *QUICK) == 0
    with Image.open("here/drawing.png") as picture:
        assert all(r == g == b for _, (r, g, b) in picture.getcolors(10**6))
    assert json.loads(Path("here/config.json").read_text())["attention"] is False


def test_a_folder_of_colour_pictures(draw):
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (13, 14, 3), np.uint8)).save(f"photos/{i}.png")
    flags = [*TOY, "--data", "photos", "--image-size", 12, "--read", 2, "--write", 3]
    assert run(draw, "--steps", 2, *flags) == 0
    assert json.loads(Path("runs/draw-photos/scores.json").read_text())["images"] == 2
    with Image.open("runs/draw-photos/samples/step-000002.png") as picture:
        assert picture.mode == "RGB"


def test_the_outline_of_a_window_is_where_its_filters_are(draw):
    """Centres at columns 2, 4, 6 and rows 1, 3, 5 of an image of 9 × 8 pixels."""
    window = np.array([[0, -1 / 9, 0, np.log(0.5), 0]])
    large = draw.framed(np.zeros((1, 1, 8, 9)), Tensor(window), 3, (1.0, 0.5, 0.0))
    assert large.shape == (1, 3, 32, 36)
    red = large[0, 0]
    assert red[4:24, 8].all()
    assert red[4:24, 27].all()
    assert red[4, 8:28].all()
    assert red[23, 8:28].all()
    assert red.sum() == 20 * 20 - 16 * 16
    # Beyond the edges: what is left of it lies on them.
    window[0, 0] = -10
    large = draw.framed(np.zeros((1, 1, 8, 9)), Tensor(window), 3, (1.0, 0.5, 0.0))
    assert large[0, 0][:, 1:].sum() == 0


def test_mistakes_are_one_line_and_leave_nothing_behind(draw, capsys):
    assert run(draw, "--steps", 1, "--out", "a", *QUICK) == 0
    assert run(draw, "--steps", 1, "--out", "b", *QUICK, "--glimpses", 3) == 0
    Path("b/checkpoint.safetensors").replace("a/checkpoint.safetensors")
    for flags, message in [
        (["--data", "nosuch"], "there is no data set or folder 'nosuch'"),
        (["--batch-size", "9999"], "--batch-size 9999: fashion-small has 9000 images"),
        (["--resume", "--out", "a"], "of a draw with steps=3, not with steps=2"),
        (["--resume", "--out", "b"], "holds no checkpoint"),
        (["--resume", "--out", "a", "--no-attention"], "was started with --attention True"),
        (["--read", "0"], "--read: 0 is not above zero"),
    ]:
        assert message in error_of(draw, capsys, *flags)
    assert files(".") == ["a", "b"]


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(draw, monkeypatch, capsys):
    assert run(draw, "--steps", 2, "--out", "here", *QUICK) == 0
    good = Path("here/checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(draw, "binarize", lambda images: images * np.nan)
    assert run(draw, "--resume", "--steps", 5, "--out", "here") == 2
    assert "minus_elbo was nan at step 5" in capsys.readouterr().err.splitlines()[-1]
    assert Path("here/checkpoint.safetensors").read_bytes() == good
