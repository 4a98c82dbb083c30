// Running sums y_i = Σ_{j<=i} x_j along the middle axis of (outer, n, inner).
//
// A load, an addition and a store per element (8 bytes in float): bound by memory where there is
// enough work side by side.
//
// Versions
//   1. cumsum_lines: a thread a line. Neighbouring threads touch neighbours in memory if inner is
//      large; best with many lines.
//   2. cumsum_block: a block a line, THREADS elements at a time: a scan within each warp by
//      shuffles, the warps' totals through shared memory, the sum so far carried along. For few
//      long lines, above all along the last axis, where it loads neighbours.
#include "common.cuh"

constexpr int THREADS = 256;  // of a block of cumsum_block

extern "C" __global__ void cumsum_lines(
    long long outer, long long n, long long inner, const REAL* x, REAL* y
) {
    const long long line = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (line >= outer * inner) return;
    const long long start = line / inner * n * inner + line % inner;
    REAL sum = 0;
    for (long long i = 0; i < n; i++) {
        sum += x[start + i * inner];
        y[start + i * inner] = sum;
    }
}

extern "C" __global__ void cumsum_block(
    long long outer, long long n, long long inner, const REAL* x, REAL* y
) {
    __shared__ REAL totals[THREADS / WARP];
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    const long long line = blockIdx.x;
    const long long start = line / inner * n * inner + line % inner;
    REAL carry = 0;
    for (long long first = 0; first < n; first += THREADS) {
        const long long i = first + threadIdx.x;
        REAL sum = i < n ? x[start + i * inner] : 0;
        for (int distance = 1; distance < WARP; distance *= 2) {
            const REAL before = __shfl_up_sync(FULL_WARP, sum, distance);
            if (lane >= distance) sum += before;
        }
        if (lane == WARP - 1) totals[warp] = sum;
        __syncthreads();
        REAL before = carry;
        for (int w = 0; w < THREADS / WARP; w++) {
            if (w == warp) before = carry;  // what came before this warp
            carry += totals[w];
        }
        __syncthreads();  // nobody writes the totals before everybody has read them
        if (i < n) y[start + i * inner] = before + sum;
    }
}
