// The matrix product in float32: version 2 of the convolution (conv_plain.cu) and of plain products.
//
//     D[m, n] = act(sum_k A[m, k] B[k, n] + bias[n]);  gemm_problem.cuh says what A and B are
//
// A block of threads computes a tile of TILE_M x TILE_N. Steps from conv_plain.cu to here:
//   - operands come through shared memory, 16 values of k at a time: each is read from memory
//     once per tile, not once per product
//   - a thread holds 8 x 8 (or 8 x 4) sums: one 128-bit shared load feeds 16 (or 10) multiplications
//   - the next 16 values of k arrive by cp.async while these are multiplied (two buffers; before
//     sm_80 the copy waits)
//   - k is split between blocks where tiles are too few; sum_splits adds the parts in a fixed order
// FLOPs: 2 M N K. Any sizes below 2^31 elements an operand; edges are filled with zeros.
// Tiles: 128x128 (256 threads, 8x8), 64x64 (128, 8x4), 128x32 (128, 8x4), 2 stages.
#include "gemm.cuh"
#include "gemm_ffma.cuh"

constexpr int PER_THREAD = TILE_N == 128 ? 8 : 4;  // columns of a thread
constexpr int BLOCK = TILE_M * TILE_N / (8 * PER_THREAD);
constexpr int RESIDENT = TENSOR_CORES ? 512 / BLOCK : 1;  // blocks on a multiprocessor: 128 registers

template <class A, class B>
using Math = Ffma<A, B, 8, PER_THREAD>;
using Tile = Gemm<TILE_M, TILE_N, 16, 2, BLOCK, Math>;

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
