// argmax and argmin: the place of the first largest or smallest value, or of the first NaN.
//
// The array is dense (B, N, G, S) memory; along N and S one place i = n·S + s is found for each
// (b, g) (walk.cuh). A load and two comparisons per element, 4 bytes in float: bound by memory.
//
// Versions
//   1. arg*_plain: a thread a result, as in reduce.cu.
//   2. arg* with PACK = 1: threads and blocks share the results; a second launch joins the blocks.
//   3. The same with PACK = 4: 16 bytes a load.
#include "common.cuh"
#include "walk.cuh"
#include "reduce.cuh"

struct Best {
    REAL value;
    long long index;
};

// The better one of two, of equals the first: the order in which they are met plays no part.
template <typename Op>
struct Better {
    __device__ __forceinline__ Best operator()(const Best& a, const Best& b) const {
        const bool equal = a.value == b.value || (a.value != a.value && b.value != b.value);
        if (equal) return a.index < b.index ? a : b;
        const REAL value = Op()(a.value, b.value);
        return value == a.value || a.value != a.value ? a : b;
    }
};

template <typename Op>
__device__ __forceinline__ Best none() {
    return {Op::identity(), 0x7fffffffffffffffLL};
}

// ------------------------------------------------------------------------- 1. a thread a result

template <typename Op>
__device__ void arg_plain(long long batch, long long outer, long long groups, long long inner,
                          const REAL* x, long long* out) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= batch * groups) return;
    const long long b = i / groups;
    const long long g = i % groups;
    Best found = none<Op>();
    for (long long n = 0; n < outer; n++)
        for (long long s = 0; s < inner; s++) {
            const REAL value = x[((b * outer + n) * groups + g) * inner + s];
            found = Better<Op>()(found, {value, n * inner + s});
        }
    out[i] = found.index;
}

extern "C" __global__ void argmax_plain(
    long long batch, long long outer, long long groups, long long inner, const REAL* x,
    long long* out
) {
    arg_plain<Largest>(batch, outer, groups, inner, x, out);
}

extern "C" __global__ void argmin_plain(
    long long batch, long long outer, long long groups, long long inner, const REAL* x,
    long long* out
) {
    arg_plain<Smallest>(batch, outer, groups, inner, x, out);
}

// ----------------------------------------------------------- 2., 3. threads and blocks share them

struct BestPack {
    Best at[PACK];
};

template <typename Op>
struct EachBetter {
    __device__ __forceinline__ BestPack operator()(BestPack a, const BestPack& b) const {
#pragma unroll
        for (int k = 0; k < PACK; k++) a.at[k] = Better<Op>()(a.at[k], b.at[k]);
        return a;
    }
};

// Blocks that share a group leave (B·G, chunks) values and indices, which a second launch reads:
// there `places` holds the indices of the values x. Null where not needed.
template <typename Op>
__device__ void arg(const Walk& walk, const REAL* x, const long long* places, REAL* values,
                    long long* indices) {
    __shared__ BestPack scratch[THREADS];
    Path path(walk);
    BestPack found;
    for (int k = 0; k < PACK; k++) found.at[k] = none<Op>();
    long long position = path.position;
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> loaded[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (u < n) loaded[u] = load(x, offsets[u]);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            for (int k = 0; k < PACK; k++) {
                const long long place =
                    places ? places[offsets[u] * PACK + k] : path.place_of(position, k);
                found.at[k] = Better<Op>()(found.at[k], {loaded[u].at[k], place});
            }
            position += walk.depth;
        }
    }
    join(walk, path, found, EachBetter<Op>(), scratch);
    if (!path.leads()) return;
    found = scratch[threadIdx.x];
    Best best = none<Op>();
    for (int k = 0; k < PACK; k++) {
        best = Better<Op>()(best, found.at[k]);
        if (!walk.across && k < PACK - 1) continue;  // the pack belongs to one group
        const long long at = path.group_of(k) * walk.chunks + path.chunk;
        indices[at] = best.index;
        if (values) values[at] = best.value;
        best = none<Op>();
    }
}

extern "C" __global__ void argmax(
    Walk walk, const REAL* x, const long long* places, REAL* values, long long* indices
) {
    arg<Largest>(walk, x, places, values, indices);
}

extern "C" __global__ void argmin(
    Walk walk, const REAL* x, const long long* places, REAL* values, long long* indices
) {
    arg<Smallest>(walk, x, places, values, indices);
}
