// The pipeline of every matrix product: blocks of A and B flow through shared memory while the
// block before them is multiplied, and whole lines of the output leave it at the end.
//
// What limits a tile of M x N, per step of 16 values of k, on an H100 at 600 TF32 products a clock
// (mma.sync reaches some 60 % of what wgmma does):
//                                   128x128   128x64   64x64   128x32
//   products, in clocks                 437      218     109      109
//   shared memory, in clocks            384      288     192      208    at 128 bytes a clock
//     of which written                  128       96      64       80
//     and read by warps of            64x64    64x32   32x32    32x32
//   FLOPs per byte from L2               32       21      16       13
// So the small tiles wait for shared memory, and a larger tile is better wherever there are enough
// of them: an H100 has 132 multiprocessors. `choose` in gemm.py weighs that, and splits k where
// even small tiles are too few. Operands are float32 up to the registers: bfloat16 saves tensor
// core time but no bandwidth, so it can gain only what the first two rows leave.
#pragma once
#include "gemm_load.cuh"

enum Activation { IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID };

template <typename T>
__device__ __forceinline__ T activate(T x, int activation, T slope) {
    switch (activation) {
        case RELU: return x > 0 || x != x ? x : T(0);  // NaN stays
        case LEAKY_RELU: return x > 0 ? x : slope * x;
        case TANH: return tanh(x);
        case SIGMOID: return 1 / (1 + exp(-x));
        default: return x;
    }
}

// What the three products differ in: how their operands lie, and what their rows are.
struct Output {
    template <class Tile> using A = GatheredRows<typename Tile::RowsA>;
    template <class Tile> using B = WeightRows<typename Tile::RowsB>;
    static constexpr bool PIXEL_ROWS = true;
};

struct InputGrad {
    template <class Tile> using A = GatheredRows<typename Tile::RowsA>;
    template <class Tile> using B = Columns<typename Tile::ColumnsB, true>;
    static constexpr bool PIXEL_ROWS = true;
};

struct WeightGrad {
    template <class Tile> using A = Columns<typename Tile::ColumnsA, false>;
    template <class Tile> using B = GatheredColumns<typename Tile::ColumnsB>;
    static constexpr bool PIXEL_ROWS = false;
};

// STAGES blocks of A and B in shared memory: one is multiplied while the others fill. A group of
// copies is committed every step, even an empty one, so that "all but the last STAGES - 2" always
// means the block that comes next. One barrier a step: it says both that the block has arrived for
// all threads and that everybody has read the one that is overwritten next.
template <int STAGES, class LoadA, class LoadB, class Math>
__device__ __forceinline__ void stream(Math& math, float* shared, const LoadA& load_a,
                                       const LoadB& load_b, const float* a, const float* b,
                                       const Problem& p, const Phase& phase, int begin, int end) {
    constexpr int STAGE = LoadA::WORDS + LoadB::WORDS;
    constexpr int DEPTH = LoadA::DEPTH;
    const auto stage_of = [&](int k) { return shared + (unsigned)k / DEPTH % STAGES * STAGE; };
    const auto fill = [&](int k) {
        if (k < end) {
            load_a.load(stage_of(k), a, p, phase, k, end);
            load_b.load(stage_of(k) + LoadA::WORDS, b, p, phase, k, end);
        }
        cp_async_commit();
    };
#pragma unroll 1
    for (int ahead = 0; ahead < STAGES - 1; ++ahead) fill(begin + ahead * DEPTH);
#pragma unroll 1
    for (int k = begin; k < end; k += DEPTH) {  // begin is a multiple of DEPTH
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fill(k + (STAGES - 1) * DEPTH);
        math.multiply(stage_of(k), stage_of(k) + LoadA::WORDS);
    }
    cp_async_wait<0>();
    __syncthreads();
}

// Where a row of the output begins.
template <bool PIXEL_ROWS>
__device__ __forceinline__ long long row_offset(const Problem& p, const Phase& phase, int m) {
    if (!PIXEL_ROWS) return (long long)m * p.out_image;
    const int image = divide(m, phase.image);
    const int within = m - image * (int)phase.image.divisor;
    const int i = divide(within, phase.line);
    const int j = within - i * (int)phase.line.divisor;
    return (long long)image * p.out_image + phase.out_first + i * p.out_line + j * p.out_pixel;
}

