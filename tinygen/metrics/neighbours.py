"""Measures made of nearest neighbours: precision and recall, and a check for memorised images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .distances import squared_distances, two_sets

__all__ = ["Neighbours", "PrecisionRecall", "nearest_neighbours", "precision_recall"]


class PrecisionRecall(NamedTuple):
    """Both between 0 and 1."""

    precision: float
    recall: float


class Neighbours(NamedTuple):
    """For each sample: where its nearest training image stands, and how far away it is."""

    index: np.ndarray
    distance: np.ndarray


def precision_recall(real: Any, fake: Any, *, k: int = 3) -> PrecisionRecall:
    """How many fakes look real, and how many reals the fakes cover; features (N, D) and (M, D).

    A set's manifold is the union of balls around its members, each reaching to the k-th nearest
    other member. Precision is the share of fakes inside the manifold of the reals, recall the
    share of reals inside that of the fakes (Kynkäänniemi et al. 2019, arXiv 1904.06991).
    """
    real, fake = two_sets("precision_recall", real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"precision_recall: k = {k} needs more than k samples, got {len(real)} and {len(fake)}"
        )
    # Distances don't change with the origin, but their rounding errors do.
    centre = real.mean(axis=0, dtype=np.float64)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    return PrecisionRecall(_inside(fake, real, real_radii), _inside(real, fake, fake_radii))


def _squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to the k-th nearest other row."""
    radii = np.empty(len(x))
    for rows, distances in squared_distances(x, x):
        i = np.arange(len(distances))
        distances[i, rows.start + i] = np.inf  # itself
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def _inside(x: np.ndarray, centres: np.ndarray, squared_radii: np.ndarray) -> float:
    """Share of the rows of x that lie in at least one ball."""
    count = 0
    for _, distances in squared_distances(x, centres):
        count += int((distances <= squared_radii).any(axis=1).sum())
    return count / len(x)


def nearest_neighbours(samples: Any, images: Any) -> Neighbours:
    """The nearest of `images` (M, ...) for each of `samples` (N, ...), Euclidean, in pixel space.

    A model that only copies its training images has samples at a distance near 0; compare with the
    distances from held-out images to the training images. Both sets may be bytes.
    """
    samples, images = two_sets("nearest_neighbours", samples, images)
    index = np.zeros(len(samples), np.int64)
    smallest = np.full(len(samples), np.inf)
    for rows, distances in squared_distances(images, samples):
        nearest = distances.argmin(axis=0)
        distance = distances[nearest, np.arange(len(samples))]
        nearer = distance < smallest
        index[nearer] = rows.start + nearest[nearer]
        smallest[nearer] = distance[nearer]
    # Once more for the winners alone, without cancellation: a copy is at distance 0 exactly.
    difference = np.subtract(samples, images[index], dtype=np.float64)
    return Neighbours(index, np.linalg.norm(difference, axis=1))
