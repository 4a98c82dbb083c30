"""Run the CUDA tests on the GPU: a process for each file, so that one crash is one file's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["read", "run"]

ROOT = Path(__file__).parents[2]
AT_ONCE = 6  # most of a first run is compiling, which takes a CPU core each
NO_TESTS = 5  # pytest's exit code for a file without a `cuda` test
OUTCOME = re.compile(r"^(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR)\b", re.MULTILINE)
SUMMARY = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)


def run(seconds: float, root: Path = ROOT) -> dict[str, Any]:
    """Counts of the outcomes, and the first line of every failure; at most `seconds` in all."""
    begin = time.monotonic()
    files = sorted((root / "tests" / "cuda").glob("test_*.py"))

    def left() -> float:
        return max(1.0, begin + seconds - time.monotonic())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        parts = list(pool.map(lambda file: _file(root, file, left()), files))
    outcomes: Counter = sum((Counter(part["outcomes"]) for part in parts), Counter())
    failures = {name: line for part in parts for name, line in part["failures"].items()}
    return {
        "passed": outcomes["PASSED"],
        "failed": len(failures),
        "skipped": outcomes["SKIPPED"],
        "failures": failures,
        "seconds": time.monotonic() - begin,
    }


def _file(root: Path, file: Path, seconds: float) -> dict[str, Any]:
    name = file.relative_to(root).as_posix()
    command = [sys.executable, "-m", "pytest", "-m", "cuda", name, "-vv", "-rfE", "--tb=line"]
    environment = os.environ | {"TINYGEN_TEST_GPU": "cuda", "COLUMNS": "240"}
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider"], cwd=root, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        part = read(_text(error.stdout))
        part["failures"][name] = f"stopped after {seconds:.0f} s; --only tests leaves more"
        return part
    part = read(_text(done.stdout))
    if done.returncode not in (0, NO_TESTS) and not part["failures"]:
        last = _text(done.stdout).strip().splitlines()[-1:]
        part["failures"][name] = f"pytest ended with {done.returncode}: {''.join(last)}"
    return part


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def read(output: str) -> dict[str, Any]:
    """Outcomes and failures out of what `pytest -vv -rfE` prints, whole or cut off."""
    outcomes = Counter(outcome for _, outcome in OUTCOME.findall(output))
    failures = {n: "" for n, outcome in OUTCOME.findall(output) if outcome in ("FAILED", "ERROR")}
    failures |= {name: line for name, line in SUMMARY.findall(output)}
    return {"outcomes": dict(outcomes), "failures": failures}
