"""Choices among kernels by measurement, kept on disk for each device.

A model of the cost picks well, a stopwatch better. The first time that a problem comes up, its
candidates run a few times each on the data at hand, and the fastest is used from then on, in later
processes too: `$XDG_CACHE_HOME/tinygen/tuning/<device>-<sources>.json`, by default under
`~/.cache`. The hash of the sources in the name lets choices end with the kernels they were made
for. Sums are taken in another order by another tile, so a newly measured choice may move results
by a rounding; `TINYGEN_AUTOTUNE=0` keeps to the model, which is the same everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import cupy

from .launch import FOLDER

__all__ = ["Choices", "wanted"]

REPEATS = 3
Choice = TypeVar("Choice", bound=tuple)


def wanted() -> bool:
    """Whether measurements decide at all."""
    return os.environ.get("TINYGEN_AUTOTUNE", "1") != "0"


class Choices:
    """Problem -> the fastest candidate on this device. Problems and candidates are tuples of
    strings and numbers; `kind` makes a candidate of the numbers read from disk."""

    def __init__(self, kind: Callable[..., Choice]) -> None:
        self.kind = kind
        self._known: dict[int, dict[tuple, Choice]] = {}  # for each device

    def get(self, problem: tuple) -> Choice | None:
        """What was measured for the problem, now or in an earlier process."""
        return self._table(cupy.cuda.Device().id).get(problem) if wanted() else None

    def find(
        self,
        problem: tuple,
        candidates: Callable[[], Sequence[Choice]],
        run: Callable[[Choice], None],
    ) -> Choice | None:
        """The candidate with which `run` is fastest, kept for the next time.

        None where nothing can be measured: while a graph is recorded, or if nobody wants it.
        """
        if not wanted() or cupy.cuda.get_current_stream().is_capturing():
            return None
        device = cupy.cuda.Device().id
        best = min(candidates(), key=lambda candidate: _milliseconds(run, candidate))
        self._table(device)[problem] = best
        _merge(_file(device), {json.dumps(problem): best})
        return best

    def _table(self, device: int) -> dict[tuple, Choice]:
        if device not in self._known:
            read = _read(_file(device))
            self._known[device] = {tuple(json.loads(k)): self.kind(*v) for k, v in read.items()}
        return self._known[device]


def _milliseconds(run: Callable[[Choice], None], candidate: Choice) -> float:
    """The shortest of a few runs, after one that compiles and warms up."""
    run(candidate)
    times = []
    for _ in range(REPEATS):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run(candidate)
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return min(times)


@functools.cache
def _file(device: int) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()
    sources = [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh"), *FOLDER.glob("*.py")]
    text = b"".join(path.read_bytes() for path in sorted(sources))
    version = hashlib.blake2b(text, digest_size=6).hexdigest()
    return base / "tinygen" / "tuning" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{version}.json"


def _read(file: Path) -> dict[str, list]:
    """What is on disk; nothing if there is no file, or none that can be read."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _merge(file: Path, found: dict[str, tuple]) -> None:
    """Add to the file, whole or not at all. A folder that can't be written to costs the memory of
    the choice, not the run."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(".json", f".{file.stem}.", file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({**_read(file), **found}, stream, indent=0)
        os.replace(temporary, file)
