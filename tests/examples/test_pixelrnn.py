"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import (
    check_resuming,
    error_of,
    files,
    load_script,
    metrics,
    run,
    run_process,
)

TOY = ["--hidden", "3", "--head", "4", "--batch-size", "8", "--image-size", "8"]
QUICK = [*TOY, "--no-score"]
PINNED = [[87.0046, 91.1445, 92.6515], [87.8966, 87.6144, 89.5217], [86.9229, 87.0258, 89.0189]]


@pytest.fixture
def pixelrnn(tmp_path, monkeypatch, request):
    script = load_script("pixelrnn", tmp_path, monkeypatch, SHOWN=9, FRAMES=4, CURVE=50)
    if "everything" not in request.node.name:  # a plot takes most of a second
        monkeypatch.setattr(script.pictures, "plot", lambda *arguments: None)
    return script


def test_a_run_leaves_everything_that_was_promised(pixelrnn, capsys):
    assert run(pixelrnn, "--steps", 3, *TOY, "--naive") == 0
    folder = Path("runs/pixelrnn-fashion-small")
    assert files(folder) == [
        "checkpoint.safetensors", "completions.png", "config.json", "drawing.gif", "field.png",
        "heatmap.png", "losses.png", "metrics.csv", "samples", "scores.json", "timing.csv",
        "training.gif",
    ]  # fmt: skip
    assert files(folder / "samples") == ["step-000000.png", "step-000003.png"]
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["images"] == 1000
    assert scores["train_images"] == 1000
    for of in ("", "train_"):
        bits = scores[f"{of}bits_per_dim"]
        assert bits == pytest.approx(scores[f"{of}nats"] / 64 / np.log(2))
        assert 0.5 < bits < 2.5  # knowing nothing costs 2 bits with 4 levels
    assert scores["nats"] != scores["train_nats"]
    assert scores["seconds without caches"] > scores["seconds for 9 samples"] > 0
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,nats,train,held_out,train_bits_per_dim,held_out_bits_per_dim"
    with Image.open(folder / "drawing.gif") as animation:
        assert animation.n_frames == 5
    assert "drawing cost as much as" in capsys.readouterr().out


def test_completions_keep_the_upper_part(pixelrnn):
    assert run(pixelrnn, "--steps", 1, "--occlude", 0.25, "--out", "here", *QUICK) == 0
    picture = np.array(Image.open("here/completions.png"))
    # Tiles of 8 pixels, 8 times enlarged, and 2 between them: 7 in a row.
    tiles = [picture[2:66, 2 + 66 * k : 66 + 66 * k : 8][::8] for k in range(7)]
    for tile in tiles[1:]:
        np.testing.assert_array_equal(tile[:6], tiles[-1][:6])
    assert (tiles[0][6:] == tiles[0][6, 0]).all()
    assert any((tile[6:] != tiles[-1][6:]).any() for tile in tiles[1:-1])


def test_the_first_losses_are_pinned(pixelrnn, monkeypatch):
    """A change that is meant to change nothing shows here."""
    monkeypatch.setitem(pixelrnn.CADENCE, "log_every", 20)
    assert run(pixelrnn, "--steps", 60, "--out", "here", *QUICK) == 0
    np.testing.assert_allclose(metrics("here", "nats", "train", "held_out"), PINNED, rtol=5e-4)


def test_a_resumed_run_ends_with_the_same_bytes(pixelrnn, monkeypatch, capsys):
    monkeypatch.setitem(pixelrnn.CADENCE, "log_every", 2)
    flags = ["--levels", 2, *QUICK]  # drawn anew for each batch
    same = ["checkpoint.safetensors", "config.json", "metrics.csv", "completions.png",
            "heatmap.png", "field.png", "samples/step-000006.png"]  # fmt: skip
    check_resuming(pixelrnn, capsys, *flags, steps=6, stop=4, same=same)
    # The temperature does not belong to what was learned.
    before = Path("resumed/completions.png").read_bytes()
    assert run(pixelrnn, "--resume", "--out", "resumed", "--temperature", 0.1) == 0
    assert Path("resumed/completions.png").read_bytes() != before


