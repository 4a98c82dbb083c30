"""One safetensors file with everything that training goes on from.

Tensors are named by where they come from ("generator.net.1.weight",
"optimizer_d.state.exp_avg.0"), so that any safetensors reader finds the weights. The rest stands
as JSON in the file's metadata: step, random state, the optimizers' numbers, and which model this
is. Nothing in it changes from run to run (no times, versions or paths): equal runs, interrupted or
not, end with equal bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .. import random
from ..tensor import Tensor
from .errors import CheckpointError
from .files import replacing

__all__ = ["Header", "load", "read_header", "save"]

# A single entry: safetensors writes several in an order that changes from run to run.
KEY = "tinygen"


class Stateful(Protocol):
    """A Module, an optimizer, a schedule, an average of weights."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Header(NamedTuple):
    """What a checkpoint says about itself: `config` are the arguments that rebuild the model."""

    model: str
    config: dict[str, Any]
    step: int


def save(
    path: str | os.PathLike,
    *,
    model: str,
    config: Mapping[str, Any],
    step: int,
    parts: Mapping[str, Stateful],
) -> None:
    """Write the parts' state, the default generator's, and what the file is, in one atomic step.

    `config` holds what the shapes depend on (JSON values); `load` compares it. `step` is the
    number of finished steps.
    """
    tensors: dict[str, np.ndarray] = {}
    state = {name: _take_out(part.state_dict(), name, tensors) for name, part in parts.items()}
    header = {
        "model": model,
        "config": dict(config),
        "step": step,
        "random": random.get_state(),
        "state": state,
        "crc32": _crc32(tensors),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    with replacing(path) as temporary:
        save_file(tensors, temporary, {KEY: text})


def load(
    path: str | os.PathLike,
    *,
    model: str,
    config: Mapping[str, Any],
    parts: Mapping[str, Stateful],
) -> int:
    """Put the saved state into the parts and the default generator; returns the step.

    Parts of the file that are not asked for are left alone. Raises CheckpointError, in one line,
    if the file is missing, damaged, not ours, of another model, or of one built otherwise.
    """
    path = Path(path)
    header, tensors = _read(path)
    if header["crc32"] != _crc32(tensors):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong; use an older copy")
    _check_same(path, header, model, json.loads(json.dumps(dict(config))))
    for name, part in parts.items():
        if name not in header["state"]:
            raise CheckpointError(
                f"{path} holds {', '.join(sorted(header['state']))}, but no {name}"
            )
        try:
            part.load_state_dict(_put_back(header["state"][name], tensors))
        except ValueError as error:
            raise CheckpointError(f"{path} does not fit: {name}: {error}") from error
    random.set_state(header["random"])
    return header["step"]


def read_header(path: str | os.PathLike) -> Header:
    """Which model a checkpoint holds, how it was built, and after how many steps."""
    header, _ = _read(Path(path), with_tensors=False)
    return Header(header["model"], header["config"], header["step"])


def _read(path: Path, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({error}); use an older copy, or start again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from error
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of tinygen")
    try:
        return json.loads(text), tensors
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its metadata is no JSON ({error})") from error


def _check_same(path: Path, header: dict, model: str, config: dict[str, Any]) -> None:
    if header["model"] != model:
        raise CheckpointError(f"{path} is a checkpoint of {header['model']}, not of {model}")
    saved = header["config"]
    differing = [k for k in sorted(saved.keys() | config.keys()) if saved.get(k) != config.get(k)]
    if differing:
        was = ", ".join(f"{key}={saved.get(key)}" for key in differing)
        now = ", ".join(f"{key}={config.get(key)}" for key in differing)
        raise CheckpointError(
            f"{path} is of a {model} with {was}, not with {now}: build the same one, "
            "or start a new run"
        )


def _take_out(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """Move the tensors of a nested state into `tensors`; what is left, {"tensor": name} in their
    places, is JSON."""
    if isinstance(value, Mapping):
        return {key: _take_out(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, Tensor):
        tensors[name] = np.asarray(value.cpu().detach().data, order="C")
        return {"tensor": name}
    return value


def _put_back(value: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `_take_out`."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return tensors[value["tensor"]]
    return {key: _put_back(item, tensors) for key, item in value.items()}


def _crc32(tensors: Mapping[str, np.ndarray]) -> int:
    """safetensors itself checks sizes only."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].data if tensors[name].size else b"", crc)
    return crc
