// The matrix product by tensor cores: version 3 of the convolution (conv_plain.cu).
//
//     D[m, n] = act(sum_k A[m, k] B[k, n] + bias[n]);  gemm_problem.cuh says what A and B are
//
// A and B are float32 in memory and in shared memory; registers hold them rounded to TF32 (10 bits
// of mantissa, ARITHMETIC=Tf32) or to bfloat16 (7 bits, ARITHMETIC=Bf16). Products are exact, sums
// float32. Steps from gemm_tiled.cu to here:
//   - mma.sync multiplies 16x8x8 (TF32) or 16x8x16 (bfloat16) with one instruction of a warp
//   - ldmatrix, or 128-bit loads, hand fragments to a warp without bank conflicts
//   - 4 stages of cp.async: 3 x 16 values of k on their way, some 1000 clocks of memory latency
// FLOPs: 2 M N K. Any sizes, operands of fewer than 2^30 elements; edges are filled with zeros.
// Tiles, each of 4 warps: 128x128 (of 64x64), 128x64 (of 64x32), 64x64 and 128x32 (of 32x32); see
// gemm.cuh. Two blocks of 128x128 share a multiprocessor: some 210 registers a thread, 82 KiB each.
#include "gemm.cuh"

#if TENSOR_CORES  // from sm_80 on
#include "gemm_mma.cuh"

constexpr int M_WARPS = TILE_M / (TILE_M == 128 && TILE_N > 32 ? 64 : 32);
constexpr int N_WARPS = TILE_N / (TILE_N == 128 ? 64 : 32);
constexpr int BLOCK = M_WARPS * N_WARPS * WARP;
constexpr int SUMS = TILE_M * TILE_N / BLOCK;  // of a thread: 128, 64 or 32
constexpr int RESIDENT = SUMS == 128 ? 2 : SUMS == 64 ? 3 : 4;  // blocks on a multiprocessor

template <class A, class B>
using Math = Mma<A, B, M_WARPS, N_WARPS, ARITHMETIC>;
using Tile = Gemm<TILE_M, TILE_N, 16, 4, BLOCK, Math>;

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
#endif
