"""Flags, presets, exit codes and Ctrl-C, as the examples use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinygen.data import DataError
from tinygen.device import DeviceError
from tinygen.train import NonFiniteLoss, OutputError, RunFolder, Stopped, UserError, cli

PRESETS = {
    "small": {"data": "fashion-mnist", "steps": 100, "batch_size": 64, "image_size": 28},
    "paper": {"data": "faces", "steps": 9999, "batch_size": 128, "image_size": 64},
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(text: str = ""):
    parser = cli.Parser("dcgan", PRESETS, prog="dcgan.py")
    parser.add_argument("--lr", type=cli.positive(float))
    return parser.parse(text.split())


def test_the_first_preset_is_the_default():
    settings, run = parse()
    assert settings == {
        "model": "dcgan", "preset": "small", "device": "cpu", "precision": "fp32",
        "eager": False, "seed": 0, "score": True, **PRESETS["small"],
    }  # fmt: skip
    assert run.path == Path("runs/dcgan-fashion-mnist")


def test_a_given_flag_wins_over_the_preset():
    settings, run = parse("--steps 7 --preset paper --seed 3 --lr 0.1 --out x")
    assert settings["steps"] == 7
    assert settings["batch_size"] == 128
    assert settings["seed"] == 3
    assert settings["lr"] == 0.1
    assert run.path == Path("x")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steps 0", "--steps: 0 is not above zero"),
        ("--steps x", "--steps: invalid int value: 'x'"),
        ("--lr nan", "--lr: nan is not above zero"),
        ("--seed -1", "--seed: -1 is not between 0 and"),
        ("--preset huge", "invalid choice: 'huge'"),
        ("--device gpu", "'gpu' is no device; use 'cpu', 'cuda'"),
        ("--stepps 3", "unrecognized arguments: --stepps"),
        ("--step 3", "unrecognized arguments: --step"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line_and_code_2(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        parse(flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("dcgan.py: error: ")
    assert error.count("\n") == 1
    assert message in error


def begin(text):
    """A run of which a checkpoint exists."""
    settings, run = parse(text)
    run.start(settings)
    run.checkpoint.write_bytes(b"weights")
    return settings, run


def test_resume_keeps_the_settings_and_may_raise_the_steps():
    first, run = begin("--preset paper --batch-size 32")
    again, same = parse("--resume")
    assert again == first
    assert same.path == run.path
    assert parse("--resume --steps 20000")[0] == {**first, "steps": 20000}
    assert parse("--resume --no-score")[0] == {**first, "score": False}
    assert parse("--resume --batch-size 32 --data faces")[0] == first


def test_resume_of_a_run_from_before_a_setting_existed():
    first, run = begin("--batch-size 32")
    older = {name: value for name, value in first.items() if name != "image_size"}
    run.config.write_text(json.dumps(older))
    assert parse("--resume")[0] == first


def test_resume_does_not_turn_one_run_into_another():
    begin("--out here")
    with pytest.raises(UserError, match="here was started with --batch-size 64, which"):
        parse("--resume --out here --batch-size 32")
    with pytest.raises(UserError, match=r"--lr None, which --lr 0\.5 would change"):
        parse("--resume --lr 0.5 --out here")
    with pytest.raises(UserError, match="does not hold a run of vae"):
        cli.Parser("vae", PRESETS).parse(["--resume", "--out", "here"])


def test_resume_without_a_run():
    with pytest.raises(UserError, match="no run of dcgan with a checkpoint"):
        parse("--resume")


@pytest.mark.parametrize(
    "error",
    [UserError, OutputError, DataError, DeviceError, NonFiniteLoss],
)
def test_the_users_mistakes_are_one_line_and_code_2(capsys, error):
    def main(argv):
        raise error("the set\n  is unknown")

    assert cli.command(main, []) == 2
    assert capsys.readouterr().err.endswith(": error: the set is unknown\n")


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError, ZeroDivisionError])
def test_a_bug_keeps_its_traceback(error):
    def main(argv):
        raise error("a bug")

    with pytest.raises(error):
        cli.command(main, [])


def test_stopping_is_code_130(capsys):
    def main(argv):
        raise Stopped("stopped after step 3; go on with --resume")

    assert cli.command(main, []) == 130
    assert capsys.readouterr().err.endswith(": stopped after step 3; go on with --resume\n")
    assert cli.command(lambda argv: argv, ["--steps", "3"]) == 0


def test_the_first_ctrl_c_lets_the_step_end_and_the_second_does_not(capsys):
    before = signal.getsignal(signal.SIGINT)
    with cli.CtrlC() as ctrl_c:
        assert not ctrl_c.pressed
        os.kill(os.getpid(), signal.SIGINT)
        assert ctrl_c.pressed
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "finishing this step" in capsys.readouterr().err


def test_ctrl_c_in_another_thread_changes_no_handlers():
    pressed = []

    def work():
        with cli.CtrlC() as ctrl_c:
            pressed.append(ctrl_c.pressed)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert pressed == [False]


def test_importing_the_tools_of_training_draws_no_plot_library_in():
    code = "import sys, tinygen.train; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert RunFolder.__doc__
