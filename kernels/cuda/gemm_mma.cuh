// Multiplication by tensor cores: a warp makes WARP_M x WARP_N sums.
//
// mma.sync gives lane 4 group + member the words (row group, k = member) of its operands; 16 x 8
// words of A are a[4]: (group, member), (group + 8, member), then both at member + 4.
//
// K-major: ldmatrix hands out 8 rows x 16 bytes just so.
// MN-major: a lane reads 4 neighbouring rows at once, and they become rows of different fragments.
// Rows of a product may be computed in any order; `row` and `column` say which is which.
#pragma once
#include "gemm_problem.cuh"

template <class Block, int COUNT>  // COUNT fragments of 16 rows
struct FragmentsA {
    static __device__ __forceinline__ int row(int f, int half, int group) {
        return Block::K_MAJOR ? f * 16 + half * 8 + group
                              : f / 2 * 32 + group * 4 + f % 2 * 2 + half;
    }

    static __device__ __forceinline__ void read(unsigned (&a)[COUNT][4], const float* block, int k,
                                                int lane) {
        if constexpr (Block::K_MAJOR) {
            const float* from = block + lane % 16 * Block::PITCH + k + lane / 16 * 4;
#pragma unroll
            for (int f = 0; f < COUNT; ++f) ldmatrix_x4(a[f], from + f * 16 * Block::PITCH);
        } else {
            const float* from = block + (k + lane % 4) * Block::PITCH + lane / 4 * 4;
#pragma unroll
            for (int f = 0; f < COUNT; f += 2) {
                const float* low = from + f * 16;
                const float* high = low + 4 * Block::PITCH;
                const uint4 v = *reinterpret_cast<const uint4*>(low);
                const uint4 w = *reinterpret_cast<const uint4*>(high);
                a[f][0] = v.x, a[f][1] = v.y, a[f][2] = w.x, a[f][3] = w.y;
                a[f + 1][0] = v.z, a[f + 1][1] = v.w, a[f + 1][2] = w.z, a[f + 1][3] = w.w;
            }
        }
    }
};

template <class Block, int COUNT>  // COUNT fragments of 8 columns
struct FragmentsB {
    static __device__ __forceinline__ int column(int f, int position) {
        return Block::K_MAJOR ? f * 8 + position : f / 4 * 32 + position * 4 + f % 4;
    }

    static __device__ __forceinline__ void read(unsigned (&b)[COUNT][2], const float* block, int k,
                                                int lane) {
        if constexpr (Block::K_MAJOR) {
            const int row = lane / 16 * 8 + lane % 8;
            const float* from = block + row * Block::PITCH + k + lane / 8 % 2 * 4;
#pragma unroll
            for (int f = 0; f < COUNT; f += 2) {
                unsigned v[4];
                ldmatrix_x4(v, from + f * 8 * Block::PITCH);
                b[f][0] = v[0], b[f][1] = v[1], b[f + 1][0] = v[2], b[f + 1][1] = v[3];
            }
        } else {
            const float* from = block + (k + lane % 4) * Block::PITCH + lane / 4 * 4;
#pragma unroll
            for (int f = 0; f < COUNT; f += 4) {
                const float* low = from + f * 8;
                const float* high = low + 4 * Block::PITCH;
                const uint4 v = *reinterpret_cast<const uint4*>(low);
                const uint4 w = *reinterpret_cast<const uint4*>(high);
                b[f][0] = v.x, b[f + 1][0] = v.y, b[f + 2][0] = v.z, b[f + 3][0] = v.w;
                b[f][1] = w.x, b[f + 1][1] = w.y, b[f + 2][1] = w.z, b[f + 3][1] = w.w;
            }
        }
    }
};

// sums += A B over DEPTH values of k. Words of float32 are rounded to nearest: the tensor core would
// cut off the bits that it doesn't read, and sums of cut numbers drift.
struct Tf32 {
    static constexpr int DEPTH = 8;

    template <class Rows, class Columns, int M, int N>
    static __device__ __forceinline__ void step(float (&sums)[M][N][4], const float* a_block,
                                                const float* b_block, int k, int lane) {
        unsigned a[M][4], b[N][2];
        Rows::read(a, a_block, k, lane);
        Columns::read(b, b_block, k, lane);
        round(a);
        round(b);
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) mma_m16n8k8_tf32(sums[i][j], a[i], b[j]);
    }

    template <int COUNT, int WORDS>
    static __device__ __forceinline__ void round(unsigned (&values)[COUNT][WORDS]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
#pragma unroll
            for (int w = 0; w < WORDS; ++w) values[i][w] = to_tf32(__uint_as_float(values[i][w]));
    }
};

// A bfloat16 fragment holds pairs of neighbours in k, 16 deep. Two float32 fragments of 8 give the
// pairs (member, member + 4) instead: the same permutation of k in A and in B, so the same sum.
struct Bf16 {
    static constexpr int DEPTH = 16;

    template <class Rows, class Columns, int M, int N>
    static __device__ __forceinline__ void step(float (&sums)[M][N][4], const float* a_block,
                                                const float* b_block, int k, int lane) {
        unsigned a[M][4], b[N][2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned words_a[M][4], words_b[N][2];
            Rows::read(words_a, a_block, k + half * 8, lane);
            Columns::read(words_b, b_block, k + half * 8, lane);
#pragma unroll
            for (int i = 0; i < M; ++i) {
                a[i][half * 2] = pair(words_a[i][0], words_a[i][2]);
                a[i][half * 2 + 1] = pair(words_a[i][1], words_a[i][3]);
            }
#pragma unroll
            for (int j = 0; j < N; ++j) b[j][half] = pair(words_b[j][0], words_b[j][1]);
        }
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) mma_m16n8k16_bf16(sums[i][j], a[i], b[j]);
    }

    static __device__ __forceinline__ unsigned pair(unsigned low, unsigned high) {
        return pack_bf16(__uint_as_float(low), __uint_as_float(high));
    }
};

template <class A, class B, int M_WARPS, int N_WARPS, class Arithmetic>
struct Mma {
    static constexpr int THREADS = M_WARPS * N_WARPS * WARP;
    static constexpr int WARP_M = A::ROWS / M_WARPS, WARP_N = B::ROWS / N_WARPS;
    static constexpr int M = WARP_M / 16, N = WARP_N / 8;
    static_assert(WARP_M % 32 == 0 && WARP_N % 32 == 0, "a lane reads 4 rows in each of 8 groups");
    using Rows = FragmentsA<A, M>;
    using Columns = FragmentsB<B, N>;
    float sums[M][N][4] = {};
    const int lane = threadIdx.x % WARP;
    const int warp_m = threadIdx.x / WARP / N_WARPS * WARP_M;
    const int warp_n = threadIdx.x / WARP % N_WARPS * WARP_N;

    __device__ __forceinline__ void multiply(const float* a_block, const float* b_block) {
        a_block += warp_m * (A::K_MAJOR ? A::PITCH : 1);
        b_block += warp_n * (B::K_MAJOR ? B::PITCH : 1);
#pragma unroll
        for (int k = 0; k < A::DEPTH; k += Arithmetic::DEPTH)
            Arithmetic::template step<Rows, Columns>(sums, a_block, b_block, k, lane);
    }

    __device__ __forceinline__ void write(float* tile, int pitch) const {
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    const int m = warp_m + Rows::row(i, c / 2, lane / 4);
                    const int n = warp_n + Columns::column(j, lane % 4 * 2 + c % 2);
                    tile[m * pitch + n] = sums[i][j][c];
                }
    }
};
