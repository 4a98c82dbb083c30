"""DRAW's windows on the GPU, one launch each where the filters fit; see `window.cu`.

Nothing is added atomically: a result is the same in every run.
"""

from __future__ import annotations

import functools
from typing import Any

import cupy
import numpy as np

from ..layout import contiguous
from .launch import REALS, Source, blocks, ctype

__all__ = [
    "choose", "read_window", "read_window_grad", "shared_bytes", "write_window",
    "write_window_grad",
]  # fmt: skip

FUSED = Source("window.cu", REAL=REALS)
PLAIN = Source("window_plain.cu", REAL=REALS)
THREADS = 256
WARPS = THREADS // 32
NUMBERS = 5  # of a window


def shared_bytes(size: int, height: int, width: int, itemsize: int) -> tuple[int, int]:
    """Dynamic shared memory of a fused block, forwards and backwards."""
    numbers = size * (height + 2 * width)
    return itemsize * numbers, itemsize * (2 * numbers + NUMBERS * WARPS)


def choose(shared: int, most_shared: int) -> str:
    """The fastest version on a GPU that gives a block so many bytes of shared memory."""
    return "fused" if shared <= most_shared else "plain"


def read_window(images: cupy.ndarray, window: cupy.ndarray, size: int) -> cupy.ndarray:
    """γ F_y X F_xᵀ, see `reference.window.read_window`."""
    images, window = contiguous(images), contiguous(window)
    patches = cupy.empty((*images.shape[:2], size, size), images.dtype)
    sizes = _sizes(images, patches)
    shared, _ = shared_bytes(*sizes[1:], images.itemsize)
    if choose(shared, _most_shared()) == "fused":
        _run_fused("read_fused", shared, images, window, sizes, patches)
    else:
        _read_plain(images, window, _filters_plain(window, sizes), sizes, patches, reads=True)
    return patches


def read_window_grad(
    grad: cupy.ndarray, images: cupy.ndarray, window: cupy.ndarray
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of `read_window` for images and window."""
    return _grads(grad, images, window, reads=True)


def write_window(
    patches: cupy.ndarray, window: cupy.ndarray, height: int, width: int
) -> cupy.ndarray:
    """1/γ F_yᵀ P F_x, see `reference.window.write_window`."""
    patches, window = contiguous(patches), contiguous(window)
    images = cupy.empty((*patches.shape[:2], height, width), patches.dtype)
    sizes = _sizes(images, patches)
    shared, _ = shared_bytes(*sizes[1:], images.itemsize)
    if choose(shared, _most_shared()) == "fused":
        _run_fused("write_fused", shared, patches, window, sizes, images)
    else:
        _write_plain(patches, window, _filters_plain(window, sizes), sizes, images, reads=False)
    return images


def write_window_grad(
    grad: cupy.ndarray, patches: cupy.ndarray, window: cupy.ndarray
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of `write_window` for patches and window."""
    return _grads(patches, grad, window, reads=False)


def _grads(
    patches: cupy.ndarray, images: cupy.ndarray, window: cupy.ndarray, *, reads: bool
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients for what was read (images) or written (patches), and for the window. The other
    of the two is the gradient that comes in."""
    patches, images, window = contiguous(patches), contiguous(images), contiguous(window)
    grads = cupy.empty_like(images if reads else patches), cupy.empty_like(window)
    sizes = _sizes(images, patches)
    _, shared = shared_bytes(*sizes[1:], images.itemsize)
    if choose(shared, _most_shared()) == "fused":
        _run_fused("grad_fused", shared, patches, images, window, sizes, reads, *grads)
    else:
        _grads_plain(patches, images, window, sizes, reads, *grads)
    return grads


def _sizes(images: cupy.ndarray, patches: cupy.ndarray) -> tuple[int, ...]:
    """C, n, H, W."""
    return images.shape[1], patches.shape[2], *images.shape[2:]


def _run_fused(name: str, shared: int, *arguments: Any) -> None:
    """A block an image."""
    kernel = FUSED.kernel(name, REAL=ctype(arguments[0]))
    kernel(len(arguments[0]), THREADS, _with_struct(arguments), shared=shared)


def _run_plain(name: str, threads: int, *arguments: Any) -> None:
    kernel = PLAIN.kernel(name, REAL=ctype(arguments[0]))
    kernel(blocks(threads, THREADS), THREADS, _with_struct(arguments))


def _with_struct(arguments: tuple) -> list:
    """The sizes among them as the bytes of the struct in window.cuh."""
    return [np.array(a, np.int32) if isinstance(a, tuple) else a for a in arguments]


def _filters_plain(window, sizes):
    """F_y (N, n, H) and F_x (N, n, W)."""
    _, size, height, width = sizes
    rows = cupy.empty((len(window), size, height), window.dtype)
    columns = cupy.empty((len(window), size, width), window.dtype)
    threads = 2 * len(window) * size
    _run_plain("filters_plain", threads, window, sizes, len(window), rows, columns)
    return rows, columns


def _read_plain(images, window, filters, sizes, patches, *, reads):
    arguments = images, window, *filters, sizes, reads, patches.size, patches
    _run_plain("read_plain", patches.size, *arguments)


def _write_plain(patches, window, filters, sizes, images, *, reads):
    arguments = patches, window, *filters, sizes, reads, images.size, images
    _run_plain("write_plain", images.size, *arguments)


def _grads_plain(patches, images, window, sizes, reads, grad_input, grad_window):
    filters = _filters_plain(window, sizes)
    if reads:
        _write_plain(patches, window, filters, sizes, grad_input, reads=True)
    else:
        _read_plain(images, window, filters, sizes, grad_input, reads=False)
    grad_filters = [cupy.empty_like(bank) for bank in filters]
    for grad, other, vertical in zip(grad_filters, filters[::-1], (True, False), strict=True):
        arguments = patches, images, window, other, sizes, reads, vertical, grad.size, grad
        _run_plain("filter_grads_plain", grad.size, *arguments)
    arguments = window, *filters, *grad_filters, sizes, reads, len(window), grad_window
    _run_plain("window_grad_plain", len(window), *arguments)


def _most_shared() -> int:
    return _limit(cupy.cuda.Device().id)


@functools.cache
def _limit(device: int) -> int:
    return cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
