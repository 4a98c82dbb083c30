"""Any folder or zip of pictures as a `Dataset`."""

from __future__ import annotations

import io
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dataset import DataError, Dataset
from .download import cache_folder
from .images import decode

EXTENSIONS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
MEMORY_LIMIT = 4 * 2**30  # bytes; more pixels than this are kept in a file
_BLOCK = 256  # pictures that the threads may be ahead of the array
_SPLIT_OF = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class ImageFiles(NamedTuple):
    """The pictures of a folder or zip: `names` is sorted, with "/" between folders."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]


class _Picture(NamedTuple):
    name: str
    split: str
    label: str  # "" for none


def load_folder(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Read every picture below a folder, or in a zip, into one `Dataset`.

    A picture is cut to its central square and resized to `image_size`; with None all must have one
    size. `channels` is 1 or 3; None takes grey if a sample of the pictures is all grey, else RGB.
    The labels are the first sub-folders, where all pictures lie in at least two of them. If the
    outer folders are all named train, validation (valid, val) or test, they are the splits, and
    the labels lie below; else everything is "train".

    A file that cannot be read is skipped, and a warning names it. The memory is N·C·H·W bytes, as
    the Dataset's repr says; above 4 GiB the pixels go to a temporary file in the cache folder.

    Raises `DataError` where there is no folder, no picture, no such split, or no room.
    """
    with open_files(path) as files:
        pictures = _arrange(files.names)
        chosen = [picture for picture in pictures if picture.split == split]
        if not chosen:
            splits = ", ".join(sorted({picture.split for picture in pictures}))
            raise DataError(f"{files.path} has no split {split!r}; it has {splits}")
        names = [picture.name for picture in chosen]
        images, kept = decode_files(files, names, image_size, channels)

    # Numbered as in the train split, so that a class keeps its number where another is absent.
    own = {picture.label for picture in chosen}
    train = {picture.label for picture in pictures if picture.split == "train"}
    classes = tuple(sorted(train if own <= train else own))
    if len(classes) < 2 or "" in classes:
        return Dataset(images, name=str(path), split=split)
    number = {label: index for index, label in enumerate(classes)}
    labels = np.array([number[chosen[index].label] for index in kept], dtype=np.int64)
    return Dataset(images, labels, classes, name=str(path), split=split)


@contextmanager
def open_files(path: str | os.PathLike[str]) -> Iterator[ImageFiles]:
    """List the pictures of a folder (with its sub-folders) or a zip; a zip stays open inside."""
    path = Path(path).expanduser()
    if path.is_dir():
        names = [
            (Path(folder) / leaf).relative_to(path).as_posix()
            for folder, _, leaves in os.walk(path, onerror=_refuse)
            for leaf in leaves
        ]
        yield _pictures(path, names, lambda name: (path / name).read_bytes())
    elif path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is neither a folder nor a whole zip file ({error})"
            ) from error
        with archive:
            yield _pictures(path, archive.namelist(), archive.read)
    else:
        raise DataError(f"there is no folder or zip file {path}")


def decode_files(
    files: ImageFiles, names: Sequence[str], image_size: int | None, channels: int | None
) -> tuple[np.ndarray, list[int]]:
    """Decode `names` in a thread pool; return uint8 `(N, C, H, W)` and the positions kept."""
    from tqdm import tqdm

    if not names:
        raise DataError(f"{files.path} has no pictures of this split")
    shape = _common_shape(files, names, image_size, channels)
    images = _allocate((len(names), *shape))
    kept: list[int] = []
    broken: list[str] = []

    def attempt(name: str) -> np.ndarray | Exception:
        try:
            return decode(files.read(name), image_size, shape[0])
        except Exception as error:  # decoders raise many types; the caller reports every one
            return error

    progress = tqdm(
        total=len(names), desc=files.path.name, unit=" images", leave=False, disable=None
    )
    with progress, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            for index, result in enumerate(pool.map(attempt, block), start):
                if isinstance(result, Exception):
                    broken.append(f"{names[index]} ({_reason(result)})")
                elif result.shape != shape:
                    raise DataError(
                        f"{files.path}: pictures differ in size, {_size(shape)} and, for one, "
                        f"{names[index]} with {_size(result.shape)}: give image_size, e.g. 64"
                    )
                else:
                    images[len(kept)] = result
                    kept.append(index)
            progress.update(len(block))
    if broken:
        _report(files.path, broken, len(names))
    return images[: len(kept)], kept


def _pictures(path: Path, names: list[str], read: Callable[[str], bytes]) -> ImageFiles:
    """Keep the names that are pictures; hidden files and macOS's resource forks are not."""
    pictures = sorted(
        name
        for name in names
        if name.lower().endswith(EXTENSIONS)
        and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    )
    if not pictures:
        raise DataError(
            f"no pictures in {path}: looked at {len(names):,} files, sub-folders too, for "
            + " ".join(EXTENSIONS)
        )
    return ImageFiles(path, pictures, read)


def _arrange(names: Sequence[str]) -> list[_Picture]:
    """Tell split and label from the folders, below the one that all pictures share."""
    parents = [name.rpartition("/")[0] for name in names]
    shared = os.path.commonpath(parents) if all(parents) else ""
    folders = [[part for part in parent[len(shared) :].split("/") if part] for parent in parents]
    splits = [_SPLIT_OF.get(below[0].lower()) if below else None for below in folders]
    if not all(splits):  # also with a class that happens to be called "train"
        return [
            _Picture(name, "train", below[0] if below else "")
            for name, below in zip(names, folders, strict=True)
        ]
    return [
        _Picture(name, split, below[1] if len(below) > 1 else "")
        for name, split, below in zip(names, splits, folders, strict=True)
    ]


def _common_shape(
    files: ImageFiles, names: Sequence[str], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """(C, H, W) of the array, from the wishes and, where there is none, from a sample of files."""
    from PIL import Image

    modes, shape, error = [], None, None
    for name in names[:: max(1, len(names) // 64)]:
        try:
            data = files.read(name)
            with Image.open(io.BytesIO(data)) as image:
                modes.append(image.mode)
            shape = shape or decode(data, image_size, 3).shape
        except Exception as failure:  # decode_files reports it by name, unless all have failed
            error = failure
    if shape is None:
        raise DataError(f"{files.path}: no picture can be read; {names[0]}: {_reason(error)}")
    grey = all(mode in _GREY_MODES for mode in modes)
    return (channels or (1 if grey else 3), *shape[1:])


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    if size <= MEMORY_LIMIT:
        return np.empty(shape, dtype=np.uint8)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{shape[0]:,} pictures of {_size(shape[1:])} need {size / 1e9:,.1f} GB, and {folder} "
            f"has {free / 1e9:,.1f} GB free: give a smaller image_size or set XDG_CACHE_HOME"
        )
    # The file has no name: the system frees it with the array, also after a crash.
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


def _report(path: Path, broken: list[str], total: int) -> None:
    """Warn once of the broken files."""
    shown = "; ".join(broken[:20])
    more = f"; and {len(broken) - 20:,} more" if len(broken) > 20 else ""
    warnings.warn(
        f"{path}: skipped {len(broken):,} of {total:,} files that cannot be read: {shown}{more}",
        stacklevel=5,
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def _size(shape: Sequence[int]) -> str:
    return f"{shape[2]}×{shape[1]}"


def _reason(error: Exception | None) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a picture"  # Pillow's text shows the address of a buffer
    return " ".join(str(error).split()) or type(error).__name__
