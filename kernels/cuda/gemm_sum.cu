// The second pass of a product whose k was split between blocks.
//
//     out[i] = act(sum_s parts[s][i] + bias[i % columns])
//
// parts (splits, size), out (size). Bytes: 4 (splits + 1) size, of which the parts were written a
// moment ago and mostly still lie in the L2 cache; FLOPs: splits * size. The order of the sum is
// fixed, so the result has the same bits every time; adding with atomics would not.
//
// One version, any size: 32 neighbours are summed by 8 warps, each of which takes every 8th split.
// A small output with 256 splits has too few elements to hide 256 loads one after the other.
#include "gemm.cuh"

constexpr int SHARES = 8;

extern "C" __global__ void __launch_bounds__(WARP * SHARES)
sum_splits(float* out, const float* parts, const float* bias, int splits, long long size,
           int columns, int activation, float slope) {
    __shared__ float shares[SHARES][WARP];
    const long long step = (long long)gridDim.x * WARP;
    for (long long first = blockIdx.x * (long long)WARP; first < size; first += step) {
        const long long i = first + threadIdx.x;
        float sum = 0;
        if (i < size)
            for (int s = threadIdx.y; s < splits; s += SHARES) sum += parts[s * size + i];
        shares[threadIdx.y][threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.y == 0 && i < size) {
            for (int y = 1; y < SHARES; ++y) sum += shares[y][threadIdx.x];
            if (bias) sum += bias[i % columns];
            out[i] = activate(sum, activation, slope);
        }
        __syncthreads();  // the next round writes the shares
    }
}
