"""Matrix products on a GPU: our own kernels against NumPy, and what goes to cuBLAS when."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st

layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**20)
sides = st.sampled_from([0, 1, 2, 4, 7, 20, 33])
MODES = ("fp32", "tf32", "bf16")


@st.composite
def stacks(draw, *, max_batch: int = 3):
    """Shapes of a and b; axes before the last two broadcast."""
    m, k, n = draw(sides), draw(sides), draw(sides)
    batch = draw(st.lists(st.integers(1, 3), max_size=max_batch))
    lead = [tuple(draw(st.sampled_from([size, 1])) for size in batch) for _ in range(2)]
    fewer = draw(st.integers(0, len(batch)))
    return (*lead[0], m, k), (*lead[1][fewer:], k, n)


def whole(shape, dtype, rng) -> np.ndarray:
    """Exact in every mode, and so are the sums of their products."""
    return rng.integers(-4, 5, shape).astype(dtype)


def draw_two(shapes, dtype, seed, draw=whole):
    rng = np.random.default_rng(seed)
    return [draw(shape, dtype, rng) for shape in shapes]


def check_exact(function, a, b, layouts=("C", "C")):
    found = function(*(to_gpu(in_layout(x, way)) for x, way in zip((a, b), layouts, strict=True)))
    expected = a @ b
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(to_cpu(found), expected)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20)
@given(stacks(), dtypes, layouts, layouts, seeds)
def test_our_own_product_equals_numpy(cuda_kernels, mode, shapes, dtype, way_a, way_b, seed):
    with cuda_kernels("precision").precision(mode):
        a, b = draw_two(shapes, dtype, seed)
        check_exact(cuda_kernels("matmul").product, a, b, (way_a, way_b))


def transposed(x):
    """The same values with columns contiguous in each matrix."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


@pytest.mark.parametrize("kind", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize(
    "config", [("fp32", 64, 64, 2), ("tf32", 128, 64, 3), ("bf16", 64, 64, 1)]
)
@pytest.mark.parametrize("shape", [(130, 36, 68), (5, 97, 3)], ids=str)
def test_transposed_operands_are_read_in_place(cuda_kernels, kind, config, shape):
    gemm, matmul = cuda_kernels("gemm"), cuda_kernels("matmul")
    m, k, n = shape
    a, b = draw_two([(2, m, k), (2, k, n)], np.float32, 0)
    arranged = [
        to_gpu(transposed(x) if way == "T" else x) for x, way in zip((a, b), kind, strict=True)
    ]
    read = []
    multiply = gemm.multiply

    def spy(product, out, left, right, bias, **options):
        read.extend([left.data.ptr, right.data.ptr])
        multiply(product, out, left, right, bias, **options)

    with (
        mock.patch.object(gemm, "multiply", spy),
        mock.patch.object(gemm, "choose", return_value=gemm.Config(*config)),
    ):
        found = matmul.product(*arranged)
    np.testing.assert_array_equal(to_cpu(found), a @ b)
    assert sorted(read) == sorted(x.data.ptr for x in arranged)


@pytest.mark.parametrize("config", [("fp32", 64, 64), ("tf32", 64, 64), ("bf16", 64, 64)], ids=str)
def test_splits_are_summed_in_their_order(cuda_kernels, config):
    """Parts of k, multiplied apart and added from first to last, give the same bits; twice."""
    gemm, matmul = cuda_kernels("gemm"), cuda_kernels("matmul")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in [(9, 96), (96, 11)])

    def product(splits, part=slice(None)):
        with mock.patch.object(gemm, "choose", return_value=gemm.Config(*config, splits)):
            return to_cpu(matmul.product(to_gpu(a[:, part].copy()), to_gpu(b[part].copy())))

    parts = [product(1, slice(32 * s, 32 * s + 32)) for s in range(3)]
    together = product(3)
    np.testing.assert_array_equal(together, (parts[0] + parts[1]) + parts[2])
    np.testing.assert_array_equal(together, product(3))
    assert (together != product(1)).any()  # another order rounds otherwise


ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_adds_the_bias_and_activates(cuda_kernels, activation, splits, dtype):
    gemm, matmul = cuda_kernels("gemm"), cuda_kernels("matmul")
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in [(6, 40), (7, 40), 7])
    x[0, 0] = np.nan
    weight /= 4
    with mock.patch.object(gemm, "choose", return_value=gemm.Config("fp32", 64, 64, splits)):
        found = matmul.linear(
            to_gpu(x), to_gpu(weight), to_gpu(bias), activation=activation, slope=0.2
        )
    with np.errstate(invalid="ignore"):
        expected = ACTIVATIONS[activation](x.astype(np.float64) @ weight.T + bias)
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(to_cpu(found), expected, tolerance, tolerance)


