"""How good samples are: distances and scores that need no downloaded network."""

from .features import FeatureNet, feature_net
from .frechet import frechet_distance
from .neighbours import nearest_neighbours, precision_recall
from .report import score_samples
from .score import inception_style_score

__all__ = [
    "FeatureNet",
    "feature_net",
    "frechet_distance",
    "inception_style_score",
    "nearest_neighbours",
    "precision_recall",
    "score_samples",
]
