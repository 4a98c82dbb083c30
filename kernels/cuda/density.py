"""Densities of models with latents on the GPU, a launch each; see `density.cu`, `logistic.cu`."""

from __future__ import annotations

from typing import Any

import cupy

from ..layout import contiguous, dense, dense_like, flat
from .launch import REALS, Source, blocks, ctype

__all__ = [
    "bernoulli_log_likelihood",
    "bernoulli_log_likelihood_grad",
    "discretized_logistic",
    "discretized_logistic_grad",
    "reparameterize",
    "reparameterize_grad",
]

ROWS = Source("density.cu", REAL=REALS)
ELEMENTS = Source("logistic.cu", REAL=REALS)
THREADS = 256
MOST_BLOCKS = 65535  # the kernels of `logistic.cu` stride over what is left
VECTOR_BYTES = 16
KEPT = 8  # numbers of a row that a lane keeps in registers, as in softmax.cuh
WARP = 32


def reparameterize(
    mean: cupy.ndarray, log_std: cupy.ndarray, noise: cupy.ndarray
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """(μ + σ ε, KL of each row), see `reference.density.reparameterize`."""
    return _reparameterize(mean, log_std, noise)


def reparameterize_grad(
    grad: cupy.ndarray,
    grad_kl: cupy.ndarray,
    mean: cupy.ndarray,
    log_std: cupy.ndarray,
    noise: cupy.ndarray,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients for mean and log_std."""
    return _reparameterize_grad(grad, grad_kl, mean, log_std, noise)


def bernoulli_log_likelihood(logits: cupy.ndarray, targets: cupy.ndarray) -> cupy.ndarray:
    """Σ x ℓ - log(1 + exp ℓ) of each row, see `reference.density.bernoulli_log_likelihood`."""
    return _bernoulli(logits, targets)


def bernoulli_log_likelihood_grad(
    grad: cupy.ndarray, logits: cupy.ndarray, targets: cupy.ndarray
) -> cupy.ndarray:
    """Gradient for the logits, from the gradient (R,) of the sums."""
    return _bernoulli_grad(grad, logits, targets)


def discretized_logistic(
    x: cupy.ndarray,
    mean: cupy.ndarray,
    log_scale: cupy.ndarray,
    *,
    half: float,
    low: float,
    high: float,
) -> cupy.ndarray:
    """log P of each bin, see `reference.density.discretized_logistic`."""
    return _discretized_logistic(x, mean, log_scale, half, low, high)


def discretized_logistic_grad(
    grad: cupy.ndarray,
    x: cupy.ndarray,
    mean: cupy.ndarray,
    log_scale: cupy.ndarray,
    *,
    half: float,
    low: float,
    high: float,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients for mean and log_scale."""
    return _discretized_logistic_grad(grad, x, mean, log_scale, half, low, high)


def _reparameterize(mean, log_std, noise, *, plain: bool = False):
    mean, log_std, noise = map(contiguous, (mean, log_std, noise))
    out = cupy.empty_like(mean), cupy.empty(len(mean), mean.dtype)
    _by_rows("reparameterize", plain, [mean, log_std, noise, out[0]], [mean, log_std, noise], *out)
    return out


def _reparameterize_grad(grad, grad_kl, mean, log_std, noise, *, plain: bool = False):
    arrays = [contiguous(a) for a in (grad, grad_kl, mean, log_std, noise)]
    out = cupy.empty_like(arrays[2]), cupy.empty_like(arrays[2])
    matrices = [arrays[0], *arrays[2:], *out]
    _by_rows("reparameterize_grad", plain, matrices, arrays, *out)
    return out


def _bernoulli(logits, targets, *, plain: bool = False):
    logits, targets = contiguous(logits), contiguous(targets)
    out = cupy.empty(len(logits), logits.dtype)
    inputs = [logits, targets, len(targets)]
    _by_rows("bernoulli", plain, [logits, targets], inputs, out)
    return out


def _bernoulli_grad(grad, logits, targets, *, plain: bool = False):
    grad, logits, targets = map(contiguous, (grad, logits, targets))
    out = cupy.empty_like(logits)
    inputs = [grad, logits, targets, len(targets)]
    _by_rows("bernoulli_grad", plain, [logits, targets, out], inputs, out)
    return out


def _discretized_logistic(x, mean, log_scale, half, low, high, *, plain: bool = False):
    mean = dense(mean)
    out = cupy.empty_like(mean)
    arrays = [*(dense_like(a, mean) for a in (x, mean, log_scale)), out]
    _by_elements("logistic", plain, arrays, half, low + half, high - half)
    return out


def _discretized_logistic_grad(grad, x, mean, log_scale, half, low, high, *, plain: bool = False):
    mean = dense(mean)
    out = cupy.empty_like(mean), cupy.empty_like(mean)
    arrays = [*(dense_like(a, mean) for a in (grad, x, mean, log_scale)), *out]
    _by_elements("logistic_grad", plain, arrays, half, low + half, high - half)
    return out


def _by_rows(
    name: str, plain: bool, matrices: list[cupy.ndarray], inputs: list, *out: cupy.ndarray
) -> None:
    """A thread per row, or up to 32 lanes, or a block; vectors if all `matrices` allow them."""
    first = matrices[0]
    rows, columns = first.shape
    if plain:
        kernel = ROWS.kernel(f"{name}_plain", REAL=ctype(first))
        kernel(blocks(rows, THREADS), THREADS, (*inputs, rows, columns, *out))
        return
    lanes, threads, grid = 0, THREADS, rows
    if columns <= WARP * KEPT:
        lanes = 1 << (blocks(max(columns, 1), KEPT) - 1).bit_length()
        grid = blocks(rows, THREADS // lanes)
    elif columns < THREADS * KEPT:
        threads = WARP * blocks(columns, WARP * KEPT)
    vectors = columns * first.itemsize % VECTOR_BYTES == 0 and _aligned(matrices)
    kernel = ROWS.kernel(name, REAL=ctype(first))
    kernel(grid, threads, (*inputs, rows, columns, lanes, vectors, *out))


def _by_elements(name: str, plain: bool, arrays: list[cupy.ndarray], *edges: Any) -> None:
    """A thread per number, or per vector of them."""
    flats = [flat(a) for a in arrays]
    n, real = flats[0].size, ctype(flats[0])
    if plain:
        kernel = ELEMENTS.kernel(f"{name}_plain", REAL=real)
        kernel(blocks(n, THREADS), THREADS, (*flats, n, *edges))
        return
    aligned = _aligned(flats)
    per_block = THREADS * (VECTOR_BYTES // flats[0].itemsize if aligned else 1)
    kernel = ELEMENTS.kernel(name, REAL=real)
    kernel(blocks(n, per_block, MOST_BLOCKS), THREADS, (*flats, n, *edges, aligned))


def _aligned(arrays: list[cupy.ndarray]) -> bool:
    return all(a.data.ptr % VECTOR_BYTES == 0 for a in arrays)
