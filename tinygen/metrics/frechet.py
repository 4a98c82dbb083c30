"""Fréchet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np

from .distances import two_sets

__all__ = ["frechet_distance"]


def frechet_distance(features_a: Any, features_b: Any) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), for features (N_a, D) and (N_b, D).

    The squared 2-Wasserstein distance of two Gaussians; Heusel et al. 2017 (arXiv 1706.08500)
    take Inception features, here any will do. Computed in float64. Biased upwards for few samples,
    so compare equal numbers only.

    No matrix square root is taken: with the centred features' QR decompositions, Σ = RᵀR and
    tr (Σ_a Σ_b)^½ is the sum of the singular values of R_a R_bᵀ. That needs no full rank and loses
    no digits to a product of covariances.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((100, 3))
    >>> round(frechet_distance(x, x + [3, 0, 4]), 6)
    25.0
    """
    a, b = two_sets("frechet_distance", features_a, features_b)
    if min(len(a), len(b)) < 2:
        raise ValueError("frechet_distance: a covariance needs at least 2 samples")
    mean_a, root_a = _mean_and_root(a)
    mean_b, root_b = _mean_and_root(b)
    difference = mean_a - mean_b
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross  # tr Σ = |R|²
    return float(difference @ difference + max(spread, 0.0))


def _mean_and_root(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """μ and R with RᵀR = Σ, the covariance with N - 1 in the denominator."""
    x = x.astype(np.float64, copy=False)
    mean = x.mean(axis=0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")
