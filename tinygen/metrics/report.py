"""All measures of one set of samples, as the examples report them."""

from __future__ import annotations

import numpy as np

from ..data import Dataset
from .features import FeatureNet
from .frechet import frechet_distance
from .neighbours import nearest_neighbours, precision_recall
from .score import inception_style_score

__all__ = ["score_samples"]

CHECKED = 500  # samples whose nearest training image is looked for


def score_samples(
    samples: np.ndarray, training: Dataset, held_out: Dataset | None, net: FeatureNet
) -> dict[str, float]:
    """Scores of samples (N, C, H, W) in [-1, 1], as plain numbers under speaking names.

    They are compared with as many real images, held-out ones if there are half as many as samples,
    else training images. Names that end in `_real` say what real images get in the place of the
    samples: `score_real` those compared with, `frechet_real` training images against held-out
    ones, `nearest_rms_real` held-out images against training ones.
    """
    enough = held_out is not None and 2 * len(held_out) >= len(samples)
    reference = held_out if enough else training
    n = min(len(samples), len(reference))
    real, fake = _choose(reference.images, n), samples[:n]
    real_features, fake_features = net.features(real), net.features(fake)

    scores = {"samples": n}
    if net.head is not None:
        real_p, fake_p = net.probabilities(real), net.probabilities(fake)
        score = inception_style_score(fake_p)
        shares = np.bincount(fake_p.argmax(axis=1), minlength=fake_p.shape[1]) / n
        scores |= {
            "classifier_accuracy": net.accuracy.item(),
            "score": score.mean,
            "score_std": score.std,
            "score_real": inception_style_score(real_p).mean,
            "smallest_class_share": float(shares.min()),
            "largest_class_share": float(shares.max()),
        }
    scores["frechet"] = frechet_distance(fake_features, real_features)
    if enough:
        others = net.features(_choose(training.images, n))
        scores["frechet_real"] = frechet_distance(others, real_features)
    precision, recall = precision_recall(real_features, fake_features)
    scores |= {"precision": precision, "recall": recall}
    scores["nearest_rms"] = _nearest_rms(_bytes(samples[:CHECKED]), training)
    if held_out is not None:
        scores["nearest_rms_real"] = _nearest_rms(held_out.images[:CHECKED], training)
    return scores


def _nearest_rms(images: np.ndarray, training: Dataset) -> float:
    """Median over images of the root mean square difference, in grey levels of 0..255, from the
    nearest training image. Near 0, a model copies."""
    _, distance = nearest_neighbours(images, training.images)
    return float(np.median(distance) / np.sqrt(images[0].size))


def _choose(images: np.ndarray, n: int) -> np.ndarray:
    """n of them, evenly spread: data sets come sorted in all sorts of ways."""
    return images[np.linspace(0, len(images) - 1, n).round().astype(int)]


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.rint((images + 1) * 127.5).clip(0, 255).astype(np.uint8)
