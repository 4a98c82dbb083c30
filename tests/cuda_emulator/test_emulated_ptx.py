"""Asynchronous copies and tensor-core instructions: layouts against NumPy, and planted bugs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cuda_emulator import build
from cuda_emulator.harness import run

pytestmark = pytest.mark.skipif(build.available() is not None, reason=str(build.available()))
KERNELS = Path(build.__file__).parents[2] / "kernels" / "cuda"

MMA = r"""
#include "ptx.cuh"
// One product by one warp; the fragments are filled as the PTX manual draws them.
extern "C" __global__ void tf32(const float* a, const float* b, float* d)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    const unsigned left[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]),
                              to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])};
    const unsigned right[2] = {to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])};
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
    mma_m16n8k8_tf32(sums, left, right);
    for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}

extern "C" __global__ void bf16(const float* a, const float* b, float* d)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned left[4], right[2];
    for (int i = 0; i < 4; ++i) {
        const float* pair = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        left[i] = pack_bf16(pair[0], pair[1]);
    }
    for (int i = 0; i < 2; ++i) {
        const float* pair = b + (2 * t + 8 * i) * 8 + g;
        right[i] = pack_bf16(pair[0], pair[8]);
    }
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
    mma_m16n8k16_bf16(sums, left, right);
    for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}

extern "C" __global__ void half_a_warp(float* d)
{
    float sums[4] = {0, 0, 0, 0};
    const unsigned left[4] = {0, 0, 0, 0}, right[2] = {0, 0};
    if (threadIdx.x < 16) mma_m16n8k8_tf32(sums, left, right);
    d[threadIdx.x] = sums[0];
}
"""


def _tf32(x):
    bits = x.view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def _bf16(x):
    bits = x.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize(("name", "k", "rounded"), [("tf32", 8, _tf32), ("bf16", 16, _bf16)])
def test_mma_is_the_product_of_rounded_matrices(name, k, rounded):
    rng = np.random.default_rng(k)
    a = rng.standard_normal((16, k), np.float32)
    b = rng.standard_normal((k, 8), np.float32)
    c = rng.standard_normal((16, 8), np.float32)
    expected = rounded(a).astype(float) @ rounded(b).astype(float) + c
    d = c.copy()
    run(MMA, name, 1, 32, a, b, d)
    np.testing.assert_allclose(d, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected - (a.astype(float) @ b + c)).max() > 1e-5  # the inputs were rounded


def test_mma_ignores_the_low_bits_of_tf32():
    source = MMA.replace("to_tf32", "__float_as_uint")
    a = np.full((16, 8), np.float32(1 + 2**-11))
    d = np.zeros((16, 8), np.float32)
    run(source, "tf32", 1, 32, a, np.ones((8, 8), np.float32), d)
    assert (d == 8).all()


def test_mma_needs_the_whole_warp():
    with pytest.raises(build.KernelFault, match=r"mma\.sync"):
        run(MMA, "half_a_warp", 1, 32, np.zeros(32, np.float32))


CONVERT = r"""
#include "ptx.cuh"
extern "C" __global__ void convert(const float* x, unsigned* tf32, unsigned* bf16)
{
    tf32[threadIdx.x] = to_tf32(x[threadIdx.x]);
    bf16[threadIdx.x] = pack_bf16(x[threadIdx.x], 1.0f);
}
"""


def test_conversions_round_as_documented():
    # halves: TF32 away from zero, bf16 to even
    x = np.array([1 + 2**-11, -1 - 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, 3e-39], np.float32)
    tf32, bf16 = np.zeros((2, x.size), np.uint32)
    run(CONVERT, "convert", 1, x.size, x, tf32, bf16)
    rounded = tf32.view(np.float32)
    np.testing.assert_array_equal(rounded[:2], np.float32([1 + 2**-10, -1 - 2**-10]))
    assert rounded[4] == np.inf
    low = (bf16 << np.uint32(16)).view(np.float32)
    np.testing.assert_array_equal(low[2:4], np.float32([1, 1 + 2**-6]))
    assert low[4] == np.inf
    assert ((bf16 & np.uint32(0xFFFF0000)).view(np.float32) == 1).all()


LDMATRIX = r"""
#include "ptx.cuh"
// Matrix m is rows 8m to 8m + 7 of a (32, 8) array of 16-bit numbers.
extern "C" __global__ void fragments(const unsigned short* x, unsigned* plain,
                                     unsigned* transposed)
{
    __shared__ __align__(16) unsigned short tile[32][8];
    for (int i = 0; i < 8; ++i) tile[threadIdx.x][i] = x[threadIdx.x * 8 + i];
    __syncthreads();
    unsigned r[4];
    ldmatrix_x4(r, tile[threadIdx.x]);
    for (int m = 0; m < 4; ++m) plain[threadIdx.x * 4 + m] = r[m];
    ldmatrix_x4_trans(r, tile[threadIdx.x]);
    for (int m = 0; m < 4; ++m) transposed[threadIdx.x * 4 + m] = r[m];
}
"""


def test_ldmatrix_hands_out_rows_and_columns():
    x = np.random.default_rng(0).integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    plain, transposed = np.zeros((2, 32, 4), np.uint32)
    run(LDMATRIX, "fragments", 1, 32, x, plain, transposed)
    for lane in range(32):
        row, column = lane // 4, 2 * (lane % 4)
        for m in range(4):
            pair = x[m, row, column], x[m, row, column + 1]
            assert plain[lane, m] == int(pair[0]) | int(pair[1]) << 16
            pair = x[m, column, row], x[m, column + 1, row]
            assert transposed[lane, m] == int(pair[0]) | int(pair[1]) << 16


def test_ldmatrix_needs_aligned_rows():
    source = LDMATRIX.replace("tile[32][8]", "tile[32][9]")
    with pytest.raises(build.KernelFault, match="misaligned access: ldmatrix, 14 bytes off"):
        run(source, "fragments", 1, 32, *(np.zeros(n, np.uint32) for n in (128, 128, 128)))


# Sums of neighbours, tile by tile, the next tile on its way while this one is used.
PIPELINE = r"""
#include "ptx.cuh"
extern "C" __global__ void neighbours(const float* x, float* y, int tiles, int n)
{
    __shared__ __align__(16) float stage[2][128];
    const int t = threadIdx.x;
    cp_async_16(&stage[0][4 * t], x + 4 * t, 4 * t < n);
    cp_async_commit();
    for (int i = 0; i < tiles; ++i) {
        const int next = 128 * (i + 1) + 4 * t;
        if (i + 1 < tiles) cp_async_16(&stage[(i + 1) % 2][4 * t], x + next, next < n);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();  // everybody's part of this tile is there
        for (int j = 4 * t; j < 4 * t + 4; ++j)
            y[128 * i + j] = stage[i % 2][j] + stage[i % 2][(j + 4) % 128];
        __syncthreads();  // nobody needs this tile any more
    }
}
"""


def _pipeline(source=PIPELINE, options=()):
    x = np.arange(300, dtype=np.float32)
    y = np.empty(384, np.float32)
    run(source, "neighbours", 1, 32, x, y, np.int32(3), np.int32(x.size), options=options)
    padded = np.concatenate([x, np.zeros(84, np.float32)]).reshape(3, 128)
    np.testing.assert_array_equal(y.reshape(3, 128), padded + np.roll(padded, -4, axis=1))


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_asynchronous_copies_arrive(architecture):
    _pipeline(options=(f"-arch={architecture}",))


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("cp_async_wait<1>();", "", "on its way that was not waited for"),
        ("cp_async_wait<1>();", "cp_async_wait<2>();", "on its way that was not waited for"),
        ("cp_async_commit();\n    for", "for", "on its way that was not waited for"),
        ("__syncthreads();  // everybody", "// everybody", "unwritten shared memory|race"),
        ("__syncthreads();  // nobody", "// nobody", "race: write of .*::stage, which thread"),
        ("x + next, next < n", "x + next", "read of 16 bytes, 304 bytes past the end"),
        ("&stage[0][4 * t], x", "&stage[0][4 * t + 1], x", "misaligned access: cp.async"),
        ("&stage[0][4 * t], x", "y + 4 * t, x", "outside shared memory"),
    ],
    ids=["no wait", "late wait", "no commit", "no barrier", "early reuse", "no zero fill",
         "misaligned", "to global"],
)  # fmt: skip
def test_a_wrong_pipeline_is_caught(line, replacement, message):
    assert PIPELINE.count(line) == 1
    with pytest.raises(build.KernelFault, match=message):
        _pipeline(PIPELINE.replace(line, replacement))


def test_copies_of_four_bytes_fill_with_zeros():
    source = r"""
