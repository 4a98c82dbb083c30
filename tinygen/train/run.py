"""The run folder: everything one training run leaves behind, in one place.

runs/dcgan-mnist/
    config.json              the settings, written before anything else
    metrics.csv              one row per logged step; no times, so equal runs make equal files
    timing.csv               seconds since the (re)start and images/s at the same steps
    samples/step-000100.png  pictures from the same codes
    checkpoint.safetensors   networks, optimizers, random state
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import output_errors, replacing, write_json

__all__ = ["RunFolder"]

RUNS = Path("runs")


class RunFolder:
    """The folder of one run. Make one with `create` (a new run) or `find` (to go on with one)."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.csv"
        self.timing = self.path / "timing.csv"
        self.samples = self.path / "samples"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self._start = time.perf_counter()

    @classmethod
    def create(cls, model: str, data: str, out: str | os.PathLike | None = None) -> RunFolder:
        """The folder for a new run: `out`, or the first free of `runs/<model>-<data>`, `...-2`.

        Nothing is left on disk before `start`, but whether it can be is found out here, before any
        time was spent: UserError if `out` holds something already, OutputError if it can't be
        written to.
        """
        run = cls(out if out is not None else _first_free(RUNS / f"{model}-{Path(data).name}"))
        if run.path.is_dir() and any(run.path.iterdir()):
            if run.checkpoint.is_file():
                raise UserError(
                    f"{run.path} holds a run already: go on with it by adding --resume, "
                    "or name another folder with --out"
                )
            raise UserError(f"{run.path} is not empty: name a new folder with --out")
        run._check_writable()
        return run

    @classmethod
    def find(
        cls, model: str, data: str | None = None, out: str | os.PathLike | None = None
    ) -> RunFolder:
        """The run in `out`, or the one of this model (and data) whose checkpoint is the latest."""
        if out is not None:
            run = cls(out)
            if not run.checkpoint.is_file():
                raise UserError(
                    f"{run.path} holds no checkpoint to go on from: start a new run, "
                    "without --resume and with another --out"
                )
        else:
            runs = [cls(path.parent) for path in RUNS.glob("*/checkpoint.safetensors")]
            runs = [run for run in runs if run._is_of(model, data)]
            if not runs:
                raise UserError(
                    f"no run of {model} with a checkpoint found in {RUNS}{os.sep}: "
                    "name its folder with --out, or leave --resume out to start one"
                )
            run = max(runs, key=lambda run: run.checkpoint.stat().st_mtime)
        run._check_writable()
        return run

    def _is_of(self, model: str, data: str | None) -> bool:
        config = self.read_config()
        return config.get("model") == model and data in (None, config.get("data"))

    def _check_writable(self) -> None:
        """Make the folder and a file in it, and take back what was not there before."""
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            for path in missing:
                path.rmdir()

    # --------------------------------------------------------------------------------- settings

    def start(self, settings: Mapping[str, Any]) -> None:
        """Make the folder and write config.json: plain numbers, strings, lists and None."""
        with output_errors(self.samples):
            self.samples.mkdir(parents=True, exist_ok=True)
        write_json(self.config, dict(settings))

    def read_config(self) -> dict[str, Any]:
        """The settings in config.json. Raises UserError if the file is missing or damaged."""
        try:
            config = json.loads(self.config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.config} can't be read: {error}") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.config} can't be read: it holds no settings")
        return config

    # ---------------------------------------------------------------------------------- metrics

    def log(
        self,
        step: int,
        values: Mapping[str, float],
        images_per_second: float,
        unit: str = "images",
    ) -> None:
        """One more row in metrics.csv, and its time in timing.csv; `unit` is what was counted."""
        seconds = time.perf_counter() - self._start
        _append(self.metrics, {"step": step, **values})
        speed = {f"{unit}_per_s": images_per_second}
        _append(self.timing, {"step": step, "seconds": seconds, **speed})

    def forget_after(self, step: int) -> None:
        """Drop rows logged after the checkpoint's step: the resumed run will log them again."""
        for path in (self.metrics, self.timing):
            if path.exists():
                _truncate(path, step)

    def read_metrics(self) -> dict[str, list[float]]:
        """metrics.csv as columns."""
        with self.metrics.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        return {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}

    def sample_path(self, step: int) -> Path:
        """Where the picture of this step belongs; names sort in the order of the steps."""
        return self.samples / f"step-{step:06d}.png"


def _first_free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _append(path: Path, row: Mapping[str, float]) -> None:
    """One row in one write: a killed run leaves whole rows. A new file gets a header first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with output_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        if file.tell() == 0:
            writer.writerow(row)
        writer.writerow([v if isinstance(v, int) else f"{v:.6g}" for v in row.values()])
        file.write(text.getvalue())


def _truncate(path: Path, step: int) -> None:
    with output_errors(path):
        lines = path.read_text("utf-8").splitlines(keepends=True)
    # A last row that was cut off in the middle has no end of line; it is logged again anyway.
    lines = [line for line in lines if line.endswith("\n")]
    kept = lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), "utf-8", newline="\n")
