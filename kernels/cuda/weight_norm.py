"""Weight normalisation on the GPU, in one launch each way; see `weight_norm.cu`."""

from __future__ import annotations

import cupy

from ..layout import around, contiguous, dense, dense_like
from .launch import REALS, Source, blocks, ctype
from .walk import PACK, THREADS, pack_of, plan

__all__ = ["weight_norm", "weight_norm_grad"]

SOURCE = Source("weight_norm.cu", REAL=REALS, PACK=(1, PACK))


def weight_norm(
    v: cupy.ndarray, g: cupy.ndarray, mask: cupy.ndarray | None = None, *, dim: int
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """(w, lengths), see `reference.weight_norm`; w lies in memory as v does."""
    return _weight_norm(v, g, mask, dim)


def weight_norm_grad(
    grad_w: cupy.ndarray,
    v: cupy.ndarray,
    g: cupy.ndarray,
    length: cupy.ndarray,
    mask: cupy.ndarray | None = None,
    *,
    dim: int,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of `weight_norm` for v and g, see `reference.weight_norm_grad`."""
    return _weight_norm_grad(grad_w, v, g, length, mask, dim)


def _weight_norm(
    v: cupy.ndarray,
    g: cupy.ndarray,
    mask: cupy.ndarray | None,
    dim: int,
    *,
    plain: bool = False,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    v = dense(v)
    w, length = cupy.empty_like(v), cupy.empty(g.shape, v.dtype)
    inputs = [v, None if mask is None else dense_like(mask, v)]
    _run("weight_norm", plain, dim, inputs, [contiguous(g)], [w], length)
    return w, length


def _weight_norm_grad(
    grad_w: cupy.ndarray,
    v: cupy.ndarray,
    g: cupy.ndarray,
    length: cupy.ndarray,
    mask: cupy.ndarray | None,
    dim: int,
    *,
    plain: bool = False,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    v = dense(v)
    grad_v, grad_g = cupy.empty_like(v), cupy.empty(g.shape, v.dtype)
    inputs = [dense_like(grad_w, v), v, None if mask is None else dense_like(mask, v)]
    vectors = [contiguous(g), contiguous(length)]
    _run("weight_norm_grad", plain, dim, inputs, vectors, [grad_v], grad_g)
    return grad_v, grad_g


def _run(name: str, plain: bool, dim: int, inputs: list, vectors: list, outputs: list, of_slices):
    """Launch a kernel on arrays of the weight's shape (`inputs`, `outputs`) and on numbers for
    each slice (`vectors`, `of_slices`, the result)."""
    v = outputs[0]
    if not v.size:
        of_slices.fill(0)
        return
    memory = around(v, dim).shape
    arguments = *inputs, *vectors, *outputs, of_slices
    if plain:
        kernel = SOURCE.kernel(f"{name}_plain", REAL=ctype(v), PACK=1)
        kernel(blocks(memory[1], THREADS), THREADS, (*memory, *arguments))
        return
    pack = pack_of(*memory[1:], *(a for a in (*inputs, *outputs) if a is not None))
    walk = plan(1, *memory, pack=pack, split=False)
    SOURCE.kernel(name, REAL=ctype(v), PACK=pack)(walk.grid, THREADS, (walk.struct, *arguments))