#include "ptx.cuh"
extern "C" __global__ void gather(const int* x, int* y, int n)
{
    __shared__ int tile[32];
    cp_async_4(&tile[threadIdx.x], x + threadIdx.x, threadIdx.x < n);
    cp_async_commit();
    cp_async_wait<0>();
    y[threadIdx.x] = tile[threadIdx.x];  // its own: no barrier needed
}
"""
    y = np.empty(32, np.int32)
    run(source, "gather", 1, 32, np.arange(1, 6, dtype=np.int32), y, np.int32(5))
    np.testing.assert_array_equal(y, [1, 2, 3, 4, 5, *[0] * 27])


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_the_real_wrappers_are_the_instructions_they_name(tmp_path):
    sources = [text.partition("#include")[2] for text in (MMA, CONVERT, LDMATRIX, PIPELINE)]
    text = "\n".join("#include" + source for source in sources)
    (tmp_path / "all.cu").write_text(text.replace('"ptx.cuh"', f'"{KERNELS / "ptx.cuh"}"'))
    command = ["nvcc", "-arch=sm_80", "-ptx", "all.cu", "-o", "all.ptx"]
    subprocess.run(command, cwd=tmp_path, check=True)
    ptx = (tmp_path / "all.ptx").read_text()
    for instruction in (
        "cp.async.cg.shared.global",
        "cp.async.commit_group",
        "cp.async.wait_group 1",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "cvt.rna.tf32.f32",
        "cvt.rn.bf16x2.f32",
    ):
        assert instruction in ptx
