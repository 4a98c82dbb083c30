"""Where arrays live, and the one table that finds the kernels for them.

A device is written `"cpu"`, `"cuda"` or `"cuda:1"`. Arrays are NumPy's on the CPU and CuPy's on a
GPU; CuPy is imported when a GPU is first asked for, never before.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "DeviceError",
    "array_module",
    "device_of",
    "explain",
    "kernels",
    "kernels_on",
    "move",
    "set_precision",
    "synchronize",
    "use",
    "use_kernels",
]


class DeviceError(RuntimeError):
    """A device that was asked for can't be used; the message names the cure."""


PRECISIONS = ("fp32", "tf32", "bf16")
_MISSING_LIBRARY = re.compile(
    "CuPy failed to load|Failure finding .*lib(nvrtc|cu)|Failed to find CUDA headers"
)
several_in_use = False  # becomes True with the first array on a GPU
_modules: dict[type, tuple[ModuleType, str]] = {np.ndarray: (np, "cpu")}
_table: dict[tuple[str, type], ModuleType] = {}  # (kernel family, array type) -> module
_counted: dict[ModuleType, int] = {}  # CuPy -> how many GPUs it sees
_HOST = np.empty(0)  # draws the CPU's kernels from the table of back ends


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

    The GPU becomes the current one of this thread: operations run where their arrays lie.
    Raises ValueError for a name that is no device, DeviceError where there is no such GPU.
    """
    name, index = parse(device)
    if device_of(array) == (name if index is None else f"{name}:{index}"):
        return array
    if name == "cpu":
        return _in_order(array, lambda x: x.get())
    return _in_order(array, use(device).asarray)


def _in_order(array: Any, copy: Callable[[Any], Any]) -> Any:
    """A copy in the memory order of the array, where `copy` alone makes it C-contiguous."""
    order = sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True)
    inverse = sorted(range(array.ndim), key=order.__getitem__)
    return copy(array.transpose(order)).transpose(inverse)


def use(device: str) -> ModuleType:
    """NumPy or CuPy for new arrays on that device; a GPU becomes the current one."""
    name, index = parse(device)
    if name == "cpu":
        return np
    cupy = _cupy(device)
    cupy.cuda.Device(index).use()
    return cupy


def kernels_on(family: str, device: str) -> ModuleType:
    """The module with the kernels of one family for a device, where no array tells it."""
    return kernels(family, _HOST) if parse(device)[0] == "cpu" else _cuda_kernels(family, device)


def set_precision(precision: str) -> None:
    """How GPUs multiply in convolutions and matrix products of float32 arrays: see
    `tinygen_kernels.cuda.precision`, which lists what runs in which.

    "fp32"; "tf32" (the default: inputs rounded to 10 bits of mantissa, as PyTorch does in
    convolutions); "bf16" (to 7 bits). Sums are float32 in all of them.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"set_precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    importlib.import_module("tinygen_kernels.cuda.precision").set(precision)


def synchronize(device: str = "cuda") -> None:
    """Wait until the device has done all that it was given; nothing to wait for on the CPU."""
    module = use(device)
    if module is not np:
        module.cuda.runtime.deviceSynchronize()


def check(device: str) -> None:
    """Raise, with the cure in the message, if the device can't be used."""
    name, _ = parse(device)
    if name == "cuda":
        _cupy(device)


def parse(device: str) -> tuple[str, int | None]:
    """`"cuda:1"` -> ("cuda", 1); the CPU has no index."""
    if device == "cpu":
        return "cpu", None
    name, _, index = str(device).partition(":")
    if device == "cuda" or (name == "cuda" and index.isdecimal()):
        return "cuda", int(index or 0)
    raise ValueError(f"device: {device!r} is no device; use 'cpu', 'cuda' or 'cuda:<index>'")


def check_same_device(op: str, arrays) -> None:
    """Raise ValueError if the arrays lie on different devices."""
    devices = {device_of(a) for a in arrays if type(a) in _modules}
    if len(devices) > 1:
        raise ValueError(
            f"{op}: arrays on {' and '.join(sorted(devices))}; move them to one with x.to(device)"
        )


def _cuda_kernels(family: str, device: str) -> ModuleType:
    use(device)
    return importlib.import_module(f"tinygen_kernels.cuda.{family}")


def _cupy(device: str) -> ModuleType:
    """CuPy, with the device checked, and CuPy's arrays entered in the table."""
    global several_in_use
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(_why_no_cupy(device, error)) from error
    if (cupy, "cuda") != _modules.get(cupy.ndarray):
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(_why_no_gpu(device, str(error), cupy.__version__)) from error
        _counted[cupy] = count
        _modules[cupy.ndarray] = (cupy, "cuda")
        several_in_use = True
    index = parse(device)[1] or 0
    if index >= _counted[cupy]:
        raise DeviceError(
            f"device {device!r}: this machine has {_counted[cupy]} GPU(s), "
            f"'cuda:0' to 'cuda:{_counted[cupy] - 1}'"
            if _counted[cupy]
            else f"device {device!r}: this machine has no GPU; use --device cpu"
        )
    return cupy


def _why_no_cupy(device: str, error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return (
            f"device {device!r} needs CuPy: pip install 'tinygen[cuda12]' (or 'tinygen[cuda13]', "
            "as the CUDA version that `nvidia-smi` shows), or use --device cpu"
        )
    first = str(error).strip().splitlines()[0]
    return (
        f"device {device!r}: CuPy does not load ({first}): install the one for your CUDA version, "
        "cupy-cuda12x or cupy-cuda13x, and only that one, or use --device cpu"
    )


def _why_no_gpu(device: str, error: str, version: str) -> str:
    if "InsufficientDriver" in error:
        return (
            f"device {device!r}: there is no NVIDIA driver, or one too old for CuPy {version}: "
            "compare the CUDA version that `nvidia-smi` shows with the 12 or 13 in the name of "
            "the CuPy package that `pip list` shows, or use --device cpu"
        )
    return (
        f"device {device!r}: CuPy finds no usable GPU ({error}); check `nvidia-smi` and "
        "CUDA_VISIBLE_DEVICES, or use --device cpu"
    )


def explain(error: BaseException) -> str | None:
    """One line, with the cure, for what a GPU library raised; None for anything else."""
    name = type(error).__name__
    module = type(error).__module__
    if name == "OutOfMemoryError" and isinstance(error, MemoryError):
        free, total = _memory()
        return (
            f"{first_line(error)} {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB of the GPU are "
            "free: lower --batch-size (or --width, --image-size), or end other programs on it"
        )
    if name == "CompileError" and module.startswith("tinygen_kernels"):
        return f"a CUDA kernel does not compile: {first_line(error)}"
    if name in ("CUDARuntimeError", "CUDADriverError", "CUBLASError", "NVRTCError"):
        return f"CUDA: {first_line(error)}; check `nvidia-smi`, or use --device cpu"
    if isinstance(error, RuntimeError | ImportError) and _MISSING_LIBRARY.search(str(error)):
        return (
            f"{first_line(error)}: the CUDA libraries that CuPy needs are missing; "
            "pip install 'cupy-cuda13x[ctk]' (or cupy-cuda12x), or use --device cpu"
        )
    return None


def _memory() -> tuple[int, int]:
    import cupy

    pool = cupy.get_default_memory_pool()
    free, total = cupy.cuda.runtime.memGetInfo()
    return free + pool.free_bytes(), total


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a log."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
