"""A stand-in for CuPy whose arrays lie in emulated device memory.

Launchers, the tape, captured graphs and whole examples run on it unchanged, without a GPU. Raw
kernels go to the emulator; CuPy's own functions are NumPy's, applied to the emulated memory. It is
stricter than CuPy wherever CuPy trusts its caller:
- arguments of raw kernels must have exactly the types of the kernel's signature;
- fresh memory is NaN, and freed memory must not be touched;
- work on a stream other than the default one happens as late as its synchronisation allows, so a
  missing wait shows as poison;
- a host read is counted (`statistics.synchronizations`) and an error inside a capture, and so are
  cuBLAS calls, memory of the default pool and, unless the capture is relaxed, allocations that a
  pool can't serve from its own blocks.

`install()` puts it in the place of `cupy` and `cupyx` for this process.
"""

from __future__ import annotations

import sys
from types import ModuleType

from . import cuda
from . import functions as _functions
from .array import ndarray
from .cuda import get_default_memory_pool, get_default_pinned_memory_pool
from .raw import RawModule
from .stream import statistics

__all__ = ["RawModule", "cuda", "install", "ndarray", "statistics"]
__version__ = "14.2.0"

globals().update(_functions.NAMESPACE)


def install() -> ModuleType:
    """Make `import cupy` and `import cupyx` give the stand-in."""
    module = sys.modules[__name__]
    cupyx = ModuleType("cupyx")
    cupyx.empty_pinned = cuda.empty_pinned
    cupyx.scipy = ModuleType("cupyx.scipy")
    cupyx.scipy.special = ModuleType("cupyx.scipy.special")
    cupyx.scipy.special.erf = _functions.erf
    sys.modules.update(
        {
            "cupy": module,
            "cupy.cuda": cuda,
            "cupy.lib": module.lib,
            "cupyx": cupyx,
            "cupyx.scipy": cupyx.scipy,
            "cupyx.scipy.special": cupyx.scipy.special,
        }
    )
    return module
