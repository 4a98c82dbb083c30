"""The file formats of the known data sets, each read to uint8 `(N, C, H, W)` and labels.

Nothing is unpickled. A damaged file raises `DataError` with its name.
"""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dataset import DataError
from .image_folder import decode_files, open_files


class Request(NamedTuple):
    """What the user asked for; only the readers of compressed pictures need the last two."""

    split: str
    image_size: int | None = None
    channels: int | None = None


class Arrays(NamedTuple):
    """uint8 `(N, C, H, W)`, integers `(N,)` or None, and the names of the labels."""

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()


_DEPTHS = ((), (1,), (3,))  # of grey without an axis for it, grey and RGB

Reader = Callable[[Sequence[Path], Request], Arrays]


def read_idx(paths: Sequence[Path], request: Request, *, classes: tuple[str, ...]) -> Arrays:
    """MNIST and its kin: a gzipped IDX file of images and one of labels."""
    images, labels = (_idx(path) for path in paths)
    if images.ndim != 3:
        raise _damaged(paths[0], f"images of shape {images.shape}")
    return Arrays(images[:, None], labels, classes)


def _idx(path: Path) -> np.ndarray:
    """Parse an IDX file of bytes: 0, 0, 8 (unsigned byte), number of axes, big-endian sizes."""
    with _reading(path, zlib.error), gzip.open(path) as file:
        data = file.read()
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    header = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:header]) if axes and len(data) >= header else ()
    if not shape or math.prod(shape) != len(data) - header:
        raise _damaged(path, f"its {len(data):,} bytes are no IDX file of shape {shape}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()


def read_cifar10(paths: Sequence[Path], request: Request) -> Arrays:
    """CIFAR-10's binary archive: records of a label byte and 3×32×32 bytes."""
    numbers = range(1, 6) if request.split == "train" else ()
    members = [f"data_batch_{number}.bin" for number in numbers] or ["test_batch.bin"]
    folder = "cifar-10-batches-bin"
    with _reading(paths[0], tarfile.TarError, zlib.error, KeyError), tarfile.open(paths[0]) as tar:
        batches = [tar.extractfile(f"{folder}/{member}").read() for member in members]
        names = tar.extractfile(f"{folder}/batches.meta.txt").read().decode().split()
    data = b"".join(batches)
    if len(data) != len(members) * 10_000 * 3073:
        raise _damaged(paths[0], f"{len(data):,} bytes of records")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3073)
    return Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], tuple(names))


def read_svhn(paths: Sequence[Path], request: Request) -> Arrays:
    """SVHN's cropped digits: a MATLAB file with X (32, 32, 3, N) and y in 1..10, 10 for zero."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with _reading(
        paths[0], MatReadError, NotImplementedError, ValueError, TypeError, KeyError, zlib.error
    ):
        content = loadmat(paths[0])
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        labels = content["y"].reshape(-1) % 10
    return Arrays(images, labels, tuple("0123456789"))


def read_npz(paths: Sequence[Path], request: Request) -> Arrays:
    """An .npz with uint8 `images` (N, H, W) or (N, H, W, C), maybe `labels` (N,) and `classes`."""
    with (
        _reading(paths[0], ValueError, KeyError, zipfile.BadZipFile, zlib.error),
        np.load(paths[0], allow_pickle=False) as content,
    ):
        images = content["images"]
        labels = content.get("labels")
        classes = tuple(content["classes"].tolist()) if "classes" in content else ()
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in _DEPTHS:
        raise _damaged(paths[0], f"images of shape {images.shape} and type {images.dtype}")
    channels_last = images.reshape(*images.shape[:3], -1)
    if labels is not None and not classes:
        classes = tuple(map(str, range(int(labels.max(initial=0)) + 1)))
    return Arrays(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)), labels, classes)


def read_omniglot(paths: Sequence[Path], request: Request) -> Arrays:
    """Omniglot's drawings, inverted: ink is 255 on 0, as in MNIST. A class is one character."""
    with open_files(paths[0]) as files:
        images, kept = decode_files(files, files.names, request.image_size, request.channels or 1)
        characters = [files.names[index].split("/")[-3:-1] for index in kept]
    np.subtract(255, images, out=images)
    return Arrays(images, *_numbered([f"{alphabet}/{name}" for alphabet, name in characters]))


def read_tiny_imagenet(paths: Sequence[Path], request: Request) -> Arrays:
    """Tiny ImageNet: `train/WNID/images/*` and `val/images/*` with a table of their WNIDs."""
    part = {"train": "train", "validation": "val"}[request.split]
    with open_files(paths[0]) as files:
        names = [name for name in files.names if f"/{part}/" in f"/{name}"]
        if not names:
            raise DataError(f"{paths[0]} has no pictures of this split")
        root = names[0][: f"/{names[0]}".index(f"/{part}/")]  # "" in a folder
        with _reading(paths[0], KeyError):
            classes = sorted(files.read(f"{root}wnids.txt").decode().split())
            table = files.read(f"{root}val/val_annotations.txt").decode().splitlines()
        of_picture = dict(line.split("\t")[:2] for line in table)
        images, kept = decode_files(files, names, request.image_size, request.channels or 3)
    labels = []
    for index in kept:
        wnid, _, name = names[index].split("/")[-3:]
        labels.append(classes.index(of_picture[name] if part == "val" else wnid))
    return Arrays(images, np.array(labels), tuple(classes))


def read_celeba(paths: Sequence[Path], request: Request) -> Arrays:
    """CelebA's aligned faces, 178×218; the official partition is by the number of the picture."""
    first, last = {
        "train": (1, 162_770),
        "validation": (162_771, 182_637),
        "test": (182_638, 202_599),
    }[request.split]
    with open_files(paths[0]) as files:
        numbers = [int(stem) if (stem := Path(name).stem).isdigit() else 0 for name in files.names]
        names = [
            name
            for name, number in zip(files.names, numbers, strict=True)
            if first <= number <= last
        ]
        images, _ = decode_files(files, names, request.image_size, request.channels or 3)
    return Arrays(images)


def hold_out_tenth(read: Reader) -> Reader:
    """Split a set that comes in one piece: every tenth image is "validation", the rest "train"."""

    def read_part(paths: Sequence[Path], request: Request) -> Arrays:
        images, labels, classes = read(paths, request)
        held_out = np.arange(len(images)) % 10 == 9
        chosen = held_out if request.split == "validation" else ~held_out
        return Arrays(images[chosen], None if labels is None else labels[chosen], classes)

    return read_part


def _numbered(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    classes, labels = np.unique(names, return_inverse=True)
    return labels, tuple(classes.tolist())


@contextmanager
def _reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a library raises for a bad file into one `DataError` that names it."""
    try:
        yield
    except (OSError, EOFError, *errors) as error:
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is damaged or not what its name says ({what}): replace it, or delete it and "
        "load the set again"
    )
