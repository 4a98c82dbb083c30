"""The emulator runs right kernels and catches wrong ones; each bug here was planted."""

from __future__ import annotations

import gc
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


def caught(message, *args, **options):
    return pytest.raises(build.KernelFault, match=message)


# ------------------------------------------------------------------------------- right kernels

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
    with caught("race: read of byte 0 of an allocation of 8 bytes"):  # by a plain load
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
    with caught("arguments of .* for parameters"):
        library.launch("typed", (1, 1, 1), (1, 1, 1), [*args, bytes(8)])


# ------------------------------------------------------------------------------- planted bugs

COPY = r"""
extern "C" __global__ void copy(const TYPE* x, TYPE* y, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i + WRITE] = x[i + READ];
}
"""


@pytest.mark.parametrize(
    ("read", "write", "where"),
    [
        (1, 0, "read of 4 bytes, 0 bytes past the end of an allocation of 400 bytes"),
        (-1, 0, "read of 4 bytes, 4 bytes before an allocation of 400 bytes"),
        (0, 1, "write of 4 bytes, 0 bytes past the end"),
        (0, -1, "write of 4 bytes, 4 bytes before"),
    ],
)
def test_one_element_outside_global_memory(read, write, where):
    options = ("-DTYPE=float", f"-DREAD={read}", f"-DWRITE={write}")
    last = (3, 3) if max(read, write) else (0, 0)
    place = rf"copy.cu:5, in copy, block \({last[0]}, 0, 0\), thread \({last[1]}, 0, 0\)"
    with caught(f"global memory out of bounds: {where}.* at {place}"):
        run(COPY, "copy", 4, 32, floats(100), floats(100), i32(100), options=options)


def test_an_access_across_the_end():
    options = ("-DTYPE=float4", "-DREAD=0", "-DWRITE=0")
    with caught("read of 16 bytes, 8 of them past the end of an allocation of 88 bytes"):
        run(COPY, "copy", 1, 32, floats(22), floats(24), i32(6), options=options)


def test_misaligned_vector():
    source = COPY.replace("x[i + READ]", "*(const float4*)((const float*)x + 1 + 4 * i)")
    options = ("-DTYPE=float4", "-DWRITE=0")
    with caught("misaligned access: 'const struct float4' needs 16.* 4 bytes off, at copy.cu:5"):
        run(source, "copy", 1, 32, floats(400), floats(400), i32(8), options=options)


def test_a_freed_allocation():
    library = build.compile(COPY, ("-DTYPE=int", "-DREAD=0", "-DWRITE=0"), "copy.cu")
    x, y = memory.allocate(64), memory.allocate(64)
    args = [x.ptr.to_bytes(8, "little"), y.ptr.to_bytes(8, "little"), i32(16).tobytes()]
    library.launch("copy", (1, 1, 1), (32, 1, 1), args)
    assert (y.buffer == 255).all()  # as memory is at first
    x.free()
    with caught("read of 4 bytes, 0 bytes into a freed allocation of 64 bytes"):
        library.launch("copy", (1, 1, 1), (32, 1, 1), args)
    before = memory.allocated()
    del y
    gc.collect()
    assert memory.allocated() == before - 64
    args[0] = bytes(8)
    with caught("null pointer"):
        library.launch("copy", (1, 1, 1), (32, 1, 1), args)


def test_memory_lives_as_long_as_a_view_of_it():
    before = memory.allocated()
    view = memory.allocate(1000).buffer[10:20]
    assert memory.allocated() == before + 1000
    view[:] = 7
    del view
    assert memory.allocated() == before


SHARED = r"""
OUTSIDE
extern "C" __global__ void shift(const float* x, float* y)
{
    INSIDE
    tile[threadIdx.x + WRITE] = x[threadIdx.x];
    BARRIER
    y[threadIdx.x] = tile[(threadIdx.x + 1) % 64 + READ];
}
"""
STATIC = "-DINSIDE=__shared__ float tile[64];", "-DOUTSIDE="
DYNAMIC = "-DINSIDE=extern __shared__ float tile[];", "-DOUTSIDE="
DYNAMIC_OUTSIDE = "-DINSIDE=", "-DOUTSIDE=extern __shared__ __align__(16) float tile[];"


