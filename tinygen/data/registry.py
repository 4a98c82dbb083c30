"""The known data sets and how each is read; `load` opens them and the user's own pictures."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from . import formats, sources
from .dataset import DataError, Dataset
from .download import RemoteFile, data_folder, fetch
from .formats import Request
from .image_folder import load_folder
from .images import conform

_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One known set: the files of each split go to `read` in their order."""

    summary: str
    splits: dict[str, tuple[RemoteFile, ...]]
    read: formats.Reader


DATASETS: dict[str, Entry] = {
    "fashion-small": Entry(
        "clothes, 9,000 + 1,000 validation, 1×28×28 (in the package)",
        dict.fromkeys(("train", "validation"), sources.FASHION_MNIST["test"]),
        formats.hold_out_tenth(partial(formats.read_idx, classes=_CLOTHES)),
    ),
    "emoji": Entry(
        "Noto Color Emoji, 1,702 + 189 validation, 3×64×64 (in the package)",
        dict.fromkeys(("train", "validation"), (sources.EMOJI,)),
        formats.hold_out_tenth(formats.read_npz),
    ),
    "mnist": Entry(
        "handwritten digits, 60,000 + 10,000 test, 1×28×28",
        sources.MNIST,
        partial(formats.read_idx, classes=_DIGITS),
    ),
    "fashion-mnist": Entry(
        "clothes, 60,000 + 10,000 test, 1×28×28",
        sources.FASHION_MNIST,
        partial(formats.read_idx, classes=_CLOTHES),
    ),
    "cifar10": Entry(
        "natural pictures, 50,000 + 10,000 test, 3×32×32",
        dict.fromkeys(("train", "test"), (sources.CIFAR10,)),
        formats.read_cifar10,
    ),
    "svhn": Entry(
        "house numbers, 73,257 + 26,032 test + 531,131 extra, 3×32×32",
        sources.SVHN,
        formats.read_svhn,
    ),
    "omniglot": Entry(
        "characters of 50 alphabets, 19,280 + 13,180 test, 1×105×105",
        sources.OMNIGLOT,
        formats.read_omniglot,
    ),
    "tiny-imagenet": Entry(
        "natural pictures of 200 kinds, 100,000 + 10,000 validation, 3×64×64",
        dict.fromkeys(("train", "validation"), (sources.TINY_IMAGENET,)),
        formats.read_tiny_imagenet,
    ),
    "celeba": Entry(
        "faces, 162,770 + 19,867 validation + 19,962 test, 3×218×178",
        dict.fromkeys(("train", "validation", "test"), (sources.CELEBA,)),
        formats.read_celeba,
    ),
}


def load(
    name: str | os.PathLike[str] = "fashion-small",
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Dataset:
    """Load a known data set, or your own pictures.

    `name` is one of `DATASETS`, or the path of a folder or a .zip of pictures (`load_folder`), or
    of an .npz with uint8 `images` (N, H, W) or (N, H, W, C) and, if you like, `labels`.

    `image_size` cuts the central square and resizes it, `channels` turns RGB (3) into grey (1) or
    back; None keeps what the set has. A set that is not in the package is looked for in `root`,
    by default `$TINYGEN_DATA` or the user's cache folder, and downloaded to there if need be.

    Raises `DataError` in one line for an unknown name or split, a missing or a damaged file.

    >>> import tinygen.data
    >>> tinygen.data.load("emoji", split="validation", image_size=32)
    Dataset('emoji', 'validation': 189 images 3×32×32, 9 classes, 0.6 MB)
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"load: image_size={image_size}; expected a positive number of pixels")
    if channels not in (None, 1, 3):
        raise ValueError(f"load: channels={channels}; expected 1 (grey), 3 (RGB) or None")
    if isinstance(name, str) and name in DATASETS:
        entry = DATASETS[name]
        if split not in entry.splits:
            raise DataError(f"{name} has no split {split!r}; it has {', '.join(entry.splits)}")
        folder = data_folder(root)
        paths = [fetch(file, folder, download=download) for file in entry.splits[split]]
        arrays = entry.read(paths, Request(split, image_size, channels))
    elif (path := Path(name).expanduser()).suffix == ".npz" and path.is_file():
        if split != "train":
            raise DataError(f"{path} has no split {split!r}; it has train")
        paths = [path]
        arrays = formats.read_npz(paths, Request(split))
    elif path.exists() or not isinstance(name, str) or os.sep in name or path.suffix == ".zip":
        return load_folder(path, split=split, image_size=image_size, channels=channels)
    else:
        close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(
            f"there is no data set or folder {name!r}; {hint}known sets: {', '.join(DATASETS)}"
        )
    return _dataset(arrays, str(name), split, paths[-1], image_size, channels)


def _dataset(
    arrays: formats.Arrays,
    name: str,
    split: str,
    path: Path,
    image_size: int | None,
    channels: int | None,
) -> Dataset:
    images, labels, classes = arrays
    if labels is not None:
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"{path}: labels of shape {labels.shape} and type {labels.dtype}; "
                f"expected integers ({len(images)},)"
            )
        labels = labels.astype(np.int64)
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            raise DataError(f"{path}: a label is {wrong[0]}, but there are {len(classes)} classes")
    return Dataset(conform(images, image_size, channels), labels, classes, name, split)
