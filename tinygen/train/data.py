"""The images of a run, by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data import DATASETS, Dataset, load
from .errors import UserError

__all__ = ["load_data"]

_SIZE_OF_MNIST = ("fashion-small", "fashion-mnist", "mnist")


def load_data(
    settings: Mapping[str, Any], *, channels: int | None = None
) -> tuple[Dataset, Dataset]:
    """The images to train on, and those held out: the set's test split, else its validation split;
    of a folder of pictures, which has none, every tenth.

    Takes the settings `data`, `batch_size` and `image_size`; None for the last keeps 28 × 28 and
    makes all else 32 × 32. Raises UserError if there are too few images.
    """
    name = settings["data"]
    size = settings["image_size"] or (28 if name in _SIZE_OF_MNIST else 32)
    training = load(name, image_size=size, channels=channels)
    splits = DATASETS[name].splits if name in DATASETS else ()
    other = next((split for split in ("test", "validation") if split in splits), None)
    if other is not None:
        held_out = load(name, split=other, image_size=size, channels=channels)
    else:
        tenth = np.arange(len(training)) % 10 == 9
        training, held_out = training.take(~tenth), training.take(tenth)
    if settings["batch_size"] > len(training) or not len(held_out):
        raise UserError(
            f"--batch-size {settings['batch_size']}: {name} has {len(training)} images to train "
            f"on and {len(held_out)} held out"
        )
    return training, held_out
