"""The stand-in for CuPy: as strict as CuPy, stricter where CuPy trusts its caller."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from gpu import missing, mode, to_cpu, to_gpu
from helpers import LAYOUTS, in_layout

if mode() != "emulated" or missing():
    pytest.skip(missing() or "a real GPU is used in this process", allow_module_level=True)

import cupy

from cuda_emulator.stand_in import functions
from cuda_emulator.stand_in.stream import CUDARuntimeError

SOURCE = """
extern "C" __global__ void scale(float* y, const float* x, float factor, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}

struct Pair {
    int a, b;
};

extern "C" __global__ void difference(int* y, Pair pair) {
    *y = pair.b - pair.a;
}
"""


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_it_has_nothing_that_cupy_has_not():
    """Asked of the real CuPy, in a process of its own; it can be imported without a GPU."""
    names = [*functions.NAMESPACE, "RawModule", "ndarray", "get_default_memory_pool"]
    # cuBLAS is looked for on the disk at the first use of its name.
    names += [f"cuda.{name}" for name in cupy.cuda.__all__ if name != "cublas"]
    names += [f"cuda.Stream.{name}" for name in vars(cupy.cuda.Stream) if name[0] != "_"]
    names += [f"cuda.Event.{name}" for name in vars(cupy.cuda.Event) if name[0] != "_"]
    names += [f"ndarray.{name}" for name in vars(cupy.ndarray) if name[0] != "_"]
    names += [f"cuda.runtime.{name}" for name in vars(cupy.cuda.runtime) if name[0] != "_"]
    ours = {  # fields of the stand-in's objects, not of its interface
        "cuda.Stream.add", "cuda.Stream.flush", "cuda.Event.wait", "cuda.Stream.null",
    }  # fmt: skip
    code = f"""
import operator, cupy
missing = []
for name in {sorted(set(names) - ours)}:
    try:
        operator.attrgetter(name)(cupy)
    except AttributeError:
        missing.append(name)
print(missing)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_travel_with_their_strides(layout):
    array = in_layout(np.arange(24.0).reshape(2, 3, 4), layout)
    device = to_gpu(array)
    assert device.strides == array.strides
    np.testing.assert_array_equal(to_cpu(device), array)


def test_views_share_memory_and_copies_do_not():
    x = cupy.zeros((3, 4), np.float32)
    x[1:, ::2] = 5
    x.T[0] += 1
    np.testing.assert_array_equal(x.get(), [[1, 0, 0, 0], [6, 0, 5, 0], [6, 0, 5, 0]])
    assert x.reshape(-1)[4:].data.ptr == x.data.ptr + 16
    y = x.copy()
    y.fill(9)
    assert x.max().item() == 6


def test_numpy_arrays_do_not_slip_in():
    x = cupy.ones(3, np.float32)
    for mix in (
        lambda: x + np.ones(3),
        lambda: x + np.array(1.0),
        lambda: np.concatenate([x, np.ones(3)]),
    ):
        with pytest.raises(TypeError, match="Unsupported type"):
            mix()
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    assert (x * np.float32(2)).dtype == np.float32  # scalars are fine
    assert (x > np.array(0.5)).all()
    assert x[np.array([0, 2])].shape == (2,)  # an index is sent to the device


def test_fresh_memory_is_poison():
    assert np.isnan(cupy.empty((3, 5), np.float32).get()).all()


@pytest.fixture(scope="module")
def scale():
    return cupy.RawModule(code=SOURCE).get_function("scale")


def test_kernels_run_and_their_arguments_must_fit(scale):
    x = cupy.arange(300, dtype=np.float32)
    y = cupy.empty_like(x)
    scale((2,), (256,), (y, x, np.float32(2), np.int64(300)))
    np.testing.assert_array_equal(y.get(), 2 * np.arange(300))
    for arguments, problem in [
        ((y, x, np.float32(2)), "3 arguments for 4"),
        ((y, x, 2.0, np.int64(300)), "argument 2: float where the kernel takes float"),
        ((y, x, np.float64(2), np.int64(300)), "argument 2: float64 where"),
        ((y, x, np.float32(2), np.int32(300)), "argument 3: int32 where .* long long"),
        ((y, x.astype(np.float64), np.float32(2), np.int64(300)), "an array of float64"),
        ((y, x.get(), np.float32(2), np.int64(300)), "argument 1: ndarray where"),
        ((y, None, np.float32(2), np.int64(300)), "argument 1: NoneType where"),
    ]:
        with pytest.raises(TypeError, match=problem):
            scale((2,), (256,), arguments)


