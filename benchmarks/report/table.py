"""What the report says: tables, the worst rows, the goals, the section of docs/results.md."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import print_table

__all__ = [
    "attainment",
    "goals",
    "kernel_line",
    "kernel_table",
    "model_table",
    "section",
    "speed",
    "status",
    "worst",
    "write_section",
]

BEGIN, END = "<!-- gpu report: begin -->", "<!-- gpu report: end -->"
WORST = 10
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

Row = Mapping[str, Any]


# ----------------------------------------------------------------------------- figures of a row


def measured(rows: Mapping[str, Row]) -> Iterator[tuple[str, Row]]:
    """Those with a time of ours."""
    return ((key, row) for key, row in rows.items() if "ours" in row)


def attainment(row: Row, ceilings: Mapping[str, float]) -> tuple[float, str]:
    """The least time that the GPU needs, as a share of the time taken, and what bounds it.

    max(bytes / bandwidth, FLOPs / rate of the precision), by the measured ceilings.
    """
    memory, compute = row["bytes"] / ceilings["memory"], row["flops"] / ceilings[row["precision"]]
    bound = row["precision"] if compute > memory else "memory"
    return 1e3 * max(memory, compute) / row["ours"]["median"], bound


def fastest(row: Row) -> str | None:
    """The peer with the least time, if any has one."""
    times = {name: peer["median"] for name, peer in row["peers"].items() if "median" in peer}
    return min(times, key=times.__getitem__, default=None)


def speed(row: Row, peer: str | None = None) -> float | None:
    """The peer's time over ours: above 1 we are faster. By default the fastest peer's."""
    peer = fastest(row) if peer is None else peer
    if peer is None or "median" not in row["peers"].get(peer, {}):
        return None
    return row["peers"][peer]["median"] / row["ours"]["median"]


def worst(rows: Mapping[str, Row], n: int = WORST) -> list[str]:
    """The keys of the rows with the lowest speed beside PyTorch."""
    speeds = {key: speed(row) for key, row in measured(rows)}
    return sorted((k for k, s in speeds.items() if s is not None), key=speeds.get)[:n]


# --------------------------------------------------------------------------------------- tables

KERNEL_HEADER = [
    "kernel", "precision", "tinygen µs", "20..80 %", "of ceiling", "PyTorch µs", "by",
    "speed / PyTorch", "Python µs", "error", "timed",
]  # fmt: skip
MODEL_HEADER = [
    "model", "precision", "library", "ms/step", "20..80 %", "images/s", "Python ms", "peak MB",
    "speed / PyTorch",
]  # fmt: skip


def kernel_table(results: Row, keys: list[str] | None = None) -> str:
    """All kernels, the worst marked with an arrow, or those of the given keys."""
    rows = results["kernels"]
    marked = set(worst(rows)) if keys is None else set()
    cells = [
        kernel_cells(rows[key], results["ceilings"], "← " * (key in marked))
        for key in (rows if keys is None else keys)
    ]
    return _table(KERNEL_HEADER, cells)


def kernel_cells(row: Row, ceilings: Mapping[str, float], mark: str = "") -> list[str]:
    """One row of the table."""
    name = [f"{row['family']}: {row['name']}", row["precision"]]
    if "ours" not in row:
        return [*name, *[""] * 8, status(row)]
    share, bound = attainment(row, ceilings)
    ours, peer = row["ours"], fastest(row)
    theirs = _us(row["peers"][peer]["median"]) if peer else "failed"
    ratio = f"{mark}{speed(row):.2f}" if peer else ""
    return [
        *name, _us(ours["median"]), f"{_us(ours['p20'])}..{_us(ours['p80'])}",
        f"{100 * share:.0f} % {bound}", theirs, peer or "", ratio, _us(ours["host"]),
        f"{row['error']:.0e}", row["timed"],
    ]  # fmt: skip


def kernel_line(row: Row, ceilings: Mapping[str, float]) -> str:
    """One row, as it is printed when it is ready."""
    name, precision, *cells = kernel_cells(row, ceilings)
    if "ours" not in row:
        return f"{name}, {precision}: {cells[-1]}"
    us, _, share, theirs, peer, ratio = cells[:6]
    notes = [f"; {n}: failed: {p['failed']}" for n, p in row["peers"].items() if "failed" in p]
    notes += [f"; timed eagerly: {row['why']}"] if "why" in row else []
    line = f"{name}, {precision}: {us} µs, {share}; {theirs} µs {peer}, speed {ratio}"
    return line + "".join(notes)


def model_table(results: Row) -> str:
    """All training steps; the speed is against PyTorch with its defaults."""
    cells = []
    for (model, precision), providers in _grouped(results).items():
        base = providers.get("torch", {}).get("median")
        for provider, row in providers.items():
            name = [model, precision, provider]
            if "median" not in row:
                cells.append([*name, status(row), *[""] * 5])
                continue
            cells.append([
                *name, f"{row['median']:.3g}", f"{row['p20']:.3g}..{row['p80']:.3g}",
                f"{row['images_per_second']:,.0f}", f"{row['host']:.3g}", f"{row['peak_mb']:.0f}",
                f"{base / row['median']:.2f}" if base else "",
            ])  # fmt: skip
    return _table(MODEL_HEADER, cells)


def _grouped(results: Row) -> dict[tuple[str, str], dict[str, Row]]:
    """(model, precision) -> provider -> row; one provider did all models in turn."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in results["models"]:
        groups.setdefault((row["model"], row["precision"]), {})[row["provider"]] = row
    return groups


def status(row: Row) -> str:
    """Of a row without a time."""
    return f"failed: {row['failed']}" if "failed" in row else row["skipped"]


def _us(ms: float) -> str:
    return f"{1e3 * ms:.3g}" if ms < 1 else f"{1e3 * ms:,.0f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_table(header, [[cell.replace("|", "/") for cell in row] for row in rows])
    return text.getvalue().rstrip()


# ---------------------------------------------------------------------------------------- goals


def goals(results: Row) -> list[list[str]]:
    """(what, goal, measured, whether it is reached), of what was measured."""
    found = []

    def goal(what: str, least: float, value: float | None, unit: str = "") -> None:
        if value is not None:
            scale = 100 if unit else 1
            said = [f"at least {scale * least:.4g}{unit}", f"{scale * value:.3g}{unit}"]
            found.append([what, *said, "reached" if value >= least else "missed"])

    steps = _grouped(results).get(("DCGAN 64x64, batch 128", "tf32"), {})
    for provider, least in (("tinygen", 1.0), ("tinygen captured", 1.3)):
        pair = [steps.get(name, {}).get("median") for name in ("torch", provider)]
        value = pair[0] / pair[1] if all(pair) else None
        goal(f"DCGAN 64x64 training step, {provider}: speed / PyTorch", least, value)

    rows = [row for _, row in measured(results["kernels"])]
    shares = [attainment(row, results["ceilings"]) for row in rows]
    memory = [share for share, bound in shares if bound == "memory"]
    goal("kernels bound by memory: copy bandwidth, lowest", 0.85, min(memory, default=None), " %")
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
        yield _table(["goal", "least", "measured", ""], goals(results))
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
        f" {_us(ceilings['empty_graph_ms'])} µs, which is part of every kernel's time."
    )


def write_section(path: Path, results: Row | None) -> None:
    """Replace what stands between the markers of a file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path}: expected the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    path.write_text(before + section(results) + rest.split(END)[1], encoding="utf-8")
