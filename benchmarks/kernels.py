"""Each kernel at the shapes the models use: tinygen beside the NumPy reference and PyTorch.

    python benchmarks/kernels.py --json results.json
    python benchmarks/kernels.py --quick --only conv

Every library first computes the results, which must agree with the reference in float64, or no
time is printed. GFLOP/s and GB/s come from the formulas in `cases`, percentages from the machine's
ceilings, measured in the same run: a large float32 product, a large copy.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import elements, likelihood, products, recurrences, rows, windows
from cases.common import Case, as_tuple
from common import (
    Worker,
    ceilings,
    machine,
    parser,
    print_table,
    relative_error,
    serve,
    time_call,
    write_json,
)

FAMILIES = products, rows, elements, recurrences, likelihood, windows
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
CHANNELS_LAST = "torch channels-last"


def inputs(case: Case) -> dict[str, np.ndarray]:
    """The same float32 arrays in every process."""
    rng = np.random.default_rng(0)

    def source(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    drawn = {name: draw(source) for name, draw in case.inputs.items()}
    return {name: a.astype(np.float32, copy=False) for name, a in drawn.items()}


def tinygen_call(case: Case, backend: str, arrays: Mapping[str, np.ndarray]):
    """The case through the kernels of one backend, `cpu` or `reference`."""
    return case.ours(lambda name: importlib.import_module(f"tinygen_kernels.{backend}.{name}"),
                     arrays)  # fmt: skip


def torch_call(case: Case, arrays: Mapping[str, np.ndarray], channels_last: bool):
    """The case through PyTorch, in contiguous or channels-last memory."""
    import torch

    memory = torch.channels_last if channels_last else torch.contiguous_format
    tensors = {name: torch.tensor(a) for name, a in arrays.items()}
    return case.peer({
        name: t.contiguous(memory_format=memory) if t.ndim == 4 else t.contiguous()
        for name, t in tensors.items()
    })  # fmt: skip


def answer(library: str, request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: compute one case, compare with float64, time it."""
    from tinygen.device import use_kernels

    case = CASES[request["case"]]
    arrays = inputs(case)
    with use_kernels("reference"):
        wide = {name: a.astype(np.float64) for name, a in arrays.items()}
        expected = as_tuple(tinygen_call(case, "reference", wide)())
    if library.startswith("torch"):
        call = torch_call(case, arrays, library == CHANNELS_LAST)
        return _checked(case, call, expected, request["seconds"])
    backend = "reference" if library == "reference" else "cpu"
    with use_kernels(backend):
        call = tinygen_call(case, backend, arrays)
        return _checked(
            case, call, expected, None if library == "reference" else request["seconds"]
        )


def _checked(case: Case, call, expected: tuple, seconds: float | None) -> dict[str, Any]:
    """The error, and the time if it is small; without `seconds` that of one call.

    The reference takes seconds where kernels take milliseconds.
    """
    results = as_tuple(call())
    errors = [
        relative_error(_array(result), _array(value))
        for result, value in zip(results, expected, strict=True)
    ]
    error = float(np.max(errors))
    if not error <= 2e-5 * max(1, (case.flops or 1) ** 0.1):
        return {"error": error}
    if seconds is None:
        return {"error": error, **time_call(call, seconds=0, warm_up=0, least=1)}
    return {"error": error, **time_call(call, seconds=seconds)}


def _array(result: Any) -> np.ndarray:
    """A result of either library."""
    return result.detach().numpy() if hasattr(result, "detach") else np.asarray(result)


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    if args.worker:
        serve(lambda request: answer(args.worker, request))
        return
    top = ceilings()
    libraries = ["tinygen", "reference", "torch", CHANNELS_LAST]
    workers = {name: Worker(__file__, name, args.threads) for name in libraries}
    rows_, results = [], {"machine": machine(), "ceilings": top, "cases": {}}
    for case in CASES.values():
        if args.only not in case.name:
            continue
        found = results["cases"][case.name] = {}
        for name in libraries if case.images else libraries[:3]:
            seconds = 0.05 if args.quick else 1.0
            found[name] = workers[name].ask(case=case.name, seconds=seconds)
            if "median" not in found[name]:
                sys.exit(f"{case.name}: {name} is wrong by {found[name]['error']:.1e}")
        rows_.append(_row(case, found, top))
        print(f"{case.name}: done", file=sys.stderr)
    for worker in workers.values():
        worker.close()
    print(f"{results['machine']}")
    print(f"ceilings: {top['gflops']:.0f} GFLOP/s, {top['gbps']:.1f} GB/s\n")
    print_table(
        ["kernel", "tinygen ms", "20..80 %", "rate", "of ceiling", "torch ms", "channels-last",
         "reference", "speed / torch"], rows_,
    )  # fmt: skip
    write_json(args.json, results)


def _row(case: Case, found: dict[str, dict], top: dict[str, float]) -> list[str]:
    mine = found["tinygen"]
    rate, unit, ceiling = case.bytes / mine["median"] / 1e9, "GB/s", top["gbps"]
    if case.flops:
        rate, unit, ceiling = case.flops / mine["median"] / 1e9, "GFLOP/s", top["gflops"]
    ms = {name: f"{1e3 * r['median']:.3g}" for name, r in found.items()}
    return [
        case.name, ms["tinygen"], f"{1e3 * mine['p20']:.3g}..{1e3 * mine['p80']:.3g}",
        f"{rate:.3g} {unit}", f"{100 * rate / ceiling:.0f} %", ms["torch"],
        ms.get(CHANNELS_LAST, ""), ms["reference"],
        f"{found['torch']['median'] / mine['median']:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