def test_structs_are_passed_by_value_as_one_element():
    difference = cupy.RawModule(code=SOURCE).get_function("difference")
    y = cupy.empty(1, np.int32)
    pair = np.array([3, 10], np.int32)
    difference((1,), (1,), (y, pair.view("V8")))
    assert y.item() == 7
    with pytest.raises(TypeError, match="arrays of size one"):
        difference((1,), (1,), (y, pair))
    with pytest.raises(TypeError, match="is not a NumPy array of 8 bytes"):
        difference((1,), (1,), (y, pair[:1]))


def test_what_only_tuples_can_say(scale):
    with pytest.raises(TypeError, match="'options' has incorrect type: list"):
        cupy.RawModule(code=SOURCE, options=["-DREAL=float"])
    with pytest.raises(TypeError, match="'grid' has incorrect type: int"):
        scale(1, (32,), ())


def test_a_source_that_does_not_compile():
    broken = cupy.RawModule(code=SOURCE.replace("factor *", "factr *"))
    with pytest.raises(cupy.cuda.compiler.CompileException, match="factr"):
        broken.compile()


def test_a_stream_is_as_late_as_it_may_be(scale):
    x = cupy.ones(4, np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = x * 3
        scale((1,), (32,), (x, y, np.float32(2), np.int64(4)))
    host = y._host
    assert np.isnan(host).all()  # nobody has waited
    event = stream.record()
    cupy.cuda.get_current_stream().wait_event(event)
    np.testing.assert_array_equal(host, np.full(4, 3))
    np.testing.assert_array_equal(x.get(), np.full(4, 6))


def test_a_copy_from_the_host_reads_it_late():
    stream = cupy.cuda.Stream(non_blocking=True)
    host, device = np.zeros(3), cupy.empty(3)
    device.set(host, stream=stream)
    host[:] = 7  # too early: the stream has not been waited for
    stream.synchronize()
    np.testing.assert_array_equal(device.get(), np.full(3, 7))


def capturing(work, *, warm: bool = True, mode: int | None = None):
    """A graph of `work`, on a stream and in a pool that have seen it once."""
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        if warm:
            work()
        stream.begin_capture(mode)
        try:
            result = work()
        except Exception:
            with pytest.raises(CUDARuntimeError):
                stream.end_capture()
            raise
        return stream.end_capture(), result


def test_a_graph_replays_kernels_and_arithmetic(scale):
    x = cupy.ones(4, np.float32)

    def work():
        y = x + 1
        scale((1,), (32,), (y, y, np.float32(10), np.int64(4)))
        return y

    graph, y = capturing(work)
    for value in (2, 5):
        x.fill(value)
        graph.launch()
        np.testing.assert_array_equal(y.get(), np.full(4, 10 * (value + 1)))


def test_what_a_capture_refuses():
    x = cupy.ones((2, 2), np.float32)
    for work, error, message in [
        (lambda: x.get(), CUDARuntimeError, "a copy to the host"),
        (lambda: float(x.sum()), CUDARuntimeError, "a copy to the host"),
        (lambda: x[x > 0], CUDARuntimeError, "boolean mask"),
        (lambda: x @ x, NotImplementedError, "cuBLAS"),
        (lambda: cupy.asarray(np.ones(3)), CUDARuntimeError, "pageable host memory"),
        (lambda: x[[0, 1]], CUDARuntimeError, "pageable host memory"),
        (lambda: x.set(np.ones((2, 2), np.float32)), CUDARuntimeError, "a copy from the host"),
        (lambda: cupy.concatenate([x] * 9), CUDARuntimeError, "a table of addresses"),
        (lambda: cupy.RawModule(code=SOURCE).compile(), CUDARuntimeError, "loading a module"),
    ]:
        with pytest.raises(error, match=message):
            capturing(work)
    with pytest.raises(CUDARuntimeError, match="could not serve"):
        capturing(lambda: x + 1, warm=False, mode=cupy.cuda.runtime.streamCaptureModeThreadLocal)
    capturing(lambda: x + 1, warm=False)  # the mode is relaxed unless another is asked for
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(MemoryError, match="memory of the default pool"):
            cupy.empty(3)


def test_pools_account_for_memory_and_have_limits():
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(4096)
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.empty(100, np.float32)
        assert (pool.used_bytes(), pool.total_bytes()) == (512, 512)
        del x
        assert (pool.used_bytes(), pool.total_bytes()) == (0, 512)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="allocating 40,000 bytes"):
            cupy.empty(10_000, np.float32)
