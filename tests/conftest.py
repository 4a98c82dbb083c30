"""Hypothesis runs the same examples every time, without a deadline: kernels compile lazily."""

from __future__ import annotations

import collections
import os

# Tests run side by side, with more threads than cores: see kernels/threads.py.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}

import pytest
from hypothesis import HealthCheck, settings

from tinygen import autograd

pytest.register_assert_rewrite("helpers", "scripts")

settings.register_profile(
    "tinygen",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tinygen")


@pytest.fixture(autouse=True)
def _modes_are_left_as_found():
    """A mode or hook that outlives its test would change what all later ones test."""
    yield
    state = autograd.modes.state
    leaked = {k: v for k, v in vars(state).items() if v != getattr(type(state), k)}
    vars(state).clear()
    assert not leaked, f"the tape's state was not restored: {leaked}"


_resources: list[dict] = []


@pytest.fixture(scope="session")
def resource_table() -> list[dict]:
    """What the CUDA kernels take, for the table at the end of the run."""
    return _resources


def pytest_sessionfinish(session) -> None:
    """With `-n` the tests run in processes of their own: hand the table over to the first."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["resources"] = _resources


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    _resources.extend(getattr(node, "workeroutput", {}).get("resources", []))


def pytest_terminal_summary(terminalreporter) -> None:
    _why_tests_were_skipped(terminalreporter)
    _what_kernels_take(terminalreporter)


def _why_tests_were_skipped(terminalreporter) -> None:
    """A line for each reason: tests of a GPU stand there twice, for the emulator and for it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(report.longrepr[2] for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED {count}: {reason.removeprefix('Skipped: ')}")


def _what_kernels_take(terminalreporter) -> None:
    """Print registers, shared memory and spills of the CUDA kernels, a line for each kernel."""
    kernels: dict[tuple, dict[int, dict]] = {}
    for row in _resources:
        key = row["file"], row["kernel"], row["variant"]
        kernels.setdefault(key, {})[row["sm"]] = row
    if not kernels:
        return
    architectures = sorted({row["sm"] for row in _resources})
    terminalreporter.section("CUDA kernels: registers / static shared bytes / spilled bytes")
    heads = "".join(f"{f'sm_{a}':>16}" for a in architectures)
    terminalreporter.write_line(f"{'kernel':<64}{heads}")
    for (file, kernel, variant), by_sm in sorted(kernels.items()):
        cells = [
            f"{r['registers']} / {r['shared']} / {r['spills']}" if r else "-"
            for r in map(by_sm.get, architectures)
        ]
        name = f"{file.removesuffix('.cu')}: {kernel} {variant}"
        terminalreporter.write_line(f"{name:<64}{''.join(f'{c:>16}' for c in cells)}")
