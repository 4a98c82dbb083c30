"""A set of pictures in memory, and the error that every reader of this package raises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """A set, folder or file that cannot be used: one line that names it and the cure."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Pictures with their labels.

    `images` is uint8 `(N, C, H, W)` with C = 1 (grey) or 3 (RGB); a set too large for memory is a
    memory-mapped array. `labels` is int64 `(N,)`, an index into `classes`, or None.

    >>> import tinygen.data
    >>> tinygen.data.load("fashion-small")
    Dataset('fashion-small', 'train': 9,000 images 1×28×28, 10 classes, 7.1 MB)
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    name: str = "images"
    split: str = "train"

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"Dataset: images of shape {images.shape} and type {images.dtype}; "
                "expected uint8 (N, C, H, W) with C = 1 or 3"
            )
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype != np.int64):
            raise ValueError(
                f"Dataset: labels of shape {labels.shape} and type {labels.dtype} "
                f"for {len(images)} images; expected int64 ({len(images)},)"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.images.shape[1:]

    def take(self, indices: slice | np.ndarray) -> Dataset:
        """Return the images (and labels) at a slice, integer indices or a boolean mask.

        >>> import tinygen.data
        >>> shoes = tinygen.data.load("fashion-small")
        >>> shoes = shoes.take(shoes.labels == shoes.classes.index("Sneaker"))
        """
        labels = None if self.labels is None else self.labels[indices]
        return Dataset(self.images[indices], labels, self.classes, self.name, self.split)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        classes = "" if self.labels is None else f", {len(self.classes)} classes"
        size = f"{self.images.nbytes / 1e6:,.1f} MB"
        what = f"{len(self):,} images {shape}{classes}, {size}"
        return f"Dataset({self.name!r}, {self.split!r}: {what})"


def to_float(images: np.ndarray, value_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """Map uint8 pixels to float32, 0 to `low` and 255 to `high` of `value_range`.

        low + x (high - low) / 255        by default x / 127.5 - 1, what a tanh output can reach

    >>> to_float(np.array([0, 255], dtype=np.uint8))
    array([-1.,  1.], dtype=float32)
    """
    low, high = value_range
    # Divided, not multiplied by the inverse, so that 255 gives exactly `high`.
    values = np.divide(images, np.float32(255 / (high - low)), dtype=np.float32)
    values += np.float32(low)
    return values
