"""Optimizer steps over all parameters at once, in place: the definition.

Every step takes a `pack` of the lists it updates, built once, and the gradients of this step. The
lists run in parallel: element `i` of each has the shape and dtype of parameter `i`. Symbols are
the papers': parameter p, gradient g, first moment m, second moment v, learning rate lr.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = [
    "adam_step",
    "adamax_step",
    "clip_norm_",
    "ema_step",
    "global_norm",
    "pack",
    "rmsprop_step",
    "scale_",
    "sgd_step",
]

Arrays = Sequence[np.ndarray]


def pack(*lists: Arrays) -> tuple[Arrays, ...]:
    """Lists of arrays that a step walks together: parameters first, then the state it keeps."""
    return lists


def sgd_step(
    pack: tuple[Arrays, ...],
    grads: Arrays,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Gradient descent on `pack(params)`, or with momentum on `pack(params, velocities)`.

    g ← g + weight_decay p,  u ← momentum u + g,  p ← p - lr u

    Nesterov's form looks ahead: p ← p - lr (g + momentum u).
    """
    params, *velocities = pack
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        update = g + weight_decay * p
        if momentum:
            u = velocities[0][i]
            u[...] = momentum * u + update
            update = update + momentum * u if nesterov else u
        p -= lr * update


def rmsprop_step(
    pack: tuple[Arrays, ...],
    grads: Arrays,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps_inside_root: bool = False,
) -> None:
    """RMSProp on `pack(params, square_avgs)`, or with momentum on `pack(..., velocities)`.

    v ← alpha v + (1 - alpha) g²,  u ← momentum u + g / (sqrt(v) + eps),  p ← p - lr u

    `eps_inside_root` divides by sqrt(v + eps), as TensorFlow's optimizer does.
    """
    params, square_avgs, *velocities = pack
    for i, (p, g, v) in enumerate(zip(params, grads, square_avgs, strict=True)):
        g = g + weight_decay * p
        v[...] = alpha * v + (1 - alpha) * g * g
        update = g / _root(v, eps, eps_inside_root)
        if momentum:
            u = velocities[0][i]
            u[...] = momentum * u + update
            update = u
        p -= lr * update


def adam_step(
    pack: tuple[Arrays, Arrays, Arrays],
    grads: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    eps_inside_root: bool = False,
    step: int,
) -> None:
    """Adam (Kingma and Ba 2014, algorithm 1) on `pack(params, exp_avgs, exp_avg_sqs)`.

    m ← beta1 m + (1 - beta1) g,  v ← beta2 v + (1 - beta2) g²
    p ← p - lr m̂ / (sqrt(v̂) + eps),  m̂ = m / (1 - beta1^step),  v̂ = v / (1 - beta2^step)

    `step` counts from 1. `decoupled` shrinks p by 1 - lr weight_decay first (AdamW, Loshchilov and
    Hutter 2017); otherwise weight_decay p joins the gradient. `eps_inside_root` divides by
    sqrt(v̂ + eps).
    """
    for p, m, v, g in zip(*pack, grads, strict=True):
        if decoupled:
            p *= 1 - lr * weight_decay
        else:
            g = g + weight_decay * p
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * g * g
        m_hat = m / (1 - beta1**step)
        v_hat = v / (1 - beta2**step)
        p -= lr * m_hat / _root(v_hat, eps, eps_inside_root)


def adamax_step(
    pack: tuple[Arrays, Arrays, Arrays],
    grads: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    step: int,
) -> None:
    """Adamax (Kingma and Ba 2014, algorithm 2) on `pack(params, exp_avgs, exp_infs)`.

    m ← beta1 m + (1 - beta1) g,  u ← max(beta2 u, |g| + eps),  p ← p - lr / (1 - beta1^step) m / u

    The paper has no eps; with it a parameter whose gradient was always zero stays where it is.
    """
    for p, m, u, g in zip(*pack, grads, strict=True):
        g = g + weight_decay * p
        m[...] = beta1 * m + (1 - beta1) * g
        u[...] = np.maximum(beta2 * u, np.abs(g) + eps)
        p -= lr / (1 - beta1**step) * m / u


def ema_step(pack: tuple[Arrays, Arrays], decay: float, *, updates: float = math.inf) -> None:
    """Exponential moving average on `pack(averages, params)`: a ← d a + (1 - d) p.

    d = min(decay, (1 + t) / (10 + t)) after t = `updates` of them: an average of few updates
    holds little of where it began (TensorFlow's `num_updates`). Without `updates` d = decay.
    """
    rest = max(1 - decay, 9 / (10 + updates))  # 1 - d
    for a, p in zip(*pack, strict=True):
        a += rest * (p - a)


def global_norm(arrays: Arrays) -> float:
    """Euclidean norm of all arrays taken as one vector, accumulated in float64."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))


def scale_(arrays: Arrays, factor: float) -> None:
    """Multiply every array by `factor`, in place."""
    for a in arrays:
        a *= factor


def clip_norm_(arrays: Arrays, max_norm: float) -> float:
    """Scale all arrays together so that their norm is at most `max_norm`; returns the norm before.

    A norm that is not finite leaves them as they are.
    """
    norm = global_norm(arrays)
    if max_norm < norm < math.inf:
        scale_(arrays, max_norm / norm)
    return norm


def _root(v: np.ndarray, eps: float, eps_inside_root: bool) -> np.ndarray:
    return np.sqrt(v + eps) if eps_inside_root else np.sqrt(v) + eps
