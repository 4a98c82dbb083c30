"""Running a script of examples/ as a user does, and looking at what it leaves behind.

The tests of an example load it by a fixture of their own, in an empty folder:

    @pytest.fixture
    def vae(tmp_path, monkeypatch):
        return load_script("vae", tmp_path, monkeypatch, SHOWN=4)
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinygen.train import Steps, cli

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_script(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **constants
) -> ModuleType:
    """examples/<name>.py as a module, with other `constants`; `folder` is the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"examples/{name}.py"])
    spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for constant, value in constants.items():
        monkeypatch.setattr(script, constant, value)
    return script


def run(script: ModuleType, *flags) -> int:
    """The exit code; what argparse refuses is a SystemExit."""
    return cli.command(script.main, [str(flag) for flag in flags])


def run_process(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """The script in a process of its own."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *flags],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def error_of(script: ModuleType, capsys: pytest.CaptureFixture, *flags) -> str:
    """The one line that a mistake leaves on stderr."""
    capsys.readouterr()
    try:
        code = run(script, *flags)
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2, (code, lines)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{Path(script.__file__).name}: error: "), lines
    return lines[0]


def files(folder: str | Path) -> list[str]:
    """The names of what is in a folder, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


def metrics(folder: str | Path, *columns: str) -> np.ndarray:
    """metrics.csv, a row for each logged step: the columns of these names, or all."""
    with Path(folder, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in columns or row] for row in rows])


# ------------------------------------------------------------------------------------- two parts


@contextlib.contextmanager
def ctrl_c_at(step: int) -> Iterator[None]:
    """Inside, Ctrl-C is pressed during this step of a training loop."""
    log = Steps.log

    def press_and_log(steps, *arguments):
        if steps._step == step:
            signal.raise_signal(signal.SIGINT)
        log(steps, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "log", press_and_log)
        yield


def check_resuming(
    script: ModuleType,
    capsys: pytest.CaptureFixture,
    *flags,
    steps: int,
    stop: int,
    same: Sequence[str],
    how: str = "Ctrl-C",
) -> None:
    """A run that stops after step `stop`, by "Ctrl-C" or since it had "fewer steps", and goes on
    (in resumed/) leaves the `same` files as one that doesn't (in straight/), byte for byte.
    """
    assert run(script, *flags, "--steps", steps, "--out", "straight") == 0
    if how == "fewer steps":
        assert run(script, *flags, "--steps", stop, "--out", "resumed") == 0
        assert run(script, "--resume", "--steps", steps, "--out", "resumed") == 0
    else:
        with ctrl_c_at(stop):
            assert run(script, *flags, "--steps", steps, "--out", "resumed") == 130
        name = Path(script.__file__).name
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            f"{name}: stopped after step {stop} of {steps}; go on with: "
            f"python examples/{name} --resume --out resumed"
        ), said
        assert run(script, "--resume", "--out", "resumed") == 0
    for name in same:
        assert Path("straight", name).read_bytes() == Path("resumed", name).read_bytes(), name


# ----------------------------------------------------------------------------------- two devices


def run_on_both(script: ModuleType, *flags) -> None:
    """The same run on the CPU, in here/, and on the GPU without less precision, in there/."""
    assert run(script, *flags, "--out", "here") == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert run(script, *flags, *there) == 0


def check_weights(rtol: float, atol: float) -> None:
    """The checkpoints of `run_on_both` hold the same numbers, but for the rounding."""
    here, there = (load_file(f"{place}/checkpoint.safetensors") for place in ("here", "there"))
    assert here.keys() == there.keys(), here.keys() ^ there.keys()
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol, atol, err_msg=name)
