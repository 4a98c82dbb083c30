"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
import shutil
import sys
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

from tinygen.metrics import features
from tinygen.train import checkpoint

TOY = ["--width", "2", "--batch-size", "16", "--latent-dim", "8"]
QUICK = [*TOY, "--no-score"]


@pytest.fixture
def dcgan(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load_script("dcgan", tmp_path, monkeypatch)


def test_a_run_leaves_everything_that_was_promised(dcgan, monkeypatch, capsys):
    monkeypatch.setattr(features, "STEPS", 5)
    monkeypatch.setattr(dcgan, "SCORED", 300)
    assert run(dcgan, "--steps", 3, *TOY) == 0
    folder = Path("runs/dcgan-fashion-small")
    assert files(folder) == [
        "checkpoint.safetensors", "config.json", "losses.png", "metrics.csv", "neighbours.png",
        "samples", "scores.json", "timing.csv", "training.gif", "walk.png",
    ]  # fmt: skip
    samples = files(folder / "samples")
    assert samples == ["step-000000.png", "step-000001.png", "step-000003.png"]
    with Image.open(folder / "samples" / samples[0]) as picture:
        assert picture.size == (8 * 58 + 2,) * 2  # 8 x 8 images of 28 pixels, doubled
    with Image.open(folder / "training.gif") as animation:
        assert animation.n_frames == 3
    with Image.open(folder / "walk.png") as picture:
        assert picture.size == (10 * 58 + 2, 8 * 58 + 2)
    assert checkpoint.read_header(folder / "checkpoint.safetensors").step == 3
    assert json.loads((folder / "config.json").read_text())["latent_dim"] == 8
    scores = json.loads((folder / "scores.json").read_text())
    assert 1 <= scores["score"] <= 10
    assert scores["frechet"] > 0
    assert "frechet:" in capsys.readouterr().out


def test_the_first_losses_are_pinned(dcgan, monkeypatch):
    """A change that is meant to change nothing shows here."""
    monkeypatch.setitem(dcgan.CADENCE, "log_every", 1)
    assert run(dcgan, "--steps", 3, "--out", "here", *QUICK) == 0
    header = Path("here/metrics.csv").read_text().splitlines()[0]
    assert header == "step,loss_d,loss_g,D(x),D(G(z))"
    losses = metrics("here", "loss_d", "loss_g")
    pinned = [[1.4121, 0.751525], [1.4163, 0.748643], [1.3959, 0.738125]]
    np.testing.assert_allclose(losses, pinned, rtol=2e-4)


@pytest.mark.parametrize(("how", "stop"), [("fewer steps", 3), ("Ctrl-C", 4)])
def test_a_resumed_run_ends_with_the_same_bytes(dcgan, monkeypatch, capsys, how, stop):
    monkeypatch.setitem(dcgan.CADENCE, "log_every", 2)
    same = ["checkpoint.safetensors", "config.json", "walk.png", "samples/step-000007.png"]
    if how == "Ctrl-C":  # with fewer steps, their last one is logged too
        same.append("metrics.csv")
    check_resuming(dcgan, capsys, *QUICK, steps=7, stop=stop, how=how, same=same)


def test_resuming_a_finished_run_only_draws_again(dcgan, capsys):
    assert run(dcgan, "--steps", 2, "--out", "here", *QUICK) == 0
    before = {
        p: p.read_bytes() for p in Path("here").rglob("*") if p.suffix != ".csv" and p.is_file()
    }
    assert run(dcgan, "--resume") == 2  # it is not below runs/
    assert run(dcgan, "--resume", "--out", "here") == 0
    assert all(p.read_bytes() == data for p, data in before.items())
    line = error_of(dcgan, capsys, "--resume", "--out", "here", "--steps", 1)
    assert "--steps 1: here is at step 2 already" in line


def test_seeds_differ_and_equal_ones_agree(dcgan):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(dcgan, "--steps", 1, "--seed", seed, "--out", name, *QUICK) == 0
    a, b, c = (Path(name, "checkpoint.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_folder_of_pictures_and_the_other_options(dcgan):
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(f"photos/{i}.png")
    flags = ["--data", "photos", "--prior", "normal", "--image-size", 16, "--steps", 2]
    assert run(dcgan, *flags, *QUICK) == 0
    with Image.open("runs/dcgan-photos/samples/step-000002.png") as picture:
        assert picture.mode == "RGB"


def test_the_paper_preset_runs(dcgan):
    assert run(dcgan, "--preset", "paper", "--steps", 1, *QUICK) == 0
    config = json.loads(Path("runs/dcgan-emoji/config.json").read_text())
    assert config["image_size"] == 64
    assert config["hidden"] is None


def test_mistakes_are_one_line_and_leave_nothing_behind(dcgan, capsys):
    Path("file").write_text("")
    for flags, message in [
        (["--data", "nosuch"], "there is no data set or folder 'nosuch'"),
        (["--batch-size", 10**6], "--batch-size 1000000: batch norm needs at least 2"),
        (["--batch-size", 1], "--batch-size 1: batch norm needs"),
        (["--out", "file/run"], "cannot write file/run: Not a directory"),
        (["--resume"], "no run of dcgan with a checkpoint"),
        (["--image-size", 5], "--image-size 5: DCGAN needs images of at least 8 pixels"),
    ]:
        assert message in error_of(dcgan, capsys, *flags)
    assert files(".") == ["file"]


def test_a_device_that_is_not_there(dcgan, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "needs CuPy: pip install" in error_of(dcgan, capsys, "--device", "cuda")


def test_checkpoints_that_do_not_fit(dcgan, capsys):
    assert run(dcgan, "--steps", 1, "--out", "a", *QUICK) == 0
    assert run(dcgan, "--steps", 1, "--out", "b", *QUICK, "--width", 3) == 0
    good = Path("a/checkpoint.safetensors").read_bytes()

    shutil.copy("b/checkpoint.safetensors", "a")
    line = error_of(dcgan, capsys, "--resume", "--out", "a")
    assert "of a dcgan with width=3, not with width=2" in line

    Path("a/checkpoint.safetensors").write_bytes(good[: len(good) // 2])
    assert "damaged or cut off" in error_of(dcgan, capsys, "--resume", "--out", "a")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(dcgan, monkeypatch, capsys):
    assert run(dcgan, "--steps", 2, "--out", "here", *QUICK) == 0
    good = Path("here/checkpoint.safetensors").read_bytes()
    loss = dcgan.discriminator_loss
    monkeypatch.setattr(dcgan, "discriminator_loss", lambda real, fake: loss(real, fake) * np.nan)
    assert run(dcgan, "--resume", "--steps", 5, "--out", "here") == 2
    assert "loss_d was nan at step 5" in capsys.readouterr().err.splitlines()[-1]
    assert Path("here/checkpoint.safetensors").read_bytes() == good


def test_d_gets_no_gradient_from_the_step_of_g(dcgan, monkeypatch):
    """Neither the work nor the leftovers: D's weights are switched off while G learns."""
    seen = []
    loss = dcgan.generator_loss

    def watched(logits):
        seen.append(True)
        return loss(logits)

    built = []
    make = dcgan.Discriminator
    monkeypatch.setattr(dcgan, "Discriminator", lambda **o: built.append(make(**o)) or built[-1])
    monkeypatch.setattr(dcgan, "generator_loss", watched)
    before = []
    step = dcgan.optim.Adam.step

    def stepped(self):
        grads = [p.grad.numpy().copy() for p in built[0].parameters()]
        before.append(grads)
        step(self)

    monkeypatch.setattr(dcgan.optim.Adam, "step", stepped)
    assert run(dcgan, "--steps", 1, "--out", "here", *QUICK) == 0
    of_d, of_g = before  # D's gradients when D steps, and when G does
    assert seen
    assert all((a == b).all() for a, b in zip(of_d, of_g, strict=True))
    assert all(p.requires_grad for p in built[0].parameters())


def test_the_script_itself_runs_and_fails_as_a_process(tmp_path):
    failed = run_process("dcgan", tmp_path, "--steps", "none")
    assert failed.returncode == 2
    assert failed.stderr == (
        "dcgan.py: error: argument --steps: invalid int value: 'none' (see --help)\n"
    )
    done = run_process("dcgan", tmp_path, "--steps", "1", "--out", "here", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "writing to here" in done.stdout
