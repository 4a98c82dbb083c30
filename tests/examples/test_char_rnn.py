"""The example as a user runs it, at toy sizes: what it writes, that it resumes, how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import check_resuming, error_of, files, load_script, metrics, run

from tinygen.data import load_text

POEM = "the quick brown fox jumps over the lazy dog.\n" * 40
TOY = ["--data", "poem.txt", "--hidden", "6", "--batch-size", "4", "--window", "8"]


@pytest.fixture
def char_rnn(tmp_path, monkeypatch):
    """The script as a module, in an empty folder but for a text."""
    script = load_script("char_rnn", tmp_path, monkeypatch, LENGTH=20)
    Path("poem.txt").write_text(POEM)
    return script


def test_a_run_learns_and_leaves_everything_that_was_promised(char_rnn, capsys):
    flags = ["--steps", 150, "--hidden", 32, "--lr", 0.01, "--prime", "the "]
    flags += ["--temperature", 0.3]
    assert run(char_rnn, *TOY, *flags) == 0
    folder = Path("runs/char-rnn-poem.txt")
    assert files(folder) == [
        "checkpoint.safetensors", "config.json", "losses.png", "metrics.csv", "samples",
        "scores.json", "temperatures.txt", "timing.csv",
    ]  # fmt: skip
    names = [f"step-{step:06d}.txt" for step in (0, 1, 20, 100, 150)]
    assert files(folder / "samples") == names
    before, *_, after = (Path(folder, "samples", name).read_text() for name in names)
    assert before.startswith("the ")
    assert len(after) == len("the ") + 20
    assert after[4:] in POEM
    assert before[4:] not in POEM
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["step"] == 150
    assert scores["bits_per_character"] < 1.5 < metrics(folder, "held_out")[0, 0]
    assert "bits per character" in capsys.readouterr().out
    source = json.loads((folder / "config.json").read_text())["text"]
    assert source["from"] == "poem.txt"
    assert "characters_per_s" in (folder / "timing.csv").read_text()
    assert (folder / "temperatures.txt").read_text().count("---- temperature") == 3


def test_the_first_losses_are_pinned(char_rnn, monkeypatch):
    """A change that is meant to change nothing shows here."""
    monkeypatch.setitem(char_rnn.CADENCE, "log_every", 1)
    assert run(char_rnn, *TOY, "--steps", 3, "--out", "here") == 0
    found = metrics("here", "bits_per_character")[:, 0]
    np.testing.assert_allclose(found, PINNED, rtol=1e-4)


PINNED = [5.0471, 4.83655, 4.92378]


@pytest.mark.parametrize(("how", "stop"), [("fewer steps", 30), ("Ctrl-C", 40)])
def test_a_resumed_run_ends_with_the_same_bytes(char_rnn, monkeypatch, capsys, how, stop):
    """Past the end of the text, too: 50 steps read it once."""
    monkeypatch.setitem(char_rnn.CADENCE, "log_every", 2)
    same = ["checkpoint.safetensors", "config.json", "temperatures.txt", "metrics.csv",
            "samples/step-000056.txt"]  # fmt: skip
    check_resuming(char_rnn, capsys, *TOY, steps=56, stop=stop, how=how, same=same)


def test_a_finished_run_writes_again_as_it_is_told(char_rnn, capsys):
    assert run(char_rnn, *TOY, "--steps", 2, "--out", "here") == 0
    weights = Path("here/checkpoint.safetensors").read_bytes()
    capsys.readouterr()
    flags = ["--prime", "fox ", "--temperature", 0.5, "--no-score"]
    assert run(char_rnn, "--resume", "--out", "here", *flags) == 0
    assert "\nfox " in capsys.readouterr().out
    assert Path("here/checkpoint.safetensors").read_bytes() == weights


def test_the_default_text_is_the_standard_library(char_rnn):
    flags = ["--hidden", 4, "--layers", 1, "--steps", 1, "--no-score", "--batch-size", 2]
    assert run(char_rnn, *flags) == 0
    config = json.loads(Path("runs/char-rnn-python/config.json").read_text())
    assert config["text"]["from"].startswith("Python 3.")
    assert "argparse.py" in config["text"]["files"] + config["text"]["held_out_files"]
    assert not set(config["text"]["files"]) & set(config["text"]["held_out_files"])


def test_mistakes_are_one_line(char_rnn, capsys):
    Path("bytes").write_bytes(b"abc\xff")
    Path("short.txt").write_text("abcdef")
    assert run(char_rnn, *TOY, "--steps", 1, "--out", "changed") == 0
    for flags, message in [
        (["--data", "nosuch.txt"], "there is no text file 'nosuch.txt'"),
        (["--data", "bytes"], "bytes is no text in UTF-8 (invalid start byte, byte 3)"),
        (["--data", "short.txt"], "a step reads 3,250 characters, and short.txt has 6"),
        ([*TOY, "--prime", ""], "--prime is empty"),
        (["--resume", "--out", "changed", "--window", "9"], "was started with --window 8"),
        (["--resume", "--out", "changed", "--steps", "2"], "was started with another text"),
    ]:
        Path("poem.txt").write_text(POEM + ("!" if "changed" in flags else ""))
        assert message in error_of(char_rnn, capsys, *flags)


def test_there_are_no_flags_for_images(char_rnn, capsys):
    for flags, message in [
        (["--image-size", "28"], "unrecognized arguments: --image-size"),
        (["--temperature", "0"], "--temperature: 0 is not above zero"),
    ]:
        assert message in error_of(char_rnn, capsys, *flags)


def test_the_text_and_what_is_held_out_are_the_same_every_time():
    text, again = load_text(), load_text()
    assert text == again
    assert len(text.train) > 2e6
    assert 0.03 < len(text.held_out) / len(text.train) < 0.3
    assert text.source["files"] == sorted(text.source["files"])
