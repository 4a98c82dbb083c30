"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError

__all__ = ["output_errors", "replacing", "write_json"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the same folder, moved onto `path` if the block ends without an error.

    Raises OutputError, in words, where the file can't be written; an older one then stays.
    """
    path = Path(path)
    temporary = None
    with output_errors(path):
        try:
            # The suffix stays last: Pillow and matplotlib choose the format by it.
            handle, name = tempfile.mkstemp(".tmp" + path.suffix, f".{path.stem}.", path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            temporary = None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """A readable JSON file with its keys in the given order."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside into an OutputError: which file can't be written, and why."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; name a folder you can write to with --out"
        ) from error


def _flush(path: Path) -> None:
    """Bytes reach the disk before the name does: a power cut leaves the old file or the new."""
    mode = 0o666 & ~_umask()  # mkstemp's files are private; ours are like any other file
    path.chmod(mode)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
