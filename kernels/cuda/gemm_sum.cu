// The second pass of a product whose k was split between blocks.
//
//     out[i] = act(sum_s parts[s][i] + bias[i % columns])
//
// parts (splits, size), out (size). Bytes: 4 (splits + 1) size, of which the parts were written a
// moment ago and mostly still lie in the L2 cache; FLOPs: splits * size. The order of the sum is
// fixed, so the result has the same bits every time; adding with atomics would not.
// One version: neighbouring threads read neighbours. Any size.
#include "gemm.cuh"

extern "C" __global__ void sum_splits(float* out, const float* parts, const float* bias,
                                      int splits, long long size, int columns, int activation,
                                      float slope) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += step) {
        float sum = parts[i];
        for (int s = 1; s < splits; ++s) sum += parts[s * size + i];
        if (bias) sum += bias[i % columns];
        out[i] = activate(sum, activation, slope);
    }
}
