"""Figures of a row, tables of all of them, and the worst ones."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

from common import print_table

__all__ = [
    "Row",
    "attainment",
    "by_model",
    "fastest",
    "kernel_line",
    "kernel_table",
    "markdown",
    "measured",
    "microseconds",
    "model_table",
    "speed",
    "status",
    "worst",
]

WORST = 10

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
    return markdown(KERNEL_HEADER, cells)


def kernel_cells(row: Row, ceilings: Mapping[str, float], mark: str = "") -> list[str]:
    """One row of the table."""
    name = [f"{row['family']}: {row['name']}", row["precision"]]
    if "ours" not in row:
        return [*name, *[""] * 8, status(row)]
    share, bound = attainment(row, ceilings)
    ours, peer = row["ours"], fastest(row)
    theirs = microseconds(row["peers"][peer]["median"]) if peer else "failed"
    ratio = f"{mark}{speed(row):.2f}" if peer else ""
    return [
        *name, microseconds(ours["median"]),
        f"{microseconds(ours['p20'])}..{microseconds(ours['p80'])}",
        f"{100 * share:.0f} % {bound}", theirs, peer or "", ratio, microseconds(ours["host"]),
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
    for (model, precision), providers in by_model(results).items():
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
    return markdown(MODEL_HEADER, cells)


def by_model(results: Row) -> dict[tuple[str, str], dict[str, Row]]:
    """(model, precision) -> provider -> row; one provider did all models in turn."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in results["models"]:
        groups.setdefault((row["model"], row["precision"]), {})[row["provider"]] = row
    return groups


def status(row: Row) -> str:
    """Of a row without a time."""
    return f"failed: {row['failed']}" if "failed" in row else row["skipped"]


def microseconds(ms: float) -> str:
    """Milliseconds as microseconds with three digits."""
    return f"{1e3 * ms:.3g}" if ms < 1 else f"{1e3 * ms:,.0f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_table(header, [[cell.replace("|", "/") for cell in row] for row in rows])
    return text.getvalue().rstrip()
