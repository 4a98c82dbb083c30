// Multiplication in float32: every thread keeps M x N sums in its registers.
#pragma once
#include "gemm_load.cuh"

constexpr int STEP = 4;  // values of k that a thread reads at once: 128 bits

// The rows of a block that a thread takes, COUNT of them, 4 read at a time. Of K-major blocks each
// is read by 128 bits along k, and neighbouring threads take neighbours. Of MN-major blocks 4
// neighbours are read by 128 bits, for each k.
template <class Block, int COUNT>
struct Lines {
    static constexpr int THREADS = Block::ROWS / COUNT;  // along this side of the tile

    static __device__ __forceinline__ int row(int thread, int i) {
        return Block::K_MAJOR ? thread + i * THREADS : (i / 4 * THREADS + thread) * 4 + i % 4;
    }

    // values[i][kk] of the lines first ... first + 3.
    static __device__ __forceinline__ void read(float (*values)[STEP], const float* block,
                                                int thread, int first, int k) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const float* from = Block::K_MAJOR
                                    ? block + row(thread, first + r) * Block::PITCH + k
                                    : block + (k + r) * Block::PITCH + row(thread, first);
            const float4 v = *reinterpret_cast<const float4*>(from);
            const float words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int w = 0; w < 4; ++w) (Block::K_MAJOR ? values[r][w] : values[w][r]) = words[w];
        }
    }
};

// For 4 values of k a thread reads M + N times 128 bits and makes 4 M N multiplications: 8x8 needs
// one 128-bit load for 16 of them.
template <class A, class B, int M, int N>
struct Ffma {
    using Rows = Lines<A, M>;
    using Columns = Lines<B, N>;
    float sums[M][N] = {};
    const int thread_m = threadIdx.x / Columns::THREADS;
    const int thread_n = threadIdx.x % Columns::THREADS;

    __device__ __forceinline__ void multiply(const float* a_block, const float* b_block) {
#pragma unroll 1  // unrolled, the next loads come early and their registers spill
        for (int k = 0; k < A::DEPTH; k += STEP) {
            float a[M][STEP];
#pragma unroll
            for (int i = 0; i < M; i += 4) Rows::read(a + i, a_block, thread_m, i, k);
#pragma unroll
            for (int j = 0; j < N; j += 4) {
                float b[4][STEP];
                Columns::read(b, b_block, thread_n, j, k);
#pragma unroll
                for (int kk = 0; kk < STEP; ++kk)
#pragma unroll
                    for (int i = 0; i < M; ++i)
#pragma unroll
                        for (int c = 0; c < 4; ++c) sums[i][j + c] += a[i][kk] * b[c][kk];
            }
        }
    }

    __device__ __forceinline__ void write(float* tile, int pitch) const {
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j)
                tile[Rows::row(thread_m, i) * pitch + Columns::row(thread_n, j)] = sums[i][j];
    }
};
