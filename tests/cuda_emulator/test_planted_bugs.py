"""Kernels with bugs planted in them, each of which the emulator must catch and place."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest

from cuda_emulator import build, memory
from cuda_emulator.harness import run
from cuda_emulator.toolchain import gcc_version

pytestmark = pytest.mark.skipif(build.available() is not None, reason=str(build.available()))

i32 = np.int32
f32 = np.float32


def floats(n):
    return np.random.default_rng(n).standard_normal(n, f32)


def caught(message):
    return pytest.raises(build.KernelFault, match=message)


def one_of(template, bodies):
    """A source with a kernel for each body, `kernel_0`, ...: one compilation is quick."""
    numbered = (template.replace("KERNEL", f"kernel_{i}") for i in range(len(bodies)))
    return "".join(text.replace("BODY", body) for text, body in zip(numbered, bodies, strict=True))


COPY = r"""
extern "C" __global__ void copy(const TYPE* x, TYPE* y, int n, int read, int write)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i + write] = x[i + read];
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
    last = (3, 3) if max(read, write) else (0, 0)
    place = rf"test.cu:5, in copy, block \({last[0]}, 0, 0\), thread \({last[1]}, 0, 0\)"
    with caught(f"global memory out of bounds: {where}.* at {place}"):
        run(COPY, "copy", 4, 32, floats(100), floats(100), i32(100), i32(read), i32(write),
            options=("-DTYPE=float",))  # fmt: skip


def test_an_access_across_the_end():
    sizes = i32(6), i32(0), i32(0)
    with caught("read of 16 bytes, 8 of them past the end of an allocation of 88 bytes"):
        run(COPY, "copy", 1, 32, floats(22), floats(24), *sizes, options=("-DTYPE=float4",))


def test_misaligned_vector():
    source = COPY.replace("x[i + read]", "*(const float4*)((const float*)x + 4 * i + read)")
    sizes = i32(8), i32(1), i32(0)
    with caught("misaligned access: 'const struct float4' needs 16.* 4 bytes off, at test.cu:5"):
        run(source, "copy", 1, 32, floats(400), floats(400), *sizes, options=("-DTYPE=float4",))


def test_a_freed_allocation():
    library = build.compile(COPY, ("-DTYPE=int",), "copy.cu")
    x, y = memory.allocate(64), memory.allocate(64)
    args = [x.ptr.to_bytes(8, "little"), y.ptr.to_bytes(8, "little"), i32(16).tobytes()]
    args += [bytes(4), bytes(4)]
    library.launch("copy", (1, 1, 1), (32, 1, 1), args)
    assert (y.buffer == 255).all()  # as memory is at first
    x.free()
    with caught("read of 4 bytes, 0 bytes into a freed allocation of 64 bytes"):
        library.launch("copy", (1, 1, 1), (32, 1, 1), args)
    gc.collect()  # what other tests left, so that the difference is this one's
    before = memory.allocated()
    del y
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
extern "C" __global__ void shift(const float* x, float* y, int read, int write)
{
    INSIDE
    tile[(int)threadIdx.x + write] = x[threadIdx.x];
    BARRIER
    y[threadIdx.x] = tile[((int)threadIdx.x + 1) % 64 + read];
}
"""
STATIC = "-DINSIDE=__shared__ float tile[64];", "-DOUTSIDE="
DYNAMIC = "-DINSIDE=extern __shared__ float tile[];", "-DOUTSIDE="
DYNAMIC_OUTSIDE = "-DINSIDE=", "-DOUTSIDE=extern __shared__ __align__(16) float tile[];"


def _shift(declare, *, write=0, read=0, barrier="__syncthreads();", shared_bytes=256):
    x, y = floats(64), np.empty(64, f32)
    launch = {"shared_bytes": 0 if declare == STATIC else shared_bytes}
    options = (*declare, f"-DBARRIER={barrier}")
    run(SHARED, "shift", 1, 64, x, y, i32(read), i32(write), options=options, **launch)
    np.testing.assert_array_equal(y, np.roll(x, -1))


@pytest.mark.parametrize("declare", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_shared_memory(declare):
    _shift(declare)
    for wrong in ({"write": 1}, {"write": -1}, {"read": 1}, {"read": -1}):
        with caught("out of bounds.* test.cu:[68]"):
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
    with caught(r"unwritten shared memory: read of byte 0 of 16 of shared .*memory.* test.cu:10"):
        run(source, "stale", 4, 4, np.empty(16, f32))


RACES = r"""
extern "C" __global__ void KERNEL(int* out)
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
RACING = [
    "const int other = a[63 - i]; a[i] = other;",  # written after another thread's read
    "if (i < 2) a[0] = i;",
    "if (i == 0) atomicAdd(&count, 1); if (i == 40) count = 1;",
    "if (i == 40) count = 1; if (i == 0) atomicAdd(&count, 1);",
    "atomicAdd(&count, 1); a[i] = count;",
    "const int next = a[i ^ 1]; __syncwarp(0xffffffff); a[i ^ 32] = next;",
    "if (i < 32) a[i + 32] = 0; __syncwarp(); a[i] = i;",  # which orders no other warps
    "int next = __shfl_xor_sync(~0u, a[i ^ 1], 1); a[i] = next;",  # shuffles order no memory
    "if (i < 4) { int v = a[i ^ 2]; __syncwarp(i < 2 ? 3 : 12); a[i] = v; }",
    "((char*)a)[i] = 1; __syncwarp(); ((short*)a)[i % 32 / 2] = 1;",  # bytes of one word
]
ORDERED = [
    "const int other = a[63 - i]; __syncthreads(); a[i] = other;",
    "atomicAdd(&count, 1); __syncthreads(); a[i] = count;",
    "const int next = a[i ^ 1]; __syncwarp(); a[i] = next;",
    "if (i < 4) { int v = a[i ^ 1]; __syncwarp(i < 2 ? 3 : 12); a[i] = v; }",
    "((char*)a)[i] = i; __syncwarp(); ((char*)a)[i ^ 1] = 0;",
]


