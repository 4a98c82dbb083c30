"""Fetch a file from its official place: resumed, verified, and put in place in one step."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .dataset import DataError

EMBEDDED = Path(__file__).parent / "embedded"
_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set: where it lies below the data folder, and where it comes from.

    `checksum` is "sha256:" or "md5:" and the hexadecimal digest; mirrors are tried in order.
    """

    path: str
    size: int
    checksum: str
    urls: tuple[str, ...] = ()


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/tinygen`, by default `~/.cache/tinygen`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygen"


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets are looked for and put: `root`, else `$TINYGEN_DATA`, else the cache."""
    root = root or os.environ.get("TINYGEN_DATA")
    return Path(root).expanduser() if root else cache_folder()


def fetch(file: RemoteFile, root: Path, *, download: bool = True) -> Path:
    """Return the local path of a file, after downloading it if it is not there.

    It is looked for below `root`, then in the package. A zip may also lie there unpacked, in a
    folder of its name. What is there is taken as it is; what is downloaded is checked.

    A download goes to `NAME.part`, which a later call continues, and becomes `NAME` when its
    checksum is right. Raises `DataError` in one line that names what failed and what to do.
    """
    target = root / file.path
    for place in (target, EMBEDDED / file.path):
        if place.is_file():
            return place
    if target.suffix == ".zip" and target.with_suffix("").is_dir():
        return target.with_suffix("")

    from http.client import HTTPException

    by_hand = f"put the file there by hand: {target}"
    if not file.urls or not download:
        raise DataError(f"{target.name} is not at hand and not to be downloaded; {by_hand}")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.open("ab").close()
    except OSError as error:
        raise DataError(
            f"cannot write to {target.parent} ({error.strerror}): set TINYGEN_DATA to a folder "
            "for data sets that you can write to"
        ) from error

    failures = []
    for url in file.urls:
        try:
            _download(url, part, file)
            _verify(part, file)
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {_reason(error)}")
        else:
            os.replace(part, target)
            return target
    if part.exists() and part.stat().st_size == 0:
        part.unlink()
    raise DataError(
        f"cannot download {target.name} ({file.size / 1e6:,.1f} MB): {'; '.join(failures)}; "
        f"try again later, or {by_hand}"
    )


def _download(url: str, part: Path, file: RemoteFile) -> None:
    """Append what is missing to `part`, again as long as a broken connection brings something."""
    from http.client import HTTPException

    while (have := part.stat().st_size) < file.size:
        try:
            _append(url, part, file)
        except (OSError, HTTPException):
            if part.stat().st_size <= have:
                raise


def _append(url: str, part: Path, file: RemoteFile) -> None:
    """Make one request for the rest of the file."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from tqdm import tqdm

    have = part.stat().st_size
    headers = {"User-Agent": "tinygen", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the file there is shorter than our part: not the same file
            os.truncate(part, 0)
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError("the server sent a web page instead of the file")
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError("the server sent another part of the file than asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        if length is not None and start + int(length) != file.size:
            raise OSError(f"the file has {start + int(length):,} bytes, expected {file.size:,}")
        progress = tqdm(
            total=file.size, initial=start, desc=Path(file.path).name, unit="B", unit_scale=True,
            leave=False, disable=None,
        )  # fmt: skip
        # A server without ranges starts again from the first byte, and so does the file.
        with part.open("ab" if resumed else "wb") as out, progress:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                progress.update(len(chunk))
    if part.stat().st_size < file.size:
        raise OSError(f"the connection broke at {part.stat().st_size:,} of {file.size:,} bytes")


def _verify(part: Path, file: RemoteFile) -> None:
    """Remove a file with a wrong checksum and say so."""
    algorithm, expected = file.checksum.split(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with part.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        os.truncate(part, 0)
        raise OSError(f"wrong {algorithm}, expected {expected}, got {digest.hexdigest()}; removed")


def _reason(error: Exception) -> str:
    """One line about a failure, without the wrapping that urllib puts around it."""
    code = getattr(error, "code", None)
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split()) or type(error).__name__
    return f"HTTP {code} {text}" if code else text
