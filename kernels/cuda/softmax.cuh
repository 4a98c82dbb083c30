// Rows of a matrix, shared out to groups of threads, and the statistics of a softmax over them.
#pragma once

#include "addressing.cuh"
#include "common.cuh"

constexpr int WIDTH = VECTOR_BYTES / sizeof(REAL);
// Values of a row that a lane keeps in registers. With 32 of them the kernels took 100 registers
// and more, which leaves few warps on a multiprocessor to hide the memory's latency.
constexpr int KEPT = 8;

template <typename V>
constexpr int width_of = sizeof(V) / sizeof(REAL);  // numbers in a vector

// The maximum m of some numbers, and Σ exp(x - m) without the 1 that the maximum itself adds: of a
// nearly certain class 1e-13 may be left, which 1 + rest would round away.
struct Statistics {
    REAL max, rest;
};

// The statistics of two sets of numbers together (Milakov & Gimelshein 2018, "Online normalizer
// calculation for softmax"); {x, 0} are those of one number. NaN is the largest number.
struct Merge {
    static __device__ __forceinline__ Statistics identity() { return {REAL(-INFINITY), REAL(-1)}; }
    __device__ __forceinline__ Statistics operator()(Statistics a, Statistics b) const {
        const bool is_a = a.max > b.max || a.max != a.max;
        const Statistics larger = is_a ? a : b;
        const Statistics smaller = is_a ? b : a;
        const REAL scale = smaller.max == larger.max ? REAL(1) : exp(smaller.max - larger.max);
        return {larger.max, larger.rest + (smaller.rest + 1) * scale};
    }
};

__device__ __forceinline__ REAL exchange(REAL value, int distance) {
    return __shfl_xor_sync(FULL_WARP, value, distance);
}

__device__ __forceinline__ Statistics exchange(Statistics s, int distance) {
    return {exchange(s.max, distance), exchange(s.rest, distance)};
}

// The threads that share a row. All threads of the warp, or of the block, must call `reduce`; each
// gets the result for its group.
struct Lanes {  // 1, 2, 4, ... or 32 neighbours in a warp
    int rank, size;

    template <typename Op, typename T>
    __device__ __forceinline__ T reduce(T value, Op op) const {
        for (int distance = size / 2; distance > 0; distance /= 2)
            value = op(value, exchange(value, distance));
        return value;
    }
};

struct Block {
    int rank, size;

    template <typename Op, typename T>
    __device__ __forceinline__ T reduce(T value, Op op) const {
        __shared__ T of_warp[WARP];
        const Lanes warp = {rank % WARP, WARP};
        value = warp.reduce(value, op);
        if (warp.rank == 0) of_warp[rank / WARP] = value;
        __syncthreads();
        value = warp.rank < size / WARP ? of_warp[warp.rank] : Op::identity();
        return warp.reduce(value, op);
    }
};

// The part of a row that a thread has: vectors of W values, the threads of the group taking turns.
// At most MOST vectors if that is known, so that they can stay in registers, else it is 0.
template <int W, int MOST>
struct Part {
    int columns, rank, size;

    // Calls f(k, j) for the thread's k-th vector, which starts at column j.
    template <typename F>
    __device__ __forceinline__ void each(F f) const {
        if constexpr (MOST > 0) {
#pragma unroll
            for (int k = 0; k < MOST; ++k) {
                const int j = (k * size + rank) * W;
                if (j < columns) f(k, j);
            }
        } else {
#pragma unroll 4
            for (int j = rank * W; j < columns; j += size * W) f(0, j);
        }
    }
};

// The values of a thread's part of a row: in registers, or read again wherever they are needed.
template <int W, int MOST>
struct Values {
    const REAL* row;
    Vector<REAL, W> kept[MOST > 0 ? MOST : 1];

    __device__ __forceinline__ Values(const REAL* row, Part<W, MOST> part) : row(row) {
        if constexpr (MOST > 0) part.each([&](int k, int j) { kept[k] = load<W>(row + j); });
    }

    __device__ __forceinline__ Vector<REAL, W> get(int k, int j) const {
        if constexpr (MOST > 0)
            return kept[k];
        else
            return load<W>(row + j);
    }
};

// Calls f(row, part, group) in every thread: `lanes` threads of a warp share a row of at most
// KEPT · lanes columns, or a block does if `lanes` is 0. Threads beyond the last row come with an
// empty part: they take part in the reductions.
template <typename F>
__device__ __forceinline__ void each_row(long long rows, int columns, int lanes, bool vectors,
                                         F f) {
    const int thread = threadIdx.x;
    const int threads = blockDim.x;
    if (lanes > 0) {
        const long long row = (long long)blockIdx.x * (threads / lanes) + thread / lanes;
        const Lanes group = {thread % lanes, lanes};
        const int present = row < rows ? columns : 0;
        if (vectors)
            f(row, Part<WIDTH, KEPT / WIDTH>{present, group.rank, lanes}, group);
        else
            f(row, Part<1, KEPT>{present, group.rank, lanes}, group);
    } else {
        const long long row = blockIdx.x;
        const Block group = {thread, threads};
        if (vectors)
            f(row, Part<WIDTH, 0>{columns, thread, threads}, group);
        else
            f(row, Part<1, 0>{columns, thread, threads}, group);
    }
}

// The statistics of a row. `rest` is NaN if the maximum is infinite: such a row has no softmax.
template <int W, int MOST, typename Group>
__device__ __forceinline__ Statistics statistics(const Values<W, MOST>& x, Part<W, MOST> part,
                                                 Group group) {
    Statistics s = Merge::identity();
    part.each([&](int k, int j) {
        for (REAL value : x.get(k, j).at) s = Merge()(s, {value, REAL(0)});
    });
    s = group.reduce(s, Merge());
    if (s.max - s.max != 0) s.rest = NAN;
    return s;
}
