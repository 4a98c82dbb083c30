// Multiplication by tensor cores: a warp makes WARP_M x WARP_N sums.
//
// mma.sync gives lane 4 group + member the words (row group, k = member) of its operands; 16 x 8
// words of A are a[4]: (group, member), (group + 8, member), then both at member + 4.
//
// K-major: ldmatrix hands out 8 rows x 16 bytes just so.
// MN-major: a lane reads 4 neighbouring rows at once, and they become rows of different fragments.
// Rows of a product may be computed in any order; `row` and `column` say which is which.
#pragma once
#include "gemm_load.cuh"

__device__ __forceinline__ void read_128_bits(unsigned (&words)[4], const float* from) {
    const uint4 v = *reinterpret_cast<const uint4*>(from);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

template <class Block>
struct FragmentsA {  // of 16 rows, 2 read at a time
    static __device__ __forceinline__ int row(int f, int half, int group) {
        return Block::K_MAJOR ? f * 16 + half * 8 + group
                              : f / 2 * 32 + group * 4 + f % 2 * 2 + half;
    }

    static __device__ __forceinline__ void read(unsigned (&a)[2][4], const float* block, int f,
                                                int k, int lane) {
        if constexpr (Block::K_MAJOR) {
            const float* from = block + (f * 16 + lane % 16) * Block::PITCH + k + lane / 16 * 4;
            ldmatrix_x4(a[0], from);
            ldmatrix_x4(a[1], from + 16 * Block::PITCH);
        } else {
            const float* from = block + (k + lane % 4) * Block::PITCH + f * 16 + lane / 4 * 4;
            unsigned low[4], high[4];  // of k: member, member + 4
            read_128_bits(low, from);
            read_128_bits(high, from + 4 * Block::PITCH);
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                a[w / 2][w % 2] = low[w];
                a[w / 2][w % 2 + 2] = high[w];
            }
        }
    }
};

template <class Block>
struct FragmentsB {  // of 8 columns, 4 read at a time
    static __device__ __forceinline__ int column(int f, int position) {
        return Block::K_MAJOR ? f * 8 + position : f / 4 * 32 + position * 4 + f % 4;
    }

    static __device__ __forceinline__ void read(unsigned (*b)[2], const float* block, int f, int k,
                                                int lane) {
        if constexpr (Block::K_MAJOR) {
            const int row = f * 8 + lane / 16 * 8 + lane % 8;
            const float* from = block + row * Block::PITCH + k + lane / 8 % 2 * 4;
#pragma unroll
            for (int pair = 0; pair < 4; pair += 2) {
                unsigned v[4];
                ldmatrix_x4(v, from + pair * 8 * Block::PITCH);
#pragma unroll
                for (int w = 0; w < 4; ++w) b[pair + w / 2][w % 2] = v[w];
            }
        } else {
            const float* from = block + (k + lane % 4) * Block::PITCH + f * 8 + lane / 4 * 4;
            unsigned low[4], high[4];
            read_128_bits(low, from);
            read_128_bits(high, from + 4 * Block::PITCH);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                b[j][0] = low[j];
                b[j][1] = high[j];
            }
        }
    }
};

// How words of float32 become what the tensor core multiplies. TF32: rounded to nearest; the core
// would cut off the bits that it doesn't read, and sums of cut numbers drift.
struct Tf32 {
    static constexpr int DEPTH = 8;

    template <class Rows>
    static __device__ __forceinline__ void read_a(unsigned (&a)[2][4], const float* block, int f,
                                                  int k, int lane) {
        Rows::read(a, block, f, k, lane);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int w = 0; w < 4; ++w) a[i][w] = to_tf32(__uint_as_float(a[i][w]));
    }

    template <class Columns>
    static __device__ __forceinline__ void read_b(unsigned (*b)[2], const float* block, int f,
                                                  int k, int lane) {
        Columns::read(b, block, f, k, lane);
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int w = 0; w < 2; ++w) b[j][w] = to_tf32(__uint_as_float(b[j][w]));
    }

    static __device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        mma_m16n8k8_tf32(sums, a, b);
    }
};

// A bfloat16 fragment holds pairs of neighbours in k, 16 deep. Two float32 fragments of 8 give the
// pairs (member, member + 4) instead: the same permutation of k in A and in B, so the same sum.
struct Bf16 {
    static constexpr int DEPTH = 16;

    static __device__ __forceinline__ unsigned pair(unsigned low, unsigned high) {
        return pack_bf16(__uint_as_float(low), __uint_as_float(high));
    }

    template <class Rows>
    static __device__ __forceinline__ void read_a(unsigned (&a)[2][4], const float* block, int f,
                                                  int k, int lane) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned words[2][4];
            Rows::read(words, block, f, k + half * 8, lane);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                a[i][half * 2] = pair(words[i][0], words[i][2]);
                a[i][half * 2 + 1] = pair(words[i][1], words[i][3]);
            }
        }
    }

    template <class Columns>
    static __device__ __forceinline__ void read_b(unsigned (*b)[2], const float* block, int f,
                                                  int k, int lane) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned words[4][2];
            Columns::read(words, block, f, k + half * 8, lane);
#pragma unroll
            for (int j = 0; j < 4; ++j) b[j][half] = pair(words[j][0], words[j][1]);
        }
    }

    static __device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        mma_m16n8k16_bf16(sums, a, b);
    }
};

template <class A, class B, int M_WARPS, int N_WARPS, class Arithmetic>
struct Mma {
    static constexpr int THREADS = M_WARPS * N_WARPS * WARP;
    static constexpr int WARP_M = A::ROWS / M_WARPS, WARP_N = B::ROWS / N_WARPS;
    static constexpr int M = WARP_M / 16, N = WARP_N / 8;
    static_assert(WARP_M % 32 == 0 && WARP_N % 32 == 0, "a lane reads 4 rows in each of 8 groups");
    using Rows = FragmentsA<A>;
    using Columns = FragmentsB<B>;
    float sums[M][N][4] = {};
    const int lane = threadIdx.x % WARP;
    const int warp_m = threadIdx.x / WARP / N_WARPS * WARP_M;
    const int warp_n = threadIdx.x / WARP % N_WARPS * WARP_N;

    __device__ __forceinline__ void multiply(const float* a_block, const float* b_block) {
        a_block += warp_m * (A::K_MAJOR ? A::PITCH : 1);
        b_block += warp_n * (B::K_MAJOR ? B::PITCH : 1);
#pragma unroll
        for (int k = 0; k < A::DEPTH; k += Arithmetic::DEPTH)
            step(a_block, b_block, k);
    }

    __device__ __forceinline__ void step(const float* a_block, const float* b_block, int k) {
        unsigned b[N][2];
#pragma unroll
        for (int j = 0; j < N; j += 4)
            Arithmetic::template read_b<Columns>(b + j, b_block, j, k, lane);
#pragma unroll
        for (int i = 0; i < M; i += 2) {
            unsigned a[2][4];
            Arithmetic::template read_a<Rows>(a, a_block, i, k, lane);
#pragma unroll
            for (int j = 0; j < 2 * N; ++j)
                Arithmetic::multiply(sums[i + j / N][j % N], a[j / N], b[j % N]);
        }
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
