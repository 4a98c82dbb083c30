// How blocks of the operands come into shared memory: a loader for each kind of operand.
//
// In shared memory an operand lies as in memory, because cp.async copies but can't transpose:
//   K-major    [row][k], padded by 4 words. 8 rows x 16 bytes (an ldmatrix, or a phase of 128-bit
//              loads) start at multiples of 20 words: 0, 20, 8, 28, 16, 4, 24, 12 (mod 32), so they
//              meet all 32 banks once.
//   MN-major   [k][row], padded by 8 words. 4 values of k x 2 of 4 words start at 0, 8, 16, 24 and
//              4, 12, 20, 28 (mod 32): again every bank once.
#pragma once
#include "common.cuh"
#include "gemm_problem.cuh"
#include "ptx.cuh"

// 4 words, or 1, to shared memory while the block goes on; zeros where nothing is.
template <int WORDS>
__device__ __forceinline__ void copy_async(float* shared, const float* global, bool inside) {
    if constexpr (WORDS == 4)
        cp_async_16(shared, global, inside);
    else
        cp_async_4(shared, global, inside);
}

// A loader copies a block of ROWS x DEPTH values of its operand, from the row `first` and from the
// element `base` of its array on. Arrays have fewer than 2^30 elements: offsets fit 32 bits.
// Every thread copies chunks of 4 words that are neighbours in memory. Where they can't be read by
// 16 bytes (3 channels, an odd address) the words of a chunk are looked up and copied one by one:
// slower, never wrong. The chunks of a thread share their column (K-major) or their row (MN-major),
// so that one look-up a step serves them all, and 4 threads or more read neighbouring chunks.
template <int ROWS_, int DEPTH_, int THREADS>
struct KMajor {
    static constexpr int ROWS = ROWS_, DEPTH = DEPTH_;
    static constexpr int PITCH = DEPTH + 4;
    static constexpr int WORDS = ROWS * PITCH;
    static constexpr bool K_MAJOR = true;
    static constexpr int ACROSS = DEPTH / 4;          // threads along k
    static constexpr int DOWN = THREADS / ACROSS;     // rows copied at the same time
    static constexpr int CHUNKS = ROWS / DOWN;        // of a thread
    static_assert(DEPTH == 16 && DOWN % 8 == 0 && ROWS % DOWN == 0, "tile");

    // 8 threads store 128 bits at the same time, 2 rows of 16 words: rows 0 and 4, 1 and 5, ... are
    // 16 banks apart, rows 0 and 1 would share 4.
    static __device__ __forceinline__ int row_of_thread() {
        const int slot = threadIdx.x / ACROSS;
        return slot / 8 * 8 + slot % 2 * 4 + slot % 8 / 2;
    }
};

template <int ROWS_, int DEPTH_, int THREADS>
struct MNMajor {
    static constexpr int ROWS = ROWS_, DEPTH = DEPTH_;
    static constexpr int PITCH = ROWS + 8;
    static constexpr int WORDS = DEPTH * PITCH;
    static constexpr bool K_MAJOR = false;
    static constexpr int ACROSS = THREADS / DEPTH;    // threads along the row of one k
    static constexpr int CHUNKS = ROWS / 4 / ACROSS;  // of a thread
    static_assert(THREADS % DEPTH == 0 && CHUNKS * ACROSS * 4 == ROWS, "tile");
};

// Pixels x (tap, channel), contiguous in k: A of the output and of the input gradient.
template <class Layout>
struct GatheredRows : Layout {
    Corner corners[Layout::CHUNKS];
    const int row, column;

    __device__ GatheredRows(const Problem& p, const Phase& phase, int first, int base)
        : row(Layout::row_of_thread()), column(threadIdx.x % Layout::ACROSS * 4) {
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i) {
            corners[i] = corner_of(p, phase, first + row + i * Layout::DOWN);
            corners[i].offset += base;
        }
    }

    template <int WIDTH>
    __device__ void copy(float* block, const float* data, const Problem& p, const Phase& phase,
                         int k0, int end, int word) const {
        const int k = k0 + word;
        const int tap_index = divide(k, p.channels);
        const bool exists = k < end;
        const Tap tap = p.taps[exists ? phase.first_tap + tap_index : 0];
        const int shift = tap.dh * p.line_step + tap.dw * p.pixel_step + k -
                          tap_index * (int)p.channels.divisor;
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i) {
            const bool inside = exists && (unsigned)(corners[i].h + tap.dh) < (unsigned)p.height &&
                                (unsigned)(corners[i].w + tap.dw) < (unsigned)p.width;
            copy_async<WIDTH>(block + (row + i * Layout::DOWN) * Layout::PITCH + word,
                              inside ? data + corners[i].offset + shift : data, inside);
        }
    }

    __device__ void load(float* block, const float* data, const Problem& p, const Phase& phase,
                         int k0, int end) const {
        if (p.a_aligned) return copy<4>(block, data, p, phase, k0, end, column);
#pragma unroll 1
        for (int word = column; word < column + 4; ++word)
            copy<1>(block, data, p, phase, k0, end, word);
    }
};