@pytest.mark.parametrize("order", ["forward", "reversed"])
@pytest.mark.parametrize("which", range(len(RACING)), ids=RACING)
def test_races_in_shared_memory(which, order):
    with caught(r"race: .* of shared kernel_.*::.*, with nothing that orders the two"):
        run(one_of(RACES, RACING), f"kernel_{which}", 1, 64, np.zeros(64, i32), order=order)


@pytest.mark.parametrize("order", ["forward", "reversed"])
@pytest.mark.parametrize("which", range(len(ORDERED)), ids=ORDERED)
def test_no_race_where_barriers_order(which, order):
    run(one_of(RACES, ORDERED), f"kernel_{which}", 1, 64, np.zeros(64, i32), order=order)


UPDATE = r"""
extern "C" __global__ void KERNEL(int* x, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    BODY
}
"""
UPDATES = [
    "x[0] = 1;",  # every thread
    "const int v = x[(i + 1) % n]; x[i] = v;",  # in place, neighbours of the same warp
    "if (threadIdx.x == 0) { int v = x[(i + 32) % n]; x[i] = v; }",  # of the next block
    "if (threadIdx.x == 0) x[0] = 1;",  # every block
]


@pytest.mark.parametrize("which", range(len(UPDATES)), ids=UPDATES)
def test_races_in_global_memory(which):
    with caught("race: (read|write) of byte .* of an allocation of 512 bytes"):
        run(one_of(UPDATE, UPDATES), f"kernel_{which}", 4, 32, np.zeros(128, i32), i32(128))


BARRIERS = r"""
extern "C" __global__ void KERNEL(float* out)
{
    const int i = threadIdx.x;
    float value = i;
    BODY
    out[i] = value;
}
"""
APART = {
    "if (i < 20) __syncthreads();": "not reached by all threads: 20 of 64 wait .* 44 have ended",
    "if (i >= 60) return; __syncthreads();": "barrier not reached by all threads: 60 of 64",
    "if (i < 32) __syncthreads(); else\n__syncthreads();": "divergent barrier",
    "if (i < 5) __syncwarp(); else __syncthreads();": "__syncwarp not reached by all lanes",
    "if (i % 32 < 16) value = __shfl_xor_sync(~0u, value, 16);": "which takes no part",
    "if (i < 9) value = __shfl_sync(0x1ff, value, 9);": "lane 0 reads from lane 9",
    "if (i < 9) value = __shfl_sync(0xff, value, 0);": "lane 8 is not in its own mask",
    "value = i % 2 ? __shfl_sync(~0u, value, 0) :\n__shfl_sync(~0u, value, 1);": "divergent warp",
    "if (i == 3) __trap();": r"__trap\(\)",
    "assert(i != 5);": "assertion failed: i != 5",
}


@pytest.mark.parametrize("which", range(len(APART)), ids=APART)
def test_threads_that_do_not_meet(which):
    name, message = f"kernel_{which}", [*APART.values()][which]
    with caught(rf"{message}.* at test.cu:\d+, in {name}, block \(0, 0, 0\), thread \("):
        run(one_of(BARRIERS, APART), name, 1, 64, np.empty(64, f32))


UNDEFINED = {
    "int i = 1 << 30; out[0] = i * n;": "integer overflow: 4 * 1073741824 does not fit 'int'",
    "out[0] = 2147483647 + n;": "integer overflow: 4 + 2147483647",
    "int a[4] = {1, 2, 3, 4}; out[0] = a[n];": "array index out of bounds: 4 of 'int [4]'",
    "__shared__ int a[4]; a[n] = 1; out[0] = 1;": "array index out of bounds: 4",
    "__shared__ int a[3]; int* p = a; p[n - 1] = 1; out[0] = a[0];": "shared memory out of bounds",
    "out[0] = 1 / (n - 4);": "division by zero",
    "out[0] = (int)(n * 1e9f);": "undefined conversion: a 'float' that does not fit 'int'",
    "if (n == 4) __builtin_unreachable(); out[0] = n;": "reached __builtin_unreachable",
    "out[0] = 1 << (n + 28);": "undefined shift: 1 shifted by 32",
}


@pytest.mark.parametrize("which", range(len(UNDEFINED)), ids=UNDEFINED)
def test_undefined_arithmetic_and_indices(which):
    template = '\nextern "C" __global__ void KERNEL(int* out, int n) { BODY }'
    message, line = re.escape([*UNDEFINED.values()][which]), which + 2
    with caught(rf"{message}.*, at test.cu:{line}, in kernel_{which}, block"):
        run(one_of(template, UNDEFINED), f"kernel_{which}", 1, 1, np.zeros(4, i32), i32(4))


@pytest.mark.skipif(build.available() is None and gcc_version() < 12, reason="needs g++ 12")
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
    """Fibers were abandoned at a barrier and in a warp."""
    bodies = [
        "if (i < 20) __syncthreads();",
        "if (i > 3) __syncwarp(); else __syncthreads();",
        "__syncthreads(); value = __shfl_xor_sync(~0u, value, 1);",
    ]
    source, out = one_of(BARRIERS, bodies), np.empty(64, f32)
    for name in ("kernel_0", "kernel_1"):
        with caught("not reached"):
            run(source, name, 1, 64, out)
    run(source, "kernel_2", 1, 64, out)
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
