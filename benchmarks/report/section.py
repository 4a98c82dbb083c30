"""The goals, and the section "On a GPU" of docs/results.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from .table import (
    Row,
    attainment,
    by_model,
    kernel_table,
    markdown,
    measured,
    microseconds,
    model_table,
    speed,
)

__all__ = ["ceilings_line", "goals", "section", "write_section"]

BEGIN, END = "<!-- gpu report: begin -->", "<!-- gpu report: end -->"
COMMAND = "python benchmarks/gpu_report.py --json docs/gpu_report.json"
WRITE = "python benchmarks/gpu_report.py --write-results docs/gpu_report.json"
FRAME = f"{BEGIN}\n## On a GPU\n\n{{}}\n{END}"
NOT_YET = f"""\
The CUDA kernels have been proven by emulation and by compilation: the tests execute every kernel
thread by thread on the CPU against the NumPy reference, and compile it for three generations of
GPUs. They have not yet been run on a GPU, so there are no figures. This command takes at most
8 minutes on one, with CuPy and PyTorch installed; the second writes this section from its results:

```
{COMMAND}
{WRITE}
```"""


# ---------------------------------------------------------------------------------------- goals


def goals(results: Row) -> list[list[str]]:
    """(what, goal, measured, whether it is reached), of what was measured."""
    found = []

    def goal(what: str, least: float, value: float | None) -> None:
        if value is not None:
            verdict = "reached" if value >= least else "missed"
            found.append([what, f"at least {least:.2f}", f"{value:.2f}", verdict])

    steps = by_model(results).get(("DCGAN 64x64, batch 128", "tf32"), {})
    for provider, least in (("tinygen", 1.0), ("tinygen captured", 1.3)):
        pair = [steps.get(name, {}).get("median") for name in ("torch", provider)]
        value = pair[0] / pair[1] if all(pair) else None
        goal(f"DCGAN 64x64 training step, {provider}: speed / PyTorch", least, value)

    rows = [row for _, row in measured(results["kernels"])]
    shares = [attainment(row, results["ceilings"])[0] for row in rows if row["flops"] == 0]
    memory = "kernels bound by memory: share of the copy bandwidth, "
    goal(f"{memory}lowest", 0.85, min(shares, default=None))
    goal(f"{memory}median", 0.85, statistics.median(shares) if shares else None)
    conv = [s for row in rows if row["family"] == "conv" and (s := speed(row)) is not None]
    goal("convolutions: speed / cuDNN, lowest", 0.6, min(conv, default=None))
    goal("convolutions: speed / cuDNN, highest", 1.0, max(conv, default=None))
    lstm = [s for row in rows if row["family"] == "lstm" and (s := speed(row, "generic"))]
    goal("LSTM: speed / PyTorch's generic path, lowest", 1.0, min(lstm, default=None))
    return found


# ----------------------------------------------------------------------------------- results.md


def section(results: Row | None) -> str:
    """The section "On a GPU", markers included, from a report or from none."""
    return FRAME.format(NOT_YET if results is None else "\n\n".join(_paragraphs(results)))


def _paragraphs(results: Row) -> Iterator[str]:
    machine, tests = results["machine"], results.get("tests")
    yield (
        f"`{COMMAND}` on {results['date'][:10]}"
        + (f", commit {results['commit'][:10]}" if results.get("commit") else "")
        + ": "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + "."
    )
    if tests:
        yield f"CUDA tests: {tests['passed']} passed, {tests['failed']} failed, " + (
            f"{tests['skipped']} skipped."
        )
    if "ceilings" in results:
        yield ceilings_line(results["ceilings"])
        yield markdown(["goal", "least", "measured", ""], goals(results))
    if results["models"]:
        yield (
            "Training steps, each library in a process of its own. The last column is the time of"
            " the row `torch`, PyTorch with its defaults and its fused Adam, over the row's own."
            ' "Python" is what the host takes to launch a step.'
        )
        yield model_table(results)
    if "ceilings" in results:
        yield (
            "Kernels: device time of recorded graphs with a cold L2 cache, median; the ten lowest"
            " speeds are marked. The ceiling is the copy bandwidth or the rate of products in that"
            " precision, whichever bounds the kernel. PyTorch's time is that of its fastest way."
        )
        yield kernel_table(results)


def ceilings_line(ceilings: Mapping[str, float]) -> str:
    """The measured limits."""
    rates = ", ".join(f"{ceilings[p] / 1e12:.0f} TFLOP/s {p}" for p in ("fp32", "tf32", "bf16"))
    return (
        f"Ceilings measured in the same run: {ceilings['memory'] / 1e9:,.0f} GB/s for a large copy"
        f" (read + written); products of 8192² matrices: {rates}. An empty graph takes"
        f" {microseconds(ceilings['empty_graph_ms'])} µs, which is part of every kernel's time."
    )


def write_section(path: Path, results: Row | None) -> None:
    """Replace what stands between the markers of a file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path}: expected the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    path.write_text(before + section(results) + rest.split(END)[1], encoding="utf-8")
