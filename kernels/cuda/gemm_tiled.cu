// The matrix product in float32: version 2 of the convolution (conv_plain.cu).
//
//     D[m, n] = act(sum_k A[m, k] B[k, n] + bias[n]);  gemm_problem.cuh says what A and B are
//
// A block of threads computes a tile of TILE_M x TILE_N. Steps from conv_plain.cu to here:
//   - operands come through shared memory, 16 values of k at a time: each is read from memory
//     once per tile, not once per product
//   - a thread holds 8x8 (or 8x4) sums: a 128-bit shared load feeds 16 (or 10) multiplications
//   - the next 16 values of k arrive by cp.async while these are multiplied (before sm_80 the copy
//     is one of loads and stores)
//   - k is split between blocks where tiles are too few; sum_splits adds the parts in a fixed order
// FLOPs: 2 M N K. Any sizes, operands of fewer than 2^30 elements; edges are filled with zeros.
// Tiles: 128x128 (256 threads, 8x8, 3 buffers), 64x64 and 128x32 (128 threads, 8x4, 2 buffers).
#include "gemm.cuh"
#include "gemm_ffma.cuh"

constexpr int PER_THREAD = TILE_N == 128 ? 8 : 4;  // columns of a thread
constexpr int BLOCK = TILE_M * TILE_N / (8 * PER_THREAD);
// 8x8 sums and their factors take some 150 registers: one block on a multiprocessor. It gets a
// third buffer, for which the finished tile needs the room anyway.
constexpr int RESIDENT = TENSOR_CORES && PER_THREAD < 8 ? 4 : 1;
constexpr int STAGES = PER_THREAD < 8 ? 2 : 3;

template <class A, class B>
using Math = Ffma<A, B, 8, PER_THREAD>;
using Tile = Gemm<TILE_M, TILE_N, 16, STAGES, BLOCK, Math>;

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
output(float* y, const float* x, const float* weight, const float* bias,
       const __grid_constant__ Problem problem, int splits, int activation, float slope) {
    Tile::run<Output>(y, x, weight, bias, problem, splits, activation, slope);
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
input_grad(float* gx, const float* grad, const float* weight, const float* bias,
           const __grid_constant__ Problem problem, int splits, int activation, float slope) {
    Tile::run<InputGrad>(gx, grad, weight, bias, problem, splits, activation, slope);
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
weight_grad(float* gw, const float* grad, const float* x, const float* bias,
            const __grid_constant__ Problem problem, int splits, int activation, float slope) {
    Tile::run<WeightGrad>(gw, grad, x, bias, problem, splits, activation, slope);
}