// Rows of W, contiguous in k: B of the output.
template <class Layout>
struct WeightRows : Layout {
    const int first, base, row, column;

    __device__ WeightRows(const Problem&, const Phase&, int first, int base)
        : first(first), base(base), row(Layout::row_of_thread()),
          column(threadIdx.x % Layout::ACROSS * 4) {}

    template <int WIDTH>
    __device__ void copy(float* block, const float* data, const Problem& p, int k0, int end,
                         int word) const {
        const int k = k0 + word;
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i) {
            const int o = first + row + i * Layout::DOWN;
            const bool inside = k < end && o < p.n;
            copy_async<WIDTH>(block + (row + i * Layout::DOWN) * Layout::PITCH + word,
                              inside ? data + base + o * p.other_step + k : data, inside);
        }
    }

    __device__ void load(float* block, const float* data, const Problem& p, const Phase&, int k0,
                         int end) const {
        if (p.b_aligned) return copy<4>(block, data, p, k0, end, column);
#pragma unroll 1
        for (int word = column; word < column + 4; ++word)
            copy<1>(block, data, p, k0, end, word);
    }
};

// (tap, row of W) x columns of W, contiguous in n: B of the input gradient.
// Without taps, the rows of g as they lie: A of the weight gradient.
template <class Layout, bool TAPS>
struct Columns : Layout {
    const int first, base, row, column;

    __device__ Columns(const Problem&, const Phase&, int first, int base)
        : first(first), base(base), row(threadIdx.x / Layout::ACROSS),
          column(threadIdx.x % Layout::ACROSS * 4) {}

    template <int WIDTH>
    __device__ void copy(float* line, const float* source, bool exists, int count,
                         int word) const {
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i) {
            const int at = word + i * Layout::ACROSS * 4;
            const bool inside = exists && first + at < count;
            copy_async<WIDTH>(line + at, inside ? source + first + at : source, inside);
        }
    }

    __device__ void load(float* block, const float* data, const Problem& p, const Phase& phase,
                         int k0, int end) const {
        const int count = TAPS ? p.n : p.m;
        const int k = k0 + row;
        const bool exists = k < end;
        const float* source = data + base;
        if (exists && TAPS) {
            const int tap = divide(k, p.channels);
            const int o = k - tap * (int)p.channels.divisor;
            source += o * p.other_step + p.taps[phase.first_tap + tap].weight;
        } else if (exists) {
            source += k * p.other_step;
        }
        float* line = block + row * Layout::PITCH;
        if (TAPS ? p.b_aligned : p.a_aligned) return copy<4>(line, source, exists, count, column);
#pragma unroll 1
        for (int word = column; word < column + 4; ++word)
            copy<1>(line, source, exists, count, word);
    }
};

// Pixels x (tap, channel), contiguous in (tap, channel): B of the weight gradient.
template <class Layout>
struct GatheredColumns : Layout {
    struct Place {
        int shift, dh, dw;
    };

    Place places[Layout::CHUNKS];  // of aligned chunks
    const int first, base, row, column;

    __device__ Place place(const Problem& p, int n) const {
        if (n >= p.n) return {0, OUTSIDE, OUTSIDE};
        const int index = divide(n, p.channels);
        const Tap tap = p.taps[index];
        const int channel = n - index * (int)p.channels.divisor;
        return {base + tap.dh * p.line_step + tap.dw * p.pixel_step + channel, tap.dh, tap.dw};
    }

    template <int WIDTH>
    static __device__ void copy(float* target, const float* data, const Problem& p,
                                const Corner& corner, const Place& at) {
        const bool inside = (unsigned)(corner.h + at.dh) < (unsigned)p.height &&
                            (unsigned)(corner.w + at.dw) < (unsigned)p.width;
        copy_async<WIDTH>(target, inside ? data + corner.offset + at.shift : data, inside);
    }

    __device__ GatheredColumns(const Problem& p, const Phase&, int first, int base)
        : first(first), base(base), row(threadIdx.x / Layout::ACROSS),
          column(threadIdx.x % Layout::ACROSS * 4) {
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i)
            places[i] = place(p, first + column + i * Layout::ACROSS * 4);
    }

    __device__ void load(float* block, const float* data, const Problem& p, const Phase& phase,
                         int k0, int end) const {
        const Corner corner = corner_of(p, phase, k0 + row < end ? k0 + row : phase.pixels);
        float* target = block + row * Layout::PITCH + column;
#pragma unroll
        for (int i = 0; i < Layout::CHUNKS; ++i) {
            const int at = i * Layout::ACROSS * 4;
            if (p.b_aligned) {
                copy<4>(target + at, data, p, corner, places[i]);
            } else {
#pragma unroll 1
                for (int word = at; word < at + 4; ++word)
                    copy<1>(target + word, data, p, corner, place(p, first + column + word));
            }
        }
    }
};
