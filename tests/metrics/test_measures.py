"""Scores and distances against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from tinygen.metrics import (
    frechet_distance,
    inception_style_score,
    nearest_neighbours,
    precision_recall,
)


def with_moments(mean, cov, n=40):
    """Samples whose mean and covariance are exactly these."""
    d = len(mean)
    x = np.random.default_rng(n).standard_normal((n, d))
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(d, d))).T
    return np.asarray(mean) + white @ np.linalg.cholesky(cov).T


def test_frechet_between_known_gaussians():
    a = with_moments([0.0, 0.0], np.diag([4.0, 1.0]))
    b = with_moments([1.0, -2.0], np.diag([9.0, 0.25]), n=33)
    # Diagonal covariances: |Δμ|² + Σ (σ_a - σ_b)²
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0.25, rel=1e-9)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 6), n=st.integers(8, 20))
def test_frechet_against_the_textbook_formula(seed, d, n):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    b = rng.standard_normal((n + 3, d)) + 1
    cov_a, cov_b = np.cov(a.T).reshape(d, d), np.cov(b.T).reshape(d, d)
    root = sqrtm(cov_a @ cov_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_of_singular_covariances():
    rng = np.random.default_rng(0)
    line = rng.standard_normal((50, 1)) * np.array([[1.0, 2.0, 2.0]])  # rank 1
    few = rng.standard_normal((4, 100))  # fewer samples than features
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(line, 2 * line + 1) == pytest.approx(
        np.sum((line.mean(0) + 1) ** 2) + np.trace(np.cov(line.T)), rel=1e-9
    )
    assert frechet_distance(few, few + 0.1) == pytest.approx(1.0, rel=1e-9)


def test_score_of_clear_and_of_unclear_samples():
    assert inception_style_score(np.tile(np.eye(7), (50, 1)), splits=1).mean == pytest.approx(7)
    assert inception_style_score(np.full((100, 7), 1 / 7)).mean == pytest.approx(1)
    assert inception_style_score(np.eye(7)[np.zeros(100, int)]).mean == pytest.approx(1)


def test_score_by_hand():
    p = np.array([[0.8, 0.2], [0.4, 0.6]])
    marginal = [0.6, 0.4]
    kl = [0.8 * np.log(0.8 / 0.6) + 0.2 * np.log(0.5), 0.4 * np.log(0.4 / 0.6) + 0.6 * np.log(1.5)]
    assert marginal == pytest.approx(list(p.mean(0)))
    assert inception_style_score(p, splits=1) == pytest.approx((np.exp(np.mean(kl)), 0))


def test_score_shuffles_before_it_splits():
    ordered = np.repeat(np.eye(10), 100, axis=0)
    score = inception_style_score(ordered, splits=10)
    assert score.mean > 9.0  # each split alone would score 1
    assert score == inception_style_score(ordered, splits=10)
    assert score != inception_style_score(ordered, splits=10, seed=1)


def test_score_wants_probabilities():
    with pytest.raises(ValueError, match="sum to 1"):
        inception_style_score(np.ones((20, 3)))
    with pytest.raises(ValueError, match="splits"):
        inception_style_score(np.full((5, 2), 0.5), splits=10)


def test_precision_and_recall_at_the_extremes():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 4))  # more than one block of rows
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 1000) == (0.0, 0.0)
    # Fakes from half of the data: all look real, half of the reals are covered.
    halves = np.concatenate([x, x + 1000])
    precision, recall = precision_recall(halves, x)
    assert precision == 1.0
    assert recall == 0.5


@given(seed=st.integers(0, 2**31), k=st.integers(1, 4))
def test_precision_and_recall_against_plain_loops(seed, k):
    rng = np.random.default_rng(seed)
    real, fake = rng.standard_normal((9, 2)), rng.standard_normal((7, 2)) * 1.5

    def share(points, centres):
        inside = 0
        for p in points:
            for i, c in enumerate(centres):
                others = np.delete(centres, i, axis=0)
                radius = np.sort(np.linalg.norm(others - c, axis=1))[k - 1]
                if np.linalg.norm(p - c) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, fake, k=k) == (share(fake, real), share(real, fake))


def test_copies_are_found_at_distance_zero():
    rng = np.random.default_rng(0)
    images = rng.random((600, 1, 5, 5), dtype=np.float32)
    order = rng.permutation(600)
    index, distance = nearest_neighbours(images[order], images)
    assert (index == order).all()
    assert (distance == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_nearest_neighbours_against_all_distances(dtype):
    rng = np.random.default_rng(1)
    samples = (255 * rng.random((20, 3, 4, 4))).astype(dtype)
    images = (255 * rng.random((1100, 3, 4, 4))).astype(dtype)
    index, distance = nearest_neighbours(samples, images)
    difference = samples[:, None].astype(np.float64) - images[None]
    every = np.sqrt((difference**2).sum(axis=(2, 3, 4)))
    assert (index == every.argmin(axis=1)).all()
    np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-12)


@pytest.mark.parametrize("measure", [frechet_distance, precision_recall, nearest_neighbours])
def test_unusable_features_are_named(measure):
    good = np.zeros((10, 3))
    with pytest.raises(ValueError, match="NaN"):
        measure(np.full((10, 3), np.nan), good)
    with pytest.raises(ValueError, match=r"3 and 4|4 and 3"):
        measure(good, np.zeros((10, 4)))
    with pytest.raises(ValueError, match="expected a vector"):
        measure(np.zeros(10), good)
