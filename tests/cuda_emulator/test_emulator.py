"""The emulator runs right kernels; test_planted_bugs.py has the wrong ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuda_emulator import build, memory
from cuda_emulator.harness import run

pytestmark = pytest.mark.skipif(build.available() is not None, reason=str(build.available()))

i32 = np.int32
f32 = np.float32


def floats(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n, f32)


SUM = r"""
// Each block sums its part of x through shared memory.
extern "C" __global__ void block_sum(const float* x, float* sums, int n)
{
    __shared__ float tile[128];
    const int i = blockIdx.x * 128 + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = tile[0];
}
"""


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_block_reduction(order):
    x = floats(300)
    sums = np.empty(3, f32)
    run(SUM, "block_sum", 3, 128, x, sums, i32(300), order=order)
    np.testing.assert_allclose(sums, np.add.reduceat(x, [0, 128, 256]), rtol=1e-5)


TRANSPOSE = r"""
template <typename T>
__device__ T (&tile())[16][17]
{
    __shared__ T memory[16][17];
    return memory;
}

extern "C" __global__ void __launch_bounds__(16 * 16, 2)
transpose(const SCALAR* __restrict__ x, SCALAR* __restrict__ y, int rows, int columns)
{
    SCALAR (&shared)[16][17] = tile<SCALAR>();
    const int i = threadIdx.y, j = threadIdx.x;
    const int row = blockIdx.y * 16, column = blockIdx.x * 16;
    if (row + i < rows && column + j < columns) shared[i][j] = x[(row + i) * columns + column + j];
    __syncthreads();
    if (row + j < rows && column + i < columns) y[(column + i) * rows + row + j] = shared[j][i];
}
"""


@pytest.mark.parametrize(("scalar", "dtype"), [("float", f32), ("unsigned char", np.uint8)])
def test_transpose_through_shared_memory_of_a_template(scalar, dtype):
    x = np.arange(35 * 23).reshape(35, 23).astype(dtype)
    y = np.zeros((23, 35), dtype)
    options = ("-std=c++17", f"-DSCALAR={scalar}")
    run(TRANSPOSE, "transpose", (2, 3), (16, 16), x, y, i32(35), i32(23), options=options)
    np.testing.assert_array_equal(y, x.T)


SCAN = r"""
extern "C" __global__ void warp_scan(const TYPE* x, TYPE* sums, TYPE* shifted, TYPE* first)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % warpSize;
    TYPE value = x[i];
    for (int delta = 1; delta < 32; delta *= 2) {
        const TYPE other = __shfl_up_sync(0xffffffff, value, delta);
        if (lane >= delta) value += other;
    }
    sums[i] = value;
    shifted[i] = __shfl_down_sync(0xffffffff, x[i], 1, 8);
    first[i] = __shfl_sync(0xffffffff, x[i], 0, 16);
}
"""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("int", i32), ("double", np.float64), ("unsigned long long", np.uint64)],
)
def test_warp_scan_by_shuffles(name, dtype):
    x = np.arange(1, 129).astype(dtype).reshape(4, 32)
    sums, shifted, first = np.zeros((3, 4, 32), dtype)
    run(SCAN, "warp_scan", 2, 64, x, sums, shifted, first, options=(f"-DTYPE={name}",))
    np.testing.assert_array_equal(sums, np.cumsum(x, axis=1))
    expected = np.concatenate([x.reshape(16, 8)[:, 1:], x.reshape(16, 8)[:, -1:]], axis=1)
    np.testing.assert_array_equal(shifted.reshape(16, 8), expected)
    np.testing.assert_array_equal(first.reshape(8, 16), np.repeat(x.reshape(8, 16)[:, :1], 16, 1))


def test_votes_and_partial_warps():
    source = r"""
extern "C" __global__ void votes(const int* x, unsigned* ballot, int* flags, int* counts)
{
    const int i = threadIdx.x, value = x[i];
    const unsigned low = __ballot_sync(0xffffffff, value > 0);
    ballot[i] = low;
    flags[i] = __any_sync(0xffffffff, value > 0) + 2 * __all_sync(0xffffffff, value >= 0);
    if (i < 4) flags[i] += 4 * __all_sync(0xf, value == 1);  // four lanes of the first warp
    counts[i] = __syncthreads_count(value) + 100 * __syncthreads_or(value == 7)
              + 1000 * __syncthreads_and(value < 9);
}
"""
    x = np.zeros(40, i32)
    x[[0, 1, 2, 3, 35]] = [1, 1, 1, 1, 7]
    ballot = np.zeros(40, np.uint32)
    flags, counts = np.zeros((2, 40), i32)
    run(source, "votes", 1, 40, x, ballot, flags, counts)
    assert (ballot[:32] == 0b1111).all()
    assert (ballot[32:] == 0b1000).all()
    np.testing.assert_array_equal(flags, [7] * 4 + [3] * 36)
    assert (counts == 5 + 100 + 1000).all()


def test_atomics():
    source = r"""
