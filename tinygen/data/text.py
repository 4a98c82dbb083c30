"""Text to read character by character: the standard library's own source, or any text file."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dataset import DataError

__all__ = ["Text", "load_text"]

HELD_OUT = 10  # one in so many files, or that part at the end of a single one


@dataclass(frozen=True)
class Text:
    """What to train on, and what to test on; `source` says where both come from (JSON values)."""

    train: str
    held_out: str
    source: dict[str, Any]

    def __repr__(self) -> str:
        sizes = f"{len(self.train):,} + {len(self.held_out):,} held out"
        return f"Text({self.source['from']}: {sizes} characters)"


def load_text(name: str | os.PathLike[str] = "python") -> Text:
    """Read the source of Python's standard library as installed ("python"), or a text file.

    Of the library, the files directly in its folder by name, one after the other; every tenth
    whole file is held out. Of a file, in UTF-8, the last tenth. `Text.source` names the files and
    has checksums: another version of Python is another text.

    Raises `DataError` in one line for what can't be read.

    >>> from tinygen.data import load_text
    >>> load_text().source["files"][0]
    '__future__.py'
    """
    if name == "python":
        return _standard_library(Path(sysconfig.get_path("stdlib")))
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"there is no text file {str(name)!r}; give its path, or 'python'")
    text = _read(path)
    cut = len(text) - len(text) // HELD_OUT
    return _text(text[:cut], text[cut:], {"from": path.name})


def _standard_library(folder: Path) -> Text:
    # The folder may hold strangers (sitecustomize.py, build settings full of paths).
    paths = [p for p in folder.glob("*.py") if p.stem in sys.stdlib_module_names]
    paths.sort(key=lambda path: path.name)
    if len(paths) < HELD_OUT:
        raise DataError(f"{folder} holds no source of the standard library; name a text file")
    held_out = paths[HELD_OUT - 1 :: HELD_OUT]
    train = [path for path in paths if path not in held_out]
    source = {
        "from": f"Python {platform.python_version()}",
        "files": [path.name for path in train],
        "held_out_files": [path.name for path in held_out],
    }
    return _text("".join(map(_read, train)), "".join(map(_read, held_out)), source)


def _text(train: str, held_out: str, source: dict[str, Any]) -> Text:
    sums = [zlib.crc32(part.encode()) for part in (train, held_out)]
    return Text(train, held_out, {**source, "crc32": sums})


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8 ({error.reason}, byte {error.start})"
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