@settings(max_examples=15)
@given(st.sampled_from([0, 1, 5]), dtypes, layouts, layouts, seeds)
def test_linear_in_every_layout(cuda_kernels, inputs, dtype, way_x, way_w, seed):
    x, weight = draw_two([(6, inputs), (9, inputs)], dtype, seed)
    bias = np.arange(9).astype(dtype)
    arranged = (to_gpu(in_layout(array, way)) for array, way in [(x, way_x), (weight, way_w)])
    found = cuda_kernels("matmul").linear(*arranged, to_gpu(in_layout(bias, way_x)))
    np.testing.assert_array_equal(to_cpu(found), x @ weight.T + bias)


@pytest.mark.parametrize("mode", MODES)
def test_rounding_stays_within_its_bound(cuda_kernels, mode):
    """|error| <= (2u + u²) Σ|a||b| of the factors, and a rounding of Σ|a||b| for each addition."""
    u = {"fp32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}[mode]
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in [(40, 200), (200, 30)])
    with cuda_kernels("precision").precision(mode):
        found = to_cpu(cuda_kernels("matmul").product(to_gpu(a), to_gpu(b)))
    a, b = a.astype(np.float64), b.astype(np.float64)
    sizes = np.abs(a) @ np.abs(b)
    error = np.abs(found - a @ b)
    assert (error <= (2 * u + u * u + 200 * 2.0**-23) * sizes).all()
    assert u == 0 or error.max() > u / 20 * np.median(sizes)


def test_a_batch_of_more_axes_than_the_kernels_walk(cuda_kernels):
    a, b = draw_two([(2, 1, 3, 1, 4, 6), (1, 2, 1, 2, 6, 5)], np.float32, 0)
    check_exact(cuda_kernels("matmul").product, a, b)


def test_operands_that_32_bits_cannot_reach_go_to_the_plain_kernel(cuda_kernels):
    gemm, problem = cuda_kernels("gemm"), cuda_kernels("gemm_problem")
    matmul = cuda_kernels("matmul")
    a, b = draw_two([(7, 5), (5, 9)], np.float32, 0)
    refuse = mock.Mock(side_effect=AssertionError)
    with mock.patch.object(problem, "LARGEST", 60), mock.patch.object(gemm, "multiply", refuse):
        check_exact(matmul.product, a, b)


def test_a_plain_launch_larger_than_its_grid(cuda_kernels):
    matmul = cuda_kernels("matmul")
    with mock.patch.object(matmul, "MOST_BLOCKS", 1):
        check_exact(matmul.product, *draw_two([(17, 3), (3, 19)], np.float64, 0))


def test_a_second_dtype_is_refused(cuda_kernels):
    for dtypes in [(np.float32, np.float64), (np.float64, np.float32)]:
        a, b = (to_gpu(np.ones((2, 2), dtype)) for dtype in dtypes)
        with pytest.raises(TypeError, match=r"is float(32|64), the kernel reads float(64|32)"):
            cuda_kernels("matmul").product(a, b)


# ----------------------------------------------------------------------------------------- cuBLAS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inside_a_graph_our_own_kernels_multiply(cupy, cuda_kernels, mode, dtype):
    a, b = draw_two([(3, 6, 5), (5, 9)], dtype, 0)
    on_gpu = to_gpu(a), to_gpu(b)
    matmul = cuda_kernels("matmul")
    pool = cupy.cuda.MemoryPool()
    stream = cupy.cuda.Stream(non_blocking=True)
    with cuda_kernels("precision").precision(mode), cupy.cuda.using_allocator(pool.malloc):
        with stream:
            matmul.product(*on_gpu)  # compiled, and its memory in the pool, before the capture
            stream.begin_capture()
            found = matmul.matmul(*on_gpu)
            graph = stream.end_capture()
            graph.launch(stream)
        stream.synchronize()
    np.testing.assert_array_equal(to_cpu(found), a @ b)


def test_elsewhere_cublas_does_in_the_mode_in_force(cupy, cuda_kernels):
    matmul, cublas = cuda_kernels("matmul"), cupy.cuda.cublas
    handle = cupy.cuda.device.get_cublas_handle()
    a, b = draw_two([(3, 4), (4, 5)], np.float32, 0)
    expected = {"fp32": 0, "tf32": 3}  # of cublasMath_t
    with mock.patch.object(matmul, "product", side_effect=AssertionError):
        for mode, math_mode in expected.items():
            with cuda_kernels("precision").precision(mode):
                check_exact(matmul.matmul, a, b)
                check_exact(matmul.matmul, a.astype(np.int32), b.astype(np.int32))
            assert cublas.getMathMode(handle) == math_mode
        with cuda_kernels("precision").precision("bf16"), pytest.raises(AssertionError):
            matmul.matmul(to_gpu(a), to_gpu(b))
