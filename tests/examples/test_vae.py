"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import check_resuming, error_of, files, load_script, metrics, run

from tinygen.data import Dataset
from tinygen.random import Generator
from tinygen.train import checkpoint

TOY = ["--hidden", "8", "--latent-dim", "3", "--batch-size", "16"]
QUICK = [*TOY, "--no-score"]


@pytest.fixture
def vae(tmp_path, monkeypatch):
    return load_script("vae", tmp_path, monkeypatch)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_run_leaves_everything_that_was_promised(vae, capsys):
    flags = ["--latent-dim", 2, "--score-k", 7, "--score-images", 11]
    assert run(vae, "--steps", 3, *TOY, *flags) == 0
    folder = Path("runs/vae-fashion-small")
    assert files(folder) == [
        "checkpoint.safetensors", "codes.png", "config.json", "denoising.png", "inpainting.png",
        "interpolation.png", "kl.png", "losses.png", "manifold.png", "metrics.csv",
        "reconstructions.png", "samples", "scores.json", "timing.csv", "training.gif",
    ]  # fmt: skip
    samples = files(folder / "samples")
    assert samples == ["step-000000.png", "step-000001.png", "step-000003.png"]
    tile = 58  # 28 pixels, doubled, and a line
    assert size_of(folder / "samples" / samples[0]) == (10 * tile + 2, 10 * tile + 2)
    assert size_of(folder / "reconstructions.png") == (8 * tile + 2, 8 * tile + 2)
    assert size_of(folder / "interpolation.png") == (10 * tile + 2, 8 * tile + 2)
    assert size_of(folder / "manifold.png") == (20 * tile + 2, 20 * tile + 2)
    assert size_of(folder / "denoising.png") == (10 * tile + 2, 5 * tile + 2)
    assert checkpoint.read_header(folder / "checkpoint.safetensors").step == 3
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["k"] == 7
    assert scores["images_log_p"] == 11
    assert scores["-elbo"] == pytest.approx(scores["recon"] + scores["kl"])
    assert "-log_p:" in capsys.readouterr().out


@pytest.fixture
def without_pictures(vae, monkeypatch):
    """They take most of a toy run's time."""
    monkeypatch.setattr(vae, "draw_pictures", lambda *arguments: None)


def test_the_first_losses_are_pinned(vae, without_pictures, monkeypatch):
    """A change that is meant to change nothing shows here."""
    monkeypatch.setitem(vae.CADENCE, "log_every", 1)
    assert run(vae, "--steps", 3, "--out", "here", *QUICK) == 0
    header = Path("here/metrics.csv").read_text().splitlines()[0]
    assert header == "step,loss,recon,kl,held_out"
    found = metrics("here", "loss", "recon", "kl", "held_out")
    pinned = [
        [393.010, 393.003, 7.03924e-3, 383.886],
        [352.401, 352.394, 7.52069e-3, 383.883],
        [380.082, 380.071, 11.5658e-3, 383.877],
    ]
    np.testing.assert_allclose(found, pinned, rtol=2e-4)


@pytest.mark.parametrize(("how", "stop"), [("fewer steps", 3), ("Ctrl-C", 4)])
def test_a_resumed_run_ends_with_the_same_bytes(
    vae, without_pictures, monkeypatch, capsys, how, stop
):
    monkeypatch.setitem(vae.CADENCE, "log_every", 2)
    flags = [*QUICK, "--half-life", 5, "--binarize", "static"]
    same = ["checkpoint.safetensors", "config.json", "samples/step-000007.png"]
    if how == "Ctrl-C":  # with fewer steps, their last one is logged too
        same.append("metrics.csv")
    check_resuming(vae, capsys, *flags, steps=7, stop=stop, how=how, same=same)


def test_a_folder_of_pictures_and_the_other_options(vae):
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(f"photos/{i}.png")
    flags = ["--data", "photos", "--image-size", 16, "--steps", 2, "--net", "conv", "--width", 2]
    assert run(vae, *flags, *QUICK, "--k", 3, "--hidden", "6,5", "--activation", "elu") == 0
    with Image.open("runs/vae-photos/samples/step-000002.png") as picture:
        assert picture.mode == "RGB"


def test_the_learning_rate_halves(vae, without_pictures, monkeypatch):
    seen = []
    step = vae.optim.Adam.step

    def watched(self):
        seen.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(vae.optim.Adam, "step", watched)
    assert run(vae, "--steps", 5, "--half-life", 2, "--lr", 0.01, *QUICK) == 0
    np.testing.assert_allclose(seen, 0.01 * 0.5 ** (np.arange(5) / 2))


def test_static_binarisation_is_one_draw(vae):
    images = np.full((50, 1, 28, 28), 100, np.uint8)
    first, second = (vae.fixed_draw(Dataset(images), Generator(3)) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert set(np.unique(first.images)) == {0, 255}
    assert first.images.mean() == pytest.approx(100, rel=0.02)


def test_presets_are_complete(vae):
    assert all(preset.keys() == vae.SMALL.keys() for preset in vae.PRESETS.values())
    for preset in vae.PRESETS.values():
        names = ("latent_dim", "net", "hidden", "activation", "width")
        vae.build({"image_shape": [1, 28, 28], **{name: preset[name] for name in names}})


def test_mistakes_are_one_line_and_leave_nothing_behind(vae, capsys):
    for flags, message in [
        (["--k", 0], "argument --k: 0 is not above zero"),
        (["--k", 2, "--beta", 3], "--beta 3.0: it has no meaning with --k 2"),
        (["--hidden", "200,x"], "argument --hidden"),
        (["--score-k", 0], "0 is not above zero"),
        (["--net", "conv", "--image-size", 7], "net='conv' needs at least 8 × 8"),
        (["--batch-size", 10**6], "--batch-size 1000000: fashion-small has 9000 images"),
        (["--data", "nosuch"], "there is no data set or folder 'nosuch'"),
    ]:
        assert message in error_of(vae, capsys, *flags)
    assert not list(Path().iterdir())


def test_checkpoints_that_do_not_fit(vae, without_pictures, capsys):
    assert run(vae, "--steps", 1, "--out", "a", *QUICK) == 0
    assert run(vae, "--steps", 1, "--out", "b", *QUICK, "--latent-dim", 4) == 0
    shutil.copy("b/checkpoint.safetensors", "a")
    line = error_of(vae, capsys, "--resume", "--out", "a")
    assert "of a vae with latent_dim=4, not with latent_dim=3" in line
    line = error_of(vae, capsys, "--resume", "--out", "b", "--k", 2)
    assert "was started with --k 1" in line


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    vae, without_pictures, monkeypatch, capsys
):
    assert run(vae, "--steps", 2, "--out", "here", *QUICK) == 0
    good = Path("here/checkpoint.safetensors").read_bytes()
    real = vae.objective

    def broken(*arguments, **options):
        found = real(*arguments, **options)
        return found._replace(loss=found.loss * np.nan)

    monkeypatch.setattr(vae, "objective", broken)
    assert run(vae, "--resume", "--steps", 5, "--out", "here") == 2
    assert "loss was nan at step 5" in capsys.readouterr().err.splitlines()[-1]
    assert Path("here/checkpoint.safetensors").read_bytes() == good
