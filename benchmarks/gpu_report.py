"""Everything that has to be known on a GPU, in one command of at most 8 minutes.

    python benchmarks/gpu_report.py --json report.json
    python benchmarks/gpu_report.py --only kernels --match conv    # while working on one family
    python benchmarks/gpu_report.py --write-results report.json    # the section of docs/results.md

Needs CuPy, PyTorch and what tinygen needs; tinygen itself need not be installed. It measures the
machine's ceilings, runs the CUDA tests, checks and times every kernel beside PyTorch, then whole
training steps. What goes wrong in one case is a row of the tables, and the exit code is 1; it is 2
where there is no usable GPU. The JSON is written after every part, so a run that is cut off leaves
what it has.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

from common import serve, write_json
from report import section, steps, suite, table, zoo
from report.workers import Contained, answering

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"
PARTS = {"tests": 110, "kernels": 330, "models": 460}  # seconds from the start when each must end
CASE_SECONDS = 90  # for a kernel's case: compiling and tuning for the first time is most of it
MODEL_SECONDS = 120


class Report:
    """One run: its results, the time it has, and the file that they go to."""

    def __init__(self, args: argparse.Namespace, results: dict[str, Any]) -> None:
        self.args, self.results = args, results
        self.begin = time.monotonic()

    def left(self, part: str) -> float:
        """Seconds until the part must end."""
        end = max(PARTS.values()) if self.args.only else PARTS[part]
        return self.begin + end - time.monotonic()

    def save(self) -> None:
        write_json(self.args.json, self.results)

    def tests(self) -> None:
        """The CUDA tests, in processes of their own."""
        found = self.results["tests"] = suite.run(self.left("tests"))
        print(f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped")
        for name, line in found["failures"].items():
            print(f"  {name}: {line}")

    def kernels(self) -> None:
        """Every case, checked and timed; the table at the end."""
        worker, rows = Contained(__file__, "kernels"), self.results["kernels"]
        quick = self.args.quick
        ceilings = worker.ask(CASE_SECONDS, ask="ceilings", quick=quick)
        cases = worker.ask(CASE_SECONDS, ask="cases", quick=quick)
        for name, answer in (("ceilings", ceilings), ("list of cases", cases)):
            if "failed" in answer:
                rows[name] = {"family": name, "name": "", "precision": ""} | answer
                print(f"{name}: {table.status(answer)}")
                worker.close()
                return
        self.results["ceilings"] = ceilings
        print(section.ceilings_line(ceilings))
        chosen = [key for key in cases if self.args.match in key]
        for _, keys in groupby(chosen, lambda key: cases[key]["family"]):
            for key in keys:
                rows[key] = cases[key] | self._case(worker, key)
                print(table.kernel_line(rows[key], ceilings), flush=True)
            self.save()
        worker.close()
        print(f"\n{table.kernel_table(self.results)}")

    def _case(self, worker: Contained, key: str) -> dict[str, Any]:
        left, quick = self.left("kernels"), self.args.quick
        if left <= 0:
            return {"skipped": "out of time"}
        options = {"quick": quick, "seed": self.results["seed"], "seconds": 0.02 if quick else 0.1}
        return worker.ask(min(CASE_SECONDS, left + 5), ask="case", key=key, **options)

    def models(self) -> None:
        """Every training step by every provider, each provider in a process of its own."""
        chosen = {name: m for name, m in zoo.MODELS.items() if self.args.match in name}
        for provider in steps.PROVIDERS:
            worker = Contained(__file__, provider)
            for precision, (name, model) in product(steps.PRECISIONS, chosen.items()):
                if provider not in model.providers or precision not in model.precisions:
                    continue
                request = {"model": name, "precision": precision}
                row = self._step(worker, request)
                self.results["models"].append(request | {"provider": provider} | row)
                said = f"{row['median']:.3g} ms/step" if "median" in row else table.status(row)
                print(f"{name}, {precision}, {provider}: {said}", flush=True)
            worker.close()
        print(f"\n{table.model_table(self.results)}")

    def _step(self, worker: Contained, request: dict[str, str]) -> dict[str, Any]:
        left, quick = self.left("models"), self.args.quick
        if left <= 0:
            return {"skipped": "out of time"}
        options = {"quick": quick, "seconds": 0.2 if quick else 0.5}
        return worker.ask(min(MODEL_SECONDS, left + 5), **request, **options)

    def end(self) -> int:
        """The worst rows, the goals, the exit code."""
        results = self.results
        slow = table.worst(results["kernels"])
        if slow:
            print("\nthe ten worst rows:\n" + table.kernel_table(results, slow))
        if "ceilings" in results:
            for what, least, value, verdict in section.goals(results):
                print(f"{verdict}: {what}: {value} ({least})")
        rows = [*results["kernels"].values(), *results["models"]]
        failed = sum("failed" in row for row in rows)
        tests = results.get("tests", {}).get("failed", 0)
        seconds = time.monotonic() - self.begin
        print(f"\n{seconds:.0f} s; failed: {failed} rows, {tests} tests")
        return 1 if failed or tests else 0


def importable(folder: str) -> None:
    """Let this process and its children import tinygen and its kernels from this checkout."""
    link = Path(folder) / "tinygen_kernels"
    link.symlink_to(ROOT / "kernels", target_is_directory=True)
    paths = [str(ROOT), folder]
    sys.path[:0] = paths
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *([known] if known else [])])


def describe() -> dict[str, Any]:
    """The machine; or {"failed": what stands in the way, in one line}."""
    from tinygen import device

    try:
        device.check("cuda")
    except device.DeviceError as error:
        return {"failed": str(error)}
    worker = Contained(__file__, "kernels")
    machine = worker.ask(CASE_SECONDS, ask="machine")
    worker.close()
    return machine


def commit() -> str | None:
    """The commit of this checkout, if it is one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="a smoke run: toy sizes, few repetitions")
    p.add_argument("--json", type=Path, help="write the results to this file")
    p.add_argument("--only", choices=PARTS, help="one part only")
    p.add_argument("--match", default="", help="only kernels and models whose name contains this")
    p.add_argument("--seed", type=int, help="of the random inputs; a new one in every run")
    p.add_argument(
        "--write-results", type=Path, metavar="FILE",
        help="write the section of docs/results.md from this JSON, and nothing else",
    )  # fmt: skip
    p.add_argument("--worker", help=argparse.SUPPRESS)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.worker:
        serve(answering(args.worker))
        return 0
    if args.write_results:
        results = json.loads(args.write_results.read_text(encoding="utf-8"))
        if results["quick"]:
            print(f"gpu_report: {args.write_results}: a --quick run is no result", file=sys.stderr)
            return 2
        section.write_section(RESULTS, results)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        importable(folder)
        return run(args)


def run(args: argparse.Namespace) -> int:
    """All parts, or one. 2 without a usable GPU."""
    machine = describe()
    if "failed" in machine:
        print(f"gpu_report: no usable GPU: {machine['failed']}", file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine,
        "seed": int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed,
        "quick": args.quick,
        "kernels": {},
        "models": [],
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    report = Report(args, results)
    for part in PARTS:
        if args.only in (None, part):
            print(f"\n== {part}", flush=True)
            getattr(report, part)()
            report.save()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
