"""The gated step of an inverse autoregressive flow, with the logarithm of its determinant."""

from __future__ import annotations

import numpy as np

__all__ = ["iaf_gate", "iaf_gate_grad"]


def iaf_gate(z: np.ndarray, ms: np.ndarray, *, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """σ z + (1 - σ) m with σ = sigmoid(s + bias), and Σ log σ: returns (output, log_det).

    z (N, D); ms (N, 2D), in each row first m, then s; output (N, D), log_det (N,).
    log σ = min(x, 0) - log1p(exp(-|x|)) with x = s + bias: finite for every finite x.
    (Kingma et al. 2016, equations 12 to 14.)
    """
    m, _, keep, replace, log_keep = _parts(ms, bias)
    return keep * z + replace * m, log_keep.sum(axis=1)


def iaf_gate_grad(
    grad_output: np.ndarray,
    grad_log_det: np.ndarray,
    z: np.ndarray,
    ms: np.ndarray,
    *,
    bias: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `iaf_gate` for z and ms, from those of the output (N, D) and log_det (N,).

    dz = g σ,  dm = g (1 - σ),  ds = (g (z - m) σ + l) (1 - σ).
    """
    m, _, keep, replace, _ = _parts(ms, bias)
    grad_m = grad_output * replace
    grad_s = (grad_output * (z - m) * keep + grad_log_det[:, None]) * replace
    return grad_output * keep, np.concatenate([grad_m, grad_s], axis=1)


def _parts(ms: np.ndarray, bias: float) -> tuple[np.ndarray, ...]:
    """m, s, σ, 1 - σ and log σ; the smaller of σ and 1 - σ is not found by subtracting."""
    m, s = np.split(ms, 2, axis=1)
    x = s + bias
    e = np.exp(-np.abs(x))
    small, large = e / (1 + e), 1 / (1 + e)
    keep, replace = np.where(x > 0, large, small), np.where(x > 0, small, large)
    return m, s, keep, replace, np.minimum(x, 0) - np.log1p(e)
