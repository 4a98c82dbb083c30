"""Launches: what CuPy takes as it comes is converted or refused, with the kernel named."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu

SOURCE = """
#include "factor.cuh"
// extern "C" __global__ void commented_out(int n) {}
extern "C" __global__ void __launch_bounds__(256) scale(REAL* __restrict__ y, const REAL* x,
                                                        REAL factor, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (x ? x[i] : REAL(1)) * factor * FACTOR;
}

extern "C" __global__ void shared_sum(float* y, long long n) {
    extern __shared__ float values[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = 1;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += values[i];
    if (threadIdx.x == 0) *y = sum;
}
"""


@pytest.fixture
def launch(cuda_kernels, tmp_path, monkeypatch):
    """The module, with its sources in an empty folder."""
    module = cuda_kernels("launch")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module.Source, "all", [])
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 1\n")
    module._headers.cache_clear()
    yield module
    module._headers.cache_clear()


@pytest.fixture
def source(launch):
    return launch.Source("scale.cu", REAL=launch.REALS)


def test_signatures_are_read_from_the_source(source, launch):
    assert source.signatures == {
        "scale": [("REAL*", "y"), ("REAL*", "x"), ("REAL", "factor"), ("int", "n")],
        "shared_sum": [("float*", "y"), ("long long", "n")],
    }
    assert source.variants == [{"REAL": "float"}, {"REAL": "double"}]
    assert launch.Source.all == [source]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_python_numbers_become_what_the_kernel_reads(source, launch, dtype):
    x = to_gpu(np.arange(300, dtype=dtype))
    y = to_gpu(np.empty(300, dtype))
    scale = source.kernel("scale", REAL=launch.ctype(x))
    scale(launch.blocks(300, 256), 256, (y, x, 2, 300))
    np.testing.assert_array_equal(to_cpu(y), 2 * np.arange(300))
    scale((2,), (256,), (y, None, np.float64(3), np.int64(300)))  # None: a null pointer
    np.testing.assert_array_equal(to_cpu(y), np.full(300, 3))
    assert source.kernel("scale", REAL=launch.ctype(x)) is scale


def test_what_does_not_fit_is_refused(source, launch):
    x = to_gpu(np.ones(4, np.float32))
    scale = source.kernel("scale", REAL="float")
    for grid, block, arguments, error, message in [
        (1, 32, (x, x, 2.0), TypeError, "3 arguments for 4 parameters"),
        (1, 32, (x, x.astype(np.float64), 2.0, 4), TypeError, "x is float64, .* reads float32"),
        (1, 32, (x, np.ones(4, np.float32), 2.0, 4), TypeError, "x is a NumPy array; move it"),
        (1, 32, (x, x, 2.0, 2**31), ValueError, r"n = 2147483648 does not fit int32"),
        (1, 1025, (x, x, 2.0, 4), ValueError, "1025 threads in a block, at most 1024"),
        (1, (64, 32), (x, x, 2.0, 4), ValueError, "2048 threads in a block"),
        (1, 0, (x, x, 2.0, 4), ValueError, "0 threads in a block"),
        ((1, 65536), 32, (x, x, 2.0, 4), ValueError, r"a grid of \(1, 65536\) blocks"),
        (2**31, 32, (x, x, 2.0, 4), ValueError, "a grid of"),
        (-1, 32, (x, x, 2.0, 4), ValueError, "a grid of"),
    ]:
        with pytest.raises(error, match=rf"Kernel\(scale.cu: scale\).*{message}"):
            scale(grid, block, arguments)
    np.testing.assert_array_equal(to_cpu(x), np.ones(4))


def test_a_grid_without_blocks_launches_nothing(source, launch):
    empty = to_gpu(np.empty(0, np.float32))
    assert launch.blocks(0, 256) == 0
    source.kernel("scale", REAL="float")(launch.blocks(0, 256), 256, (empty, empty, 2.0, 0))


def test_more_shared_memory_than_the_default_is_asked_for(source):
    y = to_gpu(np.empty(1, np.float32))
    n = 20_000
    source.kernel("shared_sum", REAL="float")(1, 64, (y, n), shared=4 * n)
    assert to_cpu(y) == n


def test_names_that_are_not_there(source, launch):
    with pytest.raises(ValueError, match=r"scale.cu: no kernel 'scael' among \['scale', 'shared"):
        source.kernel("scael", REAL="float")
    with pytest.raises(ValueError, match=r"scale.cu: no variant {'REAL': 'int'} among"):
        source.kernel("scale", REAL="int")
    assert launch.ctype(np.dtype("f8")) == launch.ctype(np.float64) == "double"
    with pytest.raises(TypeError, match="no CUDA kernels for complex64; use float32"):
        launch.ctype(np.complex64)


def test_a_source_that_does_not_compile_names_its_line(launch, tmp_path):
    (tmp_path / "broken.cu").write_text(SOURCE.replace("* factor", "* factr"))
    broken = launch.Source("broken.cu", REAL=launch.REALS)
    with pytest.raises(launch.CompileError) as caught:
        broken.kernel("scale", REAL="float")
    text = str(caught.value)
    assert "broken.cu" in text
    assert ":7" in text or "(7)" in text
    assert "factr" in text
    assert "\n" not in text


def test_a_changed_header_changes_the_options(source, launch, tmp_path):
    """CuPy's cache on disk goes by the source and the options."""
    before = source.options({"REAL": "float"})
    assert source.options({"REAL": "float"}) == before
    (tmp_path / "factor.cuh").write_text("#define FACTOR 10\n")
    launch._headers.cache_clear()
    assert source.options({"REAL": "float"}) != before
    x = to_gpu(np.ones(4, np.float32))
    launch.Source("scale.cu", REAL=launch.REALS).kernel("scale", REAL="float")(
        1, 32, (x, None, 1, 4)
    )
    np.testing.assert_array_equal(to_cpu(x), np.full(4, 10))


def test_whether_a_graph_is_recorded(launch, cupy):
    assert not launch.in_graph()
    with launch.inside_a_graph():
        assert launch.in_graph()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert launch.in_graph()
        stream.end_capture()
    assert not launch.in_graph()
