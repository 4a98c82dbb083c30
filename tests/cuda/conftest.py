"""One test body, two devices: `[emulated]` on the CPU, `[cuda]` on a GPU.

A process has one of the two, since there is only one `cupy` to import: the GPU where there is a
usable one (unless TINYGEN_TEST_GPU=emulated), the emulator elsewhere. The other half is skipped by
name.
"""

from __future__ import annotations

import importlib

import pytest
from gpu import missing, mode


@pytest.fixture(scope="module", params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def cupy(request):
    """The array module of the GPU in use."""
    if missing():
        pytest.skip(missing())
    if request.param != mode():
        pytest.skip("no usable GPU" if mode() == "emulated" else "the real GPU is tested here")
    return importlib.import_module("cupy")


@pytest.fixture(scope="module")
def cuda_kernels(cupy):
    """`cuda_kernels("conv")` is the module with the CUDA kernels of a family."""
    return lambda family: importlib.import_module(f"tinygen_kernels.cuda.{family}")