// The sums of a tile, in shared memory, go out by rows: neighbouring threads store neighbours, and
// by 16 bytes where rows begin at multiples of that (all steps of the output are multiples of n).
template <class Tile, bool PIXEL_ROWS>
__device__ __forceinline__ void store(const float* tile, float* out, const float* bias,
                                      const Problem& p, const Phase& phase, int first_m,
                                      int first_n, int activation, float slope) {
    constexpr int ACROSS = Tile::N / 4;
    const int column = threadIdx.x % ACROSS * 4;
    const int n = first_n + column;
    const int rows = PIXEL_ROWS ? phase.pixels : p.m;
    float shift[4];
    for (int c = 0; c < 4; ++c) shift[c] = bias && n + c < p.n ? bias[n + c] : 0;
    for (int m = threadIdx.x / ACROSS; m < Tile::M; m += Tile::THREADS / ACROSS) {
        if (first_m + m >= rows || n >= p.n) return;
        float4 v = *reinterpret_cast<const float4*>(tile + m * Tile::OUT_PITCH + column);
        v.x = activate(v.x + shift[0], activation, slope);
        v.y = activate(v.y + shift[1], activation, slope);
        v.z = activate(v.z + shift[2], activation, slope);
        v.w = activate(v.w + shift[3], activation, slope);
        float* target = out + row_offset<PIXEL_ROWS>(p, phase, first_m + m) + n;
        if (p.n % 4 == 0) {
            *reinterpret_cast<float4*>(target) = v;
        } else {
            const float values[4] = {v.x, v.y, v.z, v.w};
            for (int c = 0; c < min(4, p.n - n); ++c) target[c] = values[c];
        }
    }
}

extern __shared__ float4 shared_memory[];

// A tile of M x N, DEPTH values of k a step, STAGES steps in flight. Math<A, B> multiplies.
// A block's shared memory holds the pipeline, then the tile of sums: gemm.py asks for the larger.
template <int M_, int N_, int DEPTH, int STAGES, int THREADS_, template <class, class> class Math>
struct Gemm {
    static constexpr int M = M_, N = N_, THREADS = THREADS_;
    static constexpr int OUT_PITCH = N + 4;  // spreads the rows of a fragment over the banks
    using RowsA = KMajor<M, DEPTH, THREADS>;
    using RowsB = KMajor<N, DEPTH, THREADS>;
    using ColumnsA = MNMajor<M, DEPTH, THREADS>;
    using ColumnsB = MNMajor<N, DEPTH, THREADS>;

    // Block of threads = one tile of one split of one phase of one product of the batch. Columns
    // vary fastest: blocks that run together share their rows of A in L2.
    template <class Kind>
    static __device__ __forceinline__ void run(float* out, const float* a, const float* b,
                                               const float* bias, const Problem& p, int splits,
                                               int activation, float slope) {
        using LoadA = typename Kind::template A<Gemm>;
        using LoadB = typename Kind::template B<Gemm>;
        const int tiles_n = (p.n + N - 1) / N;
        const int tiles_m = ((Kind::PIXEL_ROWS ? p.most_pixels : p.m) + M - 1) / M;
        const int first_n = blockIdx.x % tiles_n * N;
        const int first_m = blockIdx.x / tiles_n % tiles_m * M;
        const int rest = blockIdx.x / tiles_n / tiles_m;
        const Phase& phase = p.phase[rest % p.phases];
        const int split = rest / p.phases % splits;
        const int product = rest / p.phases / splits;
        if (Kind::PIXEL_ROWS && first_m >= phase.pixels) return;

        const int depth =
            Kind::PIXEL_ROWS ? phase.taps * (int)p.channels.divisor : phase.pixels;
        const int each = ((depth + DEPTH - 1) / DEPTH + splits - 1) / splits * DEPTH;
        const int begin = min(split * each, depth);
        const int end = min(begin + each, depth);
        const int outer = product / p.batch_inner;
        const int inner = product % p.batch_inner;
        const int a_base = outer * p.a_outer + inner * p.a_inner;
        const int b_base = outer * p.b_outer + inner * p.b_inner;
        out += ((long long)split * p.batch + product) * p.out_size;

        float* shared = reinterpret_cast<float*>(shared_memory);
        Math<LoadA, LoadB> math;
        stream<STAGES>(math, shared, LoadA(p, phase, first_m, a_base),
                       LoadB(p, phase, first_n, b_base), a, b, p, phase, begin, end);
        math.write(shared, OUT_PITCH);
        __syncthreads();
        store<Gemm, Kind::PIXEL_ROWS>(shared, out, bias, p, phase, first_m, first_n, activation,
                                      slope);
    }
};
