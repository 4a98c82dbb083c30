"""Whole training steps against their PyTorch twins: examples/s and peak memory.

    python benchmarks/models.py            # a few minutes on 2 cores
    python benchmarks/models.py --quick
    python benchmarks/models.py --only draw

A twin is the same network with the same batch, loss and optimizer (see `twins`). PyTorch runs
eagerly with its fastest optimizers, in contiguous memory; where there are images in convolutions,
with channels-last memory too. An example of char-RNN's is a window of its text.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

from common import Worker, machine, parser, print_table, serve, time_call, write_json
from twins import char_rnn, dcgan, draw, iaf, mlp, pixelrnn, vae
from twins.common import Torch

MODELS = [mlp, dcgan, vae, iaf, pixelrnn, draw, char_rnn]
CASES = {name: (model, sizes) for model in MODELS for name, sizes in model.CASES.items()}
CHANNELS_LAST = "torch channels-last"


def answer(library: str, request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: time one case."""
    model, sizes = CASES[request["case"]]
    if library == "tinygen":
        step = model.tinygen_step(sizes)
    else:
        step = model.torch_step(sizes, Torch(channels_last=library == CHANNELS_LAST))
    timing = time_call(step, seconds=request["seconds"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb": peak / 1024, **timing}


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    if args.worker:
        serve(lambda request: answer(args.worker, request))
        return
    seconds = 1.0 if args.quick else 15.0
    rows, results = [], {"machine": machine(), "cases": {}}
    for case, (model, sizes) in CASES.items():
        if args.only not in case:
            continue
        found = results["cases"][case] = {}
        for library in ["tinygen", "torch"] + [CHANNELS_LAST] * (model is dcgan):
            worker = Worker(__file__, library, args.threads)  # a fresh one: its own peak memory
            found[library] = worker.ask(case=case, seconds=seconds)
            worker.close()
        rows += [_row(case, sizes, library, found) for library in found]
        print(f"{case}: done", file=sys.stderr)
    print(f"{results['machine']}\n")
    print_table(
        ["case", "library", "ms/step", "20..80 %", "CPU ms", "examples/s", "peak MB",
         "speed / torch", "by CPU time"], rows,
    )  # fmt: skip
    write_json(args.json, results)


def _row(case: str, sizes: Any, library: str, found: dict[str, dict]) -> list[str]:
    mine, torch = found[library], found["torch"]
    return [
        case, library, f"{1e3 * mine['median']:.3g}",
        f"{1e3 * mine['p20']:.3g}..{1e3 * mine['p80']:.3g}", f"{1e3 * mine['cpu']:.3g}",
        f"{sizes.batch_size / mine['median']:,.0f}", f"{mine['peak_mb']:.0f}",
        f"{torch['median'] / mine['median']:.2f}", f"{torch['cpu'] / mine['cpu']:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
