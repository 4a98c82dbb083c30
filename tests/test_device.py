"""Devices: their names, what is said where there is none, and what GPU libraries' errors mean."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from tinygen import DeviceError, device


@pytest.fixture
def table(monkeypatch):
    """The table of back ends as in a process that has not asked for a GPU yet."""
    monkeypatch.setattr(device, "_modules", {np.ndarray: (np, "cpu")})
    monkeypatch.setattr(device, "_table", {})
    monkeypatch.setattr(device, "_counted", {})
    monkeypatch.setattr(device, "several_in_use", False)


class RuntimeFailure(RuntimeError):
    pass


def library(monkeypatch, *, count: int = 1, error: str | None = None) -> types.ModuleType:
    """A `cupy` that sees `count` GPUs, or fails to count them."""

    def get_device_count() -> int:
        if error is not None:
            raise RuntimeFailure(error)
        return count

    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            getDeviceCount=get_device_count, CUDARuntimeError=RuntimeFailure
        )
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA"])
def test_names_that_are_no_device(name):
    with pytest.raises(ValueError, match="is no device; use 'cpu', 'cuda' or 'cuda:<index>'"):
        device.check(name)


def test_names():
    assert device.parse("cpu") == ("cpu", None)
    assert device.parse("cuda") == ("cuda", 0)
    assert device.parse("cuda:12") == ("cuda", 12)
    device.check("cpu")
    assert device.use("cpu") is np


def test_no_cupy(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"needs CuPy: pip install 'tinygen\[cuda12\]'"):
        device.check("cuda")


def test_a_cupy_that_does_not_load(table, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libcudart.so.12: cannot open shared object file\nmore lines")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(
        DeviceError, match=r"CuPy does not load .libcudart.so.12.*cupy-cuda12x"
    ) as e:
        device.check("cuda")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "cudaErrorInsufficientDriver: CUDA driver version is",
            "no NVIDIA driver, or one too old",
        ),
        ("cudaErrorNoDevice: no CUDA-capable device", "no usable GPU .*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_no_driver(table, monkeypatch, error, message):
    library(monkeypatch, error=error)
    with pytest.raises(DeviceError, match=message):
        device.check("cuda")
    assert not device.several_in_use


def test_a_gpu_that_is_not_there(table, monkeypatch):
    library(monkeypatch, count=2)
    device.check("cuda:1")
    with pytest.raises(DeviceError, match=r"has 2 GPU\(s\), 'cuda:0' to 'cuda:1'"):
        device.check("cuda:2")
    device._counted.clear()
    device._modules.clear()
    library(monkeypatch, count=0)
    with pytest.raises(DeviceError, match="this machine has no GPU; use --device cpu"):
        device.check("cuda")


def test_precisions():
    with pytest.raises(ValueError, match="'fp16' is not one of fp32, tf32, bf16"):
        device.set_precision("fp16")


# ------------------------------------------------------------------------ errors, in one line


def raised(module: str, name: str, text: str, base: type = RuntimeError) -> Exception:
    return type(name, (base,), {"__module__": module})(text)


def test_out_of_memory(monkeypatch):
    monkeypatch.setattr(device, "_memory", lambda: (512 * 2**20, 80 * 2**30))
    text = "Out of memory allocating 1,073,741,824 bytes (allocated so far: 5 bytes)."
    error = raised("cupy.cuda.memory", "OutOfMemoryError", text, MemoryError)
    line = device.explain(error)
    assert "1,073,741,824 bytes" in line
    assert "512 of 81,920 MiB of the GPU are free: lower --batch-size" in line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            raised("tinygen_kernels.cuda.launch", "CompileError", "a/conv.cu(31): error: x\nmore"),
            "a CUDA kernel does not compile: a/conv.cu(31): error: x",
        ),
        (
            raised("cupy_backends.cuda.api.runtime", "CUDARuntimeError", "cudaErrorX: why"),
            "CUDA: cudaErrorX: why; check `nvidia-smi`, or use --device cpu",
        ),
        (
            RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: no such file"),
            "the CUDA libraries that CuPy needs are missing; pip install 'cupy-cuda13x[ctk]'",
        ),
        (
            ImportError('Failure finding "libcublasLt.so.13": No such file\n  listdir'),
            "the CUDA libraries that CuPy needs are missing",
        ),
        (
            RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers"),
            "the CUDA libraries that CuPy needs are missing",
        ),
        (
            raised("cupy_backends.cuda.libs.cublas", "CUBLASError", "CUBLAS_STATUS_ALLOC_FAILED"),
            "CUDA: CUBLAS_STATUS_ALLOC_FAILED; check `nvidia-smi`",
        ),
    ],
)
def test_other_errors_of_the_libraries(error, message):
    line = device.explain(error)
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), ImportError("no such module")])
def test_other_errors_are_not_explained_away(error):
    assert device.explain(error) is None