@pytest.mark.parametrize(
    "flags",
    [
        ["--kind", "row", "--levels", "2", "--binarisation", "static"],
        ["--kind", "cnn", "--levels", "2", "--binarisation", "threshold"],
        ["--kind", "gated", "--levels", "256"],
        ["--data", "emoji", "--colours", "3", "--skip", "--multi-scale"],
        ["--kind", "row", "--image-size", "5", "--multi-scale"],
    ],
)
def test_the_other_options(pixelrnn, flags):
    assert run(pixelrnn, "--steps", 1, "--out", "here", *QUICK, *flags) == 0
    with Image.open("here/samples/step-000001.png") as picture:
        assert picture.mode == ("RGB" if "3" in flags else "L")
        if "2" in flags:
            assert set(np.unique(picture)) == {0, 128, 255}


def test_images_that_were_made_binary_once_stay_as_they_are(pixelrnn):
    settings = {"data": "fashion-small", "image_size": 8, "colours": 1, "levels": 2, "seed": 0,
                "batch_size": 8, "binarisation": "static"}  # fmt: skip
    training, watched = pixelrnn.load_levels(settings)
    again, _ = pixelrnn.load_levels(settings)
    assert set(np.unique(training.images)) == {0, 255}
    np.testing.assert_array_equal(training.images, again.images)
    other, _ = pixelrnn.load_levels({**settings, "seed": 1})
    assert (training.images != other.images).any()
    assert set(np.unique(watched["held_out"])) == {0, 1}
    # The first and the last of those to train on, as they are trained on.
    ends = training.images[[0, -1]]
    np.testing.assert_array_equal(255 * watched["train"][[0, -1]], ends)
    assert watched["train"].shape == watched["held_out"].shape == (1000, 1, 8, 8)


def test_a_folder_of_pictures_holds_a_tenth_out(pixelrnn):
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(f"photos/{i:02}.png")
    assert run(pixelrnn, "--data", "photos", "--colours", 3, "--steps", 1, *TOY) == 0
    scores = json.loads(Path("runs/pixelrnn-photos/scores.json").read_text())
    assert scores["images"] == scores["train_images"] == 2


def test_mistakes_are_one_line_and_leave_nothing_behind(pixelrnn, capsys):
    for flags, message in [
        (["--levels", 257], "levels=257 must be from 2 (black, white) to 256"),
        (["--levels", 1], "levels=1 must be from 2"),
        (["--levels", 4, "--binarisation", "static"], "--binarisation static needs --levels 2"),
        (["--colours", 3, "--hidden", 2], "hidden=2 and head=32 must be at least channels=3"),
        (["--data", "nosuch"], "there is no data set or folder 'nosuch'"),
        (["--batch-size", 10**6], "--batch-size 1000000: fashion-small has 9000 images to train"),
        (["--resume"], "no run of pixelrnn with a checkpoint"),
        (["--occlude", 1.5], "argument --occlude: 1.5 is not above 0 and at most 1"),
        (["--occlude", "half"], "argument --occlude: invalid part value: 'half'"),
        (["--kind", "rnn"], "argument --kind: invalid choice: 'rnn'"),
        (["--colours", 2], "argument --colours: invalid choice: 2"),
        (["--temperature", 0], "argument --temperature: 0 is not above zero"),
    ]:
        assert message in error_of(pixelrnn, capsys, *flags)
    assert not list(Path().iterdir())


def test_a_checkpoint_of_another_architecture(pixelrnn, capsys):
    assert run(pixelrnn, "--steps", 1, "--out", "a", *QUICK) == 0
    assert run(pixelrnn, "--steps", 1, "--out", "b", *QUICK, "--kind", "row") == 0
    shutil.copy("b/checkpoint.safetensors", "a")
    line = error_of(pixelrnn, capsys, "--resume", "--out", "a")
    assert "of a pixelrnn with kind=row, not with kind=diagonal" in line
    assert run(pixelrnn, "--steps", 1, "--out", "c", *QUICK, "--skip") == 0
    shutil.copy("c/checkpoint.safetensors", "a")
    line = error_of(pixelrnn, capsys, "--resume", "--out", "a")
    assert "of a pixelrnn with skip=True, not with skip=False" in line
    line = error_of(pixelrnn, capsys, "--resume", "--out", "b", "--levels", 5)
    assert "was started with --levels 4" in line


def test_the_script_itself_runs_and_fails_as_a_process(tmp_path):
    failed = run_process("pixelrnn", tmp_path, "--steps", "none")
    assert failed.returncode == 2
    assert failed.stderr == (
        "pixelrnn.py: error: argument --steps: invalid int value: 'none' (see --help)\n"
    )