def _shift(declare, *, write=0, read=0, barrier="__syncthreads();", shared_bytes=256):
    options = (*declare, f"-DWRITE={write}", f"-DREAD={read}", f"-DBARRIER={barrier}")
    x, y = floats(64), np.empty(64, f32)
    shared_bytes = 0 if declare == STATIC else shared_bytes
    run(SHARED, "shift", 1, 64, x, y, options=options, shared_bytes=shared_bytes)
    np.testing.assert_array_equal(y, np.roll(x, -1))


@pytest.mark.parametrize("declare", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_shared_memory(declare):
    _shift(declare)
    for wrong in ({"write": 1}, {"write": -1}, {"read": 1}, {"read": -1}):
        with caught("out of bounds.* shift.cu:[68]"):
            _shift(declare, **wrong)
    with caught("unwritten shared memory|race"):
        _shift(declare, barrier="")
    with caught("unwritten shared memory|race"):  # orders the warps, not the block
        _shift(declare, barrier="__syncwarp();")
    _shift(declare)


def test_dynamic_shared_memory_at_file_scope():
    _shift(DYNAMIC_OUTSIDE)


def test_too_little_dynamic_shared_memory():
    with caught("write of 4 bytes at byte 252 of 252 of dynamic shared memory"):
        _shift(DYNAMIC, shared_bytes=252)


def test_shared_memory_is_unwritten_before_every_block():
    source = r"""
__device__ __forceinline__ float* scratch()
{
    __shared__ float memory[4];
    return memory;
}
extern "C" __global__ void stale(float* y)
{
    if (blockIdx.x != 2) scratch()[threadIdx.x] = 1;  // the bug
    y[blockIdx.x * 4 + threadIdx.x] = scratch()[threadIdx.x];
}
"""
    with caught(r"unwritten shared memory: read of byte 0 of 16 of shared .*memory.* stale.cu:10"):
        run(source, "stale", 4, 4, np.empty(16, f32))


RACES = r"""
extern "C" __global__ void races(int* out)
{
    __shared__ int a[64], count;
    const int i = threadIdx.x;
    if (i == 0) count = 0;
    a[i] = i;
    __syncthreads();
    BODY
    __syncthreads();
    out[i] = a[i] + count;
}
"""


@pytest.mark.parametrize(
    "body",
    [
        "const int other = a[63 - i]; a[i] = other;",  # written after another thread's read
        "if (i < 2) a[0] = i;",
        "if (i == 0) atomicAdd(&count, 1); if (i == 40) count = 1;",
        "if (i == 40) count = 1; if (i == 0) atomicAdd(&count, 1);",
        "atomicAdd(&count, 1); a[i] = count;",
        "const int next = a[i ^ 1]; __syncwarp(0xffffffff); a[i ^ 32] = next;",
        "int next = __shfl_xor_sync(~0u, a[i ^ 1], 1); a[i] = next;",  # shuffles order no memory
        "if (i < 4) { int v = a[i ^ 2]; __syncwarp(i < 2 ? 3 : 12); a[i] = v; }",
    ],
)
def test_races_in_shared_memory(body):
    for order in ("forward", "reversed"):
        with caught("race: .* of shared races::.*, with nothing that orders the two"):
            run(RACES, "races", 1, 64, np.zeros(64, i32), options=(f"-DBODY={body}",), order=order)


@pytest.mark.parametrize(
    "body",
    [
        "const int other = a[63 - i]; __syncthreads(); a[i] = other;",
        "atomicAdd(&count, 1); __syncthreads(); a[i] = count;",
        "const int next = a[i ^ 1]; __syncwarp(); a[i] = next;",
        "if (i < 4) { int v = a[i ^ 1]; __syncwarp(i < 2 ? 3 : 12); a[i] = v; }",
        "((unsigned char*)a)[i] = i; __syncwarp(); ((unsigned char*)a)[i ^ 1] = 0;",  # bytes
    ],
)
def test_no_race_where_barriers_order(body):
    for order in ("forward", "reversed"):
        run(RACES, "races", 1, 64, np.zeros(64, i32), options=(f"-DBODY={body}",), order=order)


@pytest.mark.parametrize(
    "body",
    [
        "x[0] = 1;",  # every thread
        "const int v = x[(i + 1) % n]; x[i] = v;",  # in place, neighbours of the same warp
        "if (threadIdx.x == 0) { int v = x[(i + 32) % n]; x[i] = v; }",  # of the next block
        "if (threadIdx.x == 0) x[0] = 1;",  # every block
    ],
)
def test_races_in_global_memory(body):
    source = r"""
extern "C" __global__ void update(int* x, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    BODY
}
"""
    with caught("race: (read|write) of byte .* of an allocation of 512 bytes"):
        run(source, "update", 4, 32, np.zeros(128, i32), i32(128), options=(f"-DBODY={body}",))


BARRIERS = r"""
extern "C" __global__ void barriers(float* out)
{
    const int i = threadIdx.x;
    float value = i;
    BODY
    out[i] = value;
}
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (i < 20) __syncthreads();", "not reached by all threads: 20 of 64 wait .* 44 have"),
        ("if (i >= 60) return; __syncthreads();", "not reached by all threads: 60 of 64"),
        ("if (i < 32) __syncthreads(); else\n__syncthreads();", "divergent barrier"),
        ("if (i < 5) __syncwarp(); else __syncthreads();", "__syncwarp not reached by all lanes"),
        ("if (i % 32 < 16) value = __shfl_xor_sync(~0u, value, 16);", "takes no part"),
        ("if (i < 9) { value = __shfl_sync(0x1ff, value, 9); }", "lane 0 reads from lane 9"),
        ("if (i < 9) value = __shfl_sync(0xff, value, 0);", "lane 8 is not in its own mask"),
        ("value = i % 2 ? __shfl_sync(~0u, value, 0) :\n__shfl_sync(~0u, value, 1);", "divergent"),
        ("if (i == 3) __trap();", r"__trap\(\)"),
        ("assert(i != 5);", "assertion failed: i != 5"),
    ],
)
def test_threads_that_do_not_meet(body, message):
    source = BARRIERS.replace("BODY", body)
    with caught(rf"{message}.* at barriers.cu:\d, in barriers, block"):
        run(source, "barriers", 1, 64, np.empty(64, f32))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("int i = 1 << 30; out[0] = i * n;", r"4 \* 1073741824 does not fit 'int'"),
        ("out[0] = 2147483647 + n;", r"integer overflow: 4 \+ 2147483647"),
        ("int a[4] = {1, 2, 3, 4}; out[0] = a[n];", r"index out of bounds: 4 of 'int \[4\]'"),
        ("__shared__ int a[4]; a[n] = 1; out[0] = 1;", "array index out of bounds: 4"),
        ("__shared__ int a[3], b[4]; int* p = a; p[n] = b[0] = 1;", "out of bounds|race"),
        ("out[0] = 1 / (n - 4);", "division by zero"),
        ("out[0] = (int)(n * 1e9f);", "undefined conversion: a 'float' that does not fit 'int'"),
        ("if (n == 4) __builtin_unreachable(); out[0] = n;", "reached __builtin_unreachable"),
        ("out[0] = 1 << (n + 28);", "undefined shift: 1 shifted by 32"),
    ],
)
def test_undefined_arithmetic_and_indices(statement, message):
    source = f'extern "C" __global__ void wrong(int* out, int n)\n{{\n    {statement}\n}}\n'
    with caught(rf"{message}.* at wrong.cu:3, in wrong, block \(0, 0, 0\), thread \(0, 0, 0\)"):
        run(source, "wrong", 1, 1, np.zeros(4, i32), i32(4))


def test_uninitialised_variables_are_not_zero():
    source = 'extern "C" __global__ void sum(float* x) { float s; s += x[0]; x[0] = s; }'
    x = np.ones(1, f32)
    run(source, "sum", 1, 1, x)
    assert not 0 <= x[0] <= 2


EMPTY = r"""
extern "C" __global__ void __launch_bounds__(256) bounded() {}
extern "C" __global__ void large(int* out)
{
    __shared__ int fixed[8000];
    fixed[threadIdx.x] = 1;
    out[0] = fixed[threadIdx.x];
}
"""


def test_limits_of_a_launch():
    run(EMPTY, "bounded", 1, 256)
    for grid, block, message in [
        (1, 257, "257 threads in a block, at most 256"),
        (1, (2, 1, 65), r"a block of \(2, 1, 65\)"),
        (1, 1025, "a block of"),
        (0, 1, "a grid of"),
        ((1, 65536), 1, "a grid of"),
    ]:
        with caught(message):
            run(EMPTY, "bounded", grid, block)
    out = np.zeros(1, i32)
    run(EMPTY, "large", 1, 1, out, shared_bytes=17000)
    with caught("too much shared memory: 32000 bytes static and 17500 dynamic, at most 49152"):
        run(EMPTY, "large", 1, 1, out, shared_bytes=17500)
    run(EMPTY, "large", 1, 1, out, shared_bytes=200_000, max_dynamic_shared=200_000)
    with caught("50000 bytes dynamic, at most 49152"):
        run(EMPTY, "large", 1, 1, out, shared_bytes=50_000)
    with caught("at most 232448"):
        run(EMPTY, "large", 1, 1, out, shared_bytes=233_000, max_dynamic_shared=233_000)


def test_everything_works_after_a_fault():
    """Fibers were abandoned at a barrier, in a warp and with copies on their way."""
    for body in ("if (i < 20) __syncthreads();", "if (i > 3) __syncwarp(); else __syncthreads();"):
        with caught("not reached"):
            run(BARRIERS.replace("BODY", body), "barriers", 1, 64, np.empty(64, f32))
    out = np.empty(64, f32)
    body = "__syncthreads(); value = __shfl_xor_sync(~0u, value, 1);"
    run(BARRIERS.replace("BODY", body), "barriers", 1, 64, out)
    np.testing.assert_array_equal(out, np.arange(64) ^ 1)


def test_compiler_errors_name_the_line():
    with pytest.raises(build.CompileError, match=r"wrong\.cu:2:.*undeclared|not declared"):
        build.compile('\nextern "C" __global__ void f(int* x) { x[0] = y; }', (), "wrong.cu")
    with pytest.raises(build.CompileError, match="stdio"):  # NVRTC has no such headers either
        build.compile("#include <stdio.h>", (), "include.cu")


def test_a_local_array_of_another_thread():
    source = r"""
extern "C" __global__ void leak(int* out)
{
    __shared__ int* pointer;
    int local[2] = {1, 2};
    if (threadIdx.x == 0) pointer = local;
    __syncthreads();
    out[threadIdx.x] = pointer[0];
    __syncthreads();
}
"""
    with caught("read of another thread's local memory"):
        run(source, "leak", 1, 2, np.zeros(2, i32))


def test_a_stack_that_is_full():
    source = r"""
extern "C" __global__ void deep(int* out, int n)
{
    volatile char local[100000];
    local[n] = 1;
    out[0] = local[n];
}
"""
    with caught("segmentation fault"):
        run(source, "deep", 1, 1, np.zeros(1, i32), i32(0))
    with caught("segmentation fault"):  # the handler is still there
        run(source, "deep", 1, 1, np.zeros(1, i32), i32(0))
    run(SUM, "block_sum", 1, 128, floats(1), np.zeros(1, f32), i32(1))
