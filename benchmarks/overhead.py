"""What a user waits for before any arithmetic: the import, the first step, the tape.

    python benchmarks/overhead.py

Import and first training step are measured in new processes, the step once with an empty compile
cache and once with a full one. The tape's cost is that of recording and of going back through one
multiplication of 2×2 arrays, less NumPy's own time for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from common import machine, parser, print_table, write_json

FIRST_STEP = """
import sys, time
start = time.perf_counter()
sys.path.insert(0, {folder!r})
from twins import dcgan
step = dcgan.tinygen_step(dcgan.CASES["dcgan 28x28, batch 128"])
step()[0].item()
print(time.perf_counter() - start)
"""


def import_seconds() -> float:
    """Median over new processes, the interpreter's own start not counted."""
    code = "import time; t = time.perf_counter(); import tinygen; print(time.perf_counter() - t)"
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True).stdout)
        for _ in range(5)
    ]  # fmt: skip
    return float(np.median(found))


def first_step_seconds(cache: str) -> float:
    """Until the first DCGAN training step is done, from the start of the imports."""
    code = FIRST_STEP.format(folder=os.path.dirname(os.path.abspath(__file__)))
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            env=environment, check=True)  # fmt: skip
    return float(result.stdout.split()[-1])


def tape_microseconds(operations: int = 50) -> dict[str, float]:
    """Per operation: NumPy's own, recording, and recording with the way back; the best of many."""
    import tinygen

    x = tinygen.tensor(np.ones((2, 2), np.float32), requires_grad=True)
    y = tinygen.tensor(np.ones((2, 2), np.float32))
    a, b = x.data, y.data

    def numpy_chain():
        z = a
        for _ in range(operations):
            z = z * b

    def recorded():
        z = x
        for _ in range(operations):
            z = z * y
        return z

    def both():
        recorded().backward(a)

    def best(function) -> float:
        found = []
        for _ in range(300):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
        return 1e6 * float(np.percentile(found, 20)) / operations

    return {"numpy": best(numpy_chain), "recorded": best(recorded), "both": best(both)}


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as cache:
        results = {
            "machine": machine(),
            "import tinygen, s": import_seconds(),
            "first DCGAN step, empty compile cache, s": first_step_seconds(cache),
            "first DCGAN step, later runs, s": first_step_seconds(cache),
        }
    tape = tape_microseconds()
    results |= {
        "recording an operation, µs": tape["recorded"] - tape["numpy"],
        "recording it and going back, µs": tape["both"] - 2 * tape["numpy"],
        "NumPy's own time for it, µs": tape["numpy"],
    }
    print(f"{results['machine']}\n")
    rows = [[k, f"{v:.3g}"] for k, v in results.items() if k != "machine"]
    print_table(["what", "measured"], rows)
    write_json(args.json, results)


if __name__ == "__main__":
    main()
