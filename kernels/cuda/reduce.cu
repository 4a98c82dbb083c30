// Sum, max and min of an array along some of its axes.
//
// The array is dense (B, N, G, S) memory of which N and S are reduced (walk.cuh); reduce.py brings
// any axes to that form. One load and one operation per element (4 bytes and a FLOP in float),
// next to nothing written: bound by memory. Sums add few numbers in a row: pairs of packs in a
// thread, then a tree over the threads and one over the blocks.
//
// Versions
//   1. reduce_*_plain: a thread a result. Fast only if there are very many results that lie side
//      by side; the sum of a whole array would run on one thread.
//   2. reduce_* with PACK = 1: several threads share a result, or take results side by side where
//      these are neighbours in memory, so that a warp's loads fall together; blocks leave partial
//      results, which the same kernel reduces in a second launch.
//   3. The same with PACK = 4: 16 bytes a load, UNROLL loads on their way at once.
#include "common.cuh"
#include "walk.cuh"
#include "reduce.cuh"

struct Add {
    static __device__ __forceinline__ REAL identity() { return 0; }
    __device__ __forceinline__ REAL operator()(REAL a, REAL b) const { return a + b; }
};

// An operation on each value of a pack.
template <typename Op>
struct Each {
    __device__ __forceinline__ Pack<REAL> operator()(Pack<REAL> a, const Pack<REAL>& b) const {
#pragma unroll
        for (int k = 0; k < PACK; k++) a.at[k] = Op()(a.at[k], b.at[k]);
        return a;
    }
};

// ------------------------------------------------------------------------- 1. a thread a result

template <typename Op>
__device__ void reduce_plain(long long batch, long long outer, long long groups, long long inner,
                             const REAL* x, REAL* out) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= batch * groups) return;
    const long long b = i / groups;
    const long long g = i % groups;
    REAL found = Op::identity();
    for (long long n = 0; n < outer; n++)
        for (long long s = 0; s < inner; s++)
            found = Op()(found, x[((b * outer + n) * groups + g) * inner + s]);
    out[i] = found;
}

extern "C" __global__ void reduce_sum_plain(
    long long batch, long long outer, long long groups, long long inner, const REAL* x, REAL* out
) {
    reduce_plain<Add>(batch, outer, groups, inner, x, out);
}

extern "C" __global__ void reduce_max_plain(
    long long batch, long long outer, long long groups, long long inner, const REAL* x, REAL* out
) {
    reduce_plain<Largest>(batch, outer, groups, inner, x, out);
}

extern "C" __global__ void reduce_min_plain(
    long long batch, long long outer, long long groups, long long inner, const REAL* x, REAL* out
) {
    reduce_plain<Smallest>(batch, outer, groups, inner, x, out);
}

// ----------------------------------------------------------- 2., 3. threads and blocks share them

// out (B·G, chunks)
template <typename Op>
__device__ void reduce(const Walk& walk, const REAL* x, REAL* out) {
    __shared__ Pack<REAL> scratch[THREADS];
    Path path(walk);
    Pack<REAL> found;
    for (int k = 0; k < PACK; k++) found.at[k] = Op::identity();
    const Pack<REAL> nothing = found;
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> values[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) values[u] = u < n ? load(x, offsets[u]) : nothing;
#pragma unroll
        for (int half = UNROLL / 2; half > 0; half /= 2)
#pragma unroll
            for (int u = 0; u < half; u++)
                values[u] = Each<Op>()(values[u], values[u + half]);
        found = Each<Op>()(found, values[0]);
    }
    join(walk, path, found, Each<Op>(), scratch);
    if (!path.leads()) return;
    found = scratch[threadIdx.x];
    if (walk.across) {
        for (int k = 0; k < PACK; k++)
            out[path.group_of(k) * walk.chunks + path.chunk] = found.at[k];
    } else {
        REAL all = found.at[0];
        for (int k = 1; k < PACK; k++) all = Op()(all, found.at[k]);
        out[path.group * walk.chunks + path.chunk] = all;
    }
}

extern "C" __global__ void reduce_sum(Walk walk, const REAL* x, REAL* out) {
    reduce<Add>(walk, x, out);
}

extern "C" __global__ void reduce_max(Walk walk, const REAL* x, REAL* out) {
    reduce<Largest>(walk, x, out);
}

extern "C" __global__ void reduce_min(Walk walk, const REAL* x, REAL* out) {
    reduce<Smallest>(walk, x, out);
}