extern "C" __global__ void histogram(const int* x, int* counts, float* sum, unsigned* most,
                                     unsigned long long* swaps)
{
    __shared__ int local[4];
    if (threadIdx.x < 4) local[threadIdx.x] = 0;
    __syncthreads();
    const int value = x[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(&local[value], 1);
    atomicAdd(sum, 0.5f);
    atomicMax(most, threadIdx.x);
    unsigned long long seen = *(volatile unsigned long long*)swaps, expected;
    do {
        expected = seen;
        seen = atomicCAS(swaps, expected, expected + 2);
    } while (seen != expected);
    __syncthreads();
    if (threadIdx.x < 4) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}
"""
    x = np.random.default_rng(0).integers(0, 4, 3 * 50).astype(i32)
    counts = np.zeros(4, i32)
    total, most, swaps = np.zeros(1, f32), np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    run(source.replace("*(volatile unsigned long long*)swaps", "0"),
        "histogram", 3, 50, x, counts, total, most, swaps)  # fmt: skip
    np.testing.assert_array_equal(counts, np.bincount(x))
    assert (total[0], most[0], swaps[0]) == (75, 49, 300)
    with pytest.raises(build.KernelFault, match="race: read of byte 0"):  # by a plain load
        run(source, "histogram", 3, 50, x, counts, total, most, swaps)


def test_the_last_block_may_read_what_all_blocks_wrote():
    source = r"""
extern "C" __global__ void total(const float* x, float* partial, float* sum, unsigned* done)
{
    partial[blockIdx.x] = x[blockIdx.x];
    __threadfence();
    if (atomicAdd(done, 1) != gridDim.x - 1) return;
    float value = 0;
    for (int i = 0; i < gridDim.x; ++i) value += partial[i];
    *sum = value;
}
"""
    x, sums = floats(9), np.zeros(1, f32)
    run(source, "total", 9, 1, x, np.zeros(9, f32), sums, np.zeros(1, np.uint32))
    np.testing.assert_allclose(sums[0], x.sum(), rtol=1e-5)


def test_indices_cover_the_grid():
    source = r"""
extern "C" __global__ void where(int* out)
{
    const dim3 size = gridDim;
    const int block = (blockIdx.z * size.y + blockIdx.y) * size.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 1000 + thread;
}
"""
    out = np.zeros((24, 30), i32)
    run(source, "where", (2, 3, 4), (5, 3, 2), out)
    np.testing.assert_array_equal(out, np.arange(24)[:, None] * 1000 + np.arange(30))


def test_mathematics_and_integers():
    source = r"""
extern "C" __global__ void numbers(double* d, float* f, unsigned long long* u, int* i)
{
    float s, c;
    sincospif(0.25f, &s, &c);
    f[0] = s - c;
    f[1] = normcdff(1.0f);
    f[2] = fmaf(2.0f, 3.0f, 4.0f) + rsqrtf(4.0f) + exp(0.0f) + max(1.0f, 2.0f);
    f[3] = __int_as_float(0x40490fdb);
    f[4] = fmaxf(NAN, 1.0f);
    d[0] = erf(0.5) + log1p(0.5) + pow(2.0, 0.5);
    d[1] = min(1.0, -INFINITY);
    u[0] = __umul64hi(0xffffffffffffffffull, 0xffffffffffffffffull);
    u[1] = __umulhi(0xdeadbeefu, 0xcafebabeu);
    i[0] = __popc(0xff) + __clz(1) + __ffs(8) + min(3, 2) + (int)max(3u, 2u);
    i[1] = __float2int_rn(2.5f) + __float2int_rn(3.5f) + __float2int_rz(-1.9f);
    i[2] = __brev(1u) == 0x80000000u && __byte_perm(0x03020100, 0x07060504, 0x7610) == 0x07060100;
}
"""
    d, f, u, i = np.zeros(2), np.zeros(5, f32), np.zeros(2, np.uint64), np.zeros(3, i32)
    run(source, "numbers", 1, 1, d, f, u, i)
    np.testing.assert_allclose(f, [0, 0.8413447, 13.5, math.pi, 1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(d, [math.erf(0.5) + math.log(1.5) + math.sqrt(2), -math.inf])
    assert u.tolist() == [2**64 - 2, 0xDEADBEEF * 0xCAFEBABE >> 32]
    assert i.tolist() == [8 + 31 + 4 + 2 + 3, 2 + 4 - 1, 1]


def test_parameter_types_and_structs_by_value():
    source = r"""
struct Shape { int n; long long stride; };
extern "C" __global__ void typed(const float* __restrict__ x, double* y, unsigned char* mask,
                                 int n, unsigned long long seed, const bool flag,
                                 const Shape shape, const float4* rows, float scale)
{
    y[0] = shape.stride + scale;
}
"""
    library = build.compile(source, (), "typed.cu")
    assert library.kernels["typed"] == (
        *("const float*", "double*", "unsigned char*", "int", "unsigned long long", "bool"),
        *("struct:16", "const float4*", "float"),
    )
    y = memory.allocate(8)
    null = bytes(8)
    shape = i32([1, 0, 40, 0]).tobytes()
    args = [null, y.ptr.to_bytes(8, "little"), null, bytes(4), null, bytes(1), shape, null]
    library.launch("typed", (1, 1, 1), (1, 1, 1), [*args, f32(2).tobytes()])
    assert y.buffer.view(np.float64)[0] == 42
    with pytest.raises(build.KernelFault, match=r"arguments of .* for parameters"):
        library.launch("typed", (1, 1, 1), (1, 1, 1), [*args, bytes(8)])
