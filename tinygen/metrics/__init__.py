"""How good samples are: distances and scores that need no downloaded network."""

from .frechet import frechet_distance
from .neighbours import nearest_neighbours, precision_recall
from .score import inception_style_score

__all__ = [
    "frechet_distance",
    "inception_style_score",
    "nearest_neighbours",
    "precision_recall",
]
