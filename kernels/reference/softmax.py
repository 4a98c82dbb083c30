"""Softmax and its relatives along the rows of a matrix, and the two cross entropies.

Rows are shifted by their maximum, so that nothing overflows. A row that holds +inf, or nothing but
-inf, has no softmax: it gives NaN (as in PyTorch); its `logsumexp` is ±inf.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_grad",
    "check_targets",
    "cross_entropy",
    "cross_entropy_grad",
    "log_softmax",
    "log_softmax_grad",
    "logsumexp",
    "softmax",
    "softmax_grad",
]


def softmax(x: np.ndarray) -> np.ndarray:
    """y_j = exp(x_j) / Σ_k exp(x_k) in each row of x (rows, classes)."""
    e = np.exp(x - _maximum(x))
    return e / e.sum(axis=1, keepdims=True)


def softmax_grad(grad: np.ndarray, output: np.ndarray) -> np.ndarray:
    """y_j (g_j - Σ_k g_k y_k), from the gradient and the output of `softmax`."""
    return output * (grad - (grad * output).sum(axis=1, keepdims=True))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """x_j - log Σ_k exp(x_k) in each row of x (rows, classes)."""
    shifted = x - _maximum(x)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_softmax_grad(grad: np.ndarray, output: np.ndarray) -> np.ndarray:
    """g_j - exp(y_j) Σ_k g_k, from the gradient and the output of `log_softmax`."""
    return grad - np.exp(output) * grad.sum(axis=1, keepdims=True)


def logsumexp(x: np.ndarray) -> np.ndarray:
    """log Σ_k exp(x_k) for each row of x (rows, classes), as (rows,)."""
    shift = _maximum(x)
    shift[np.isinf(shift)] = 0
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - shift).sum(axis=1)) + shift[:, 0]


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, ignore_index: int = -100
) -> tuple[np.ndarray, np.ndarray]:
    """-log softmax(logits)[target] for each row: returns (losses, lse), both (rows,).

    logits (rows, classes), targets (rows,) integers in [0, classes). Rows whose target is
    `ignore_index` have loss 0. `lse` is the logsumexp of each row for `cross_entropy_grad`, in
    float64: exp(logit - lse) would lose digits with a rounded lse if logits are large.

    Raises ValueError for a target that is no class.
    """
    check_targets(targets, logits.shape[1], ignore_index)
    counts = targets != ignore_index
    picked = np.where(counts, targets, 0)[:, None]
    losses = -np.take_along_axis(log_softmax(logits), picked, axis=1)[:, 0]
    lse = logsumexp(logits.astype(np.float64))
    lse[np.isinf(lse)] = np.nan
    return np.where(counts, losses, 0).astype(logits.dtype), lse


def cross_entropy_grad(
    grad: np.ndarray,
    logits: np.ndarray,
    targets: np.ndarray,
    lse: np.ndarray,
    *,
    ignore_index: int = -100,
) -> np.ndarray:
    """g (softmax(logits) - onehot(target)) for each row, from the gradients g of the losses."""
    counts = targets != ignore_index
    onehot = np.arange(logits.shape[1]) == targets[:, None]
    grad_logits = grad[:, None] * (np.exp(logits - lse[:, None]) - onehot)
    return np.where(counts[:, None], grad_logits, 0).astype(logits.dtype)


def check_targets(targets: np.ndarray, classes: int, ignore_index: int) -> None:
    """Raise ValueError if a target is neither a class nor `ignore_index`."""
    wrong = (targets < 0) | (targets >= classes)
    if wrong.any():
        wrong &= targets != ignore_index
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"cross_entropy: target {targets[row]} in row {row} is no class; logits have {classes}"
            f" classes, so targets must be 0 to {classes - 1}, or {ignore_index} (ignore_index)"
        )


def binary_cross_entropy_with_logits(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-t log σ(x) - (1 - t) log(1 - σ(x)) for logits x and targets t in [0, 1], of any shape.

    Computed as w |x| + log(1 + exp(-|x|)), where w is the target's part on the other side than x
    (1 - t for x > 0, t for x <= 0): no term cancels another, however small the loss.
    """
    size = np.abs(logits)
    return _wrong(logits, targets) * size + np.log1p(np.exp(-size))


def binary_cross_entropy_with_logits_grad(
    grad: np.ndarray, logits: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """g (σ(x) - t) for the logits, as g sign(x) (w - σ(-|x|)), accurate for saturated logits."""
    e = np.exp(-np.abs(logits))
    difference = _wrong(logits, targets) - e / (1 + e)
    return grad * np.where(logits > 0, difference, -difference)


def _wrong(logits, targets):
    return np.where(logits > 0, 1 - targets, targets)


def _maximum(x):
    return x.max(axis=1, keepdims=True, initial=-np.inf)
