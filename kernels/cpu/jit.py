"""How every CPU kernel is compiled: two decorators, one memory policy, one chunk size.

Kernels compile at their first call and are cached on disk (`NUMBA_CACHE_DIR`, else beside the
source, else in the user's cache folder).
"""

from __future__ import annotations

from numba import njit, prange

from . import heap  # noqa: F401  (the rest of the memory policy)

__all__ = ["CHUNK", "inline", "kernel", "prange", "serial_kernel"]

# Reassociation lets LLVM vectorise sums; `nnan` and `ninf` are left out on purpose, so that NaN
# and Inf travel through every kernel and the NaN finder can trust what it sees.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}

_OPTIONS = {"cache": True, "nogil": True, "fastmath": _FAST, "error_model": "numpy"}

kernel = njit(parallel=True, **_OPTIONS)
"""A kernel whose outer loop (`prange`) runs on all threads."""

serial_kernel = njit(**_OPTIONS)
"""A kernel for one thread; also what other kernels call."""

inline = njit(inline="always", **_OPTIONS)
"""A scalar helper that is inlined into the loop of its caller, so that the loop vectorises."""

CHUNK = 1 << 14
"""Elements per parallel task: fixed, so that sums do not depend on the number of threads."""
