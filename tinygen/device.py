"""Where arrays live, and the one table that finds the kernels for them.

A device is written `"cpu"`, `"cuda"` or `"cuda:1"`. Arrays are NumPy's on the CPU and CuPy's on a
GPU; CuPy is imported when a GPU is first asked for, never before.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["DeviceError", "array_module", "device_of", "kernels", "move", "use_kernels"]


class DeviceError(RuntimeError):
    """A device that was asked for can't be used; the message names the cure."""


several_in_use = False  # becomes True with the first array on a GPU
_modules: dict[type, tuple[ModuleType, str]] = {np.ndarray: (np, "cpu")}
_table: dict[tuple[str, type], ModuleType] = {}  # (kernel family, array type) -> module


def kernels(family: str, array: Any) -> ModuleType:
    """The module with the kernels of one family for this array: `kernels("conv", x).conv2d(x)`."""
    key = family, type(array)
    module = _table.get(key)
    if module is None:
        backend = _modules.get(type(array), (np, "cpu"))[1]
        module = _table[key] = importlib.import_module(f"tinygen_kernels.{backend}.{family}")
    return module


@contextlib.contextmanager
def use_kernels(backend: str) -> Iterator[None]:
    """Run NumPy arrays through the `"reference"` or the `"cpu"` kernels, to compare or to read."""
    before = _modules[np.ndarray]
    _modules[np.ndarray] = (np, backend)
    _table.clear()
    try:
        yield
    finally:
        _modules[np.ndarray] = before
        _table.clear()


def array_module(array: Any) -> ModuleType:
    """NumPy or CuPy, whichever the array belongs to."""
    return _modules.get(type(array), _modules[np.ndarray])[0]


def device_of(array: Any) -> str:
    """`"cpu"` or `"cuda:<index>"`."""
    if _modules.get(type(array), (None, "cpu"))[1] != "cuda":
        return "cpu"
    return f"cuda:{array.device.id}"


def move(array: Any, device: str) -> Any:
    """The array on that device; itself if it is there already.

    Raises ValueError for a name that is no device, DeviceError where there is no such GPU.
    """
    name, index = parse(device)
    if device_of(array) == (name if index is None else f"{name}:{index}"):
        return array
    if name == "cpu":
        return array.get()
    cupy = _cupy(device)
    with cupy.cuda.Device(index):
        return cupy.asarray(array)


def check(device: str) -> None:
    """Raise, with the cure in the message, if the device can't be used."""
    name, _ = parse(device)
    if name == "cuda":
        _cupy(device)


def parse(device: str) -> tuple[str, int | None]:
    """`"cuda:1"` -> ("cuda", 1); the CPU has no index."""
    name, _, index = str(device).partition(":")
    if name == "cpu" and not index:
        return "cpu", None
    if name == "cuda" and (not index or index.isdecimal()):
        return "cuda", int(index or 0)
    raise ValueError(f"device: {device!r} is no device; use 'cpu', 'cuda' or 'cuda:<index>'")


def check_same_device(op: str, arrays) -> None:
    """Raise ValueError if the arrays lie on different devices."""
    devices = {device_of(a) for a in arrays if type(a) in _modules}
    if len(devices) > 1:
        raise ValueError(
            f"{op}: arrays on {' and '.join(sorted(devices))}; move them to one with x.to(device)"
        )


def _cupy(device: str) -> ModuleType:
    """CuPy, with the device checked, and CuPy's arrays entered in the table."""
    global several_in_use
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device {device!r} needs CuPy: pip install 'tinygen[cuda12]' (or 'tinygen[cuda13]', "
            "as your driver's CUDA version), or use --device cpu"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device {device!r}: CuPy finds no usable GPU ({error}); check `nvidia-smi`, "
            "or use --device cpu"
        ) from error
    index = parse(device)[1] or 0
    if index >= count:
        raise DeviceError(f"device {device!r}: this machine has {count} GPU(s); use 'cuda:0'")
    try:
        importlib.import_module("tinygen_kernels.cuda.conv")
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"device {device!r}: this version has no CUDA kernels yet; use --device cpu"
        ) from error
    _modules[cupy.ndarray] = (cupy, "cuda")
    several_in_use = True
    return cupy
