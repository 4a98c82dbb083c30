// Weights of given lengths. v is memory (outer, slices, inner); g and the lengths are of a slice.
//
//     length = √Σ v²,  w = g / length · v                        sums over outer and inner
//     u = v / length,  dg = Σ dw u,  dv = g / length (dw - u dg)
//
// With a mask of zeros and ones v counts as 0 where the mask is 0. A slice of zeros gives zeros.
//
// Bytes per weight in float32: 8 (v, w), the gradient 12 (dw, v, dv), 4 more with a mask; the
// second reading of a slice comes from the caches. 4 and 8 FLOPs: bound by memory. Built from
// single operations it is 24 and 60 bytes, in six and twelve launches.
//
// Versions:
// 1. plain   A thread per slice: threads of a warp read `inner` weights apart, and the few hundred
//            slices of a layer leave most of the GPU idle.
// 2. PACK 1  The threads of a block share some slices (walk.cuh): neighbours load neighbours.
// 3. PACK 4  16 bytes to a load.
//
// 2 and 3 take a slice whole: a second launch that joins blocks would cost more than it gains, as
// a layer has slices for dozens of blocks.

#include "common.cuh"
#include "walk.cuh"

__device__ __forceinline__ REAL ratio(REAL g, REAL length) { return length == 0 ? 0 : g / length; }

// ---- 1. plain ----------------------------------------------------------------------------------

extern "C" __global__ void weight_norm_plain(long long outer, long long slices, long long inner,
                                             const REAL* v, const REAL* mask, const REAL* g,
                                             REAL* w, REAL* length) {
    const long long slice = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (slice >= slices) return;
    auto each = [&](auto f) {
        for (long long o = 0; o < outer; ++o)
            for (long long i = 0; i < inner; ++i) f((o * slices + slice) * inner + i);
    };
    double squares = 0;
    each([&](long long at) {
        const REAL x = mask ? v[at] * mask[at] : v[at];
        squares += double(x) * x;
    });
    length[slice] = sqrt(squares);
    const REAL scale = ratio(g[slice], length[slice]);
    each([&](long long at) { w[at] = (mask ? v[at] * mask[at] : v[at]) * scale; });
}

extern "C" __global__ void weight_norm_grad_plain(long long outer, long long slices,
                                                  long long inner, const REAL* grad_w,
                                                  const REAL* v, const REAL* mask, const REAL* g,
                                                  const REAL* length, REAL* grad_v, REAL* grad_g) {
    const long long slice = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (slice >= slices) return;
    auto each = [&](auto f) {
        for (long long o = 0; o < outer; ++o)
            for (long long i = 0; i < inner; ++i) f((o * slices + slice) * inner + i);
    };
    double products = 0;
    each([&](long long at) {
        const REAL product = grad_w[at] * v[at];
        products += mask ? product * mask[at] : product;
    });
    const REAL along = products * ratio(1, length[slice]);
    grad_g[slice] = along;
    const REAL scale = ratio(g[slice], length[slice]);
    const REAL pull = along * ratio(1, length[slice]);
    each([&](long long at) {
        const REAL across = scale * (grad_w[at] - v[at] * pull);
        grad_v[at] = mask ? across * mask[at] : across;
    });
}

// ---- 2. and 3. threads share a slice -----------------------------------------------------------

struct Totals {  // of a pack's values: one slice each, or all of one
    REAL at[PACK];
};

struct AddTotals {
    __device__ __forceinline__ Totals operator()(Totals a, const Totals& b) const {
#pragma unroll
        for (int k = 0; k < PACK; ++k) a.at[k] += b.at[k];
        return a;
    }
};

// Adds up what the threads of each slice found; every thread gets the sums for its pack's slices.
__device__ __forceinline__ Totals sum(const Walk& walk, const Path& path, const Totals& found,
                                      Totals* scratch) {
    join(walk, path, found, AddTotals(), scratch);
    Totals total = scratch[path.leader()];
    if (!walk.across) {
        for (int k = 1; k < PACK; ++k) total.at[0] += total.at[k];
        for (int k = 1; k < PACK; ++k) total.at[k] = total.at[0];
    }
    return total;
}

__device__ __forceinline__ Pack<REAL> masked(Pack<REAL> values, const REAL* mask,
                                             long long offset) {
    if (mask) {
        const Pack<REAL> keep = load(mask, offset);
#pragma unroll
        for (int k = 0; k < PACK; ++k) values.at[k] *= keep.at[k];
    }
    return values;
}

// Calls f(offset) for each pack on a thread's way.
template <typename F>
__device__ __forceinline__ void each(const Walk& walk, F f) {
    Path path(walk);
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (u < n) f(offsets[u]);
    }
}

extern "C" __global__ void weight_norm(Walk walk, const REAL* __restrict__ v,
                                       const REAL* __restrict__ mask, const REAL* __restrict__ g,
                                       REAL* __restrict__ w, REAL* length) {
    __shared__ Totals scratch[THREADS];
    const Path path(walk);
    Totals squares = {};
    each(walk, [&](long long offset) {
        const Pack<REAL> x = masked(load(v, offset), mask, offset);
#pragma unroll
        for (int k = 0; k < PACK; ++k) squares.at[k] += x.at[k] * x.at[k];
    });
    squares = sum(walk, path, squares, scratch);
    if (!path.active) return;
    REAL scale[PACK];
#pragma unroll
    for (int k = 0; k < PACK; ++k) {
        const long long slice = path.group_of(k);
        const REAL norm = sqrt(squares.at[k]);
        scale[k] = ratio(g[slice], norm);
        if (path.leads()) length[slice] = norm;
    }
    each(walk, [&](long long offset) {
        Pack<REAL> x = masked(load(v, offset), mask, offset);
#pragma unroll
        for (int k = 0; k < PACK; ++k) x.at[k] *= scale[k];
        store(w, offset, x);
    });
}

extern "C" __global__ void weight_norm_grad(Walk walk, const REAL* __restrict__ grad_w,
                                            const REAL* __restrict__ v,
                                            const REAL* __restrict__ mask,
                                            const REAL* __restrict__ g,
                                            const REAL* __restrict__ length,
                                            REAL* __restrict__ grad_v, REAL* grad_g) {
    __shared__ Totals scratch[THREADS];
    const Path path(walk);
    Totals products = {};
    each(walk, [&](long long offset) {
        const Pack<REAL> x = masked(load(v, offset), mask, offset);
        const Pack<REAL> grad = load(grad_w, offset);
#pragma unroll
        for (int k = 0; k < PACK; ++k) products.at[k] += grad.at[k] * x.at[k];
    });
    products = sum(walk, path, products, scratch);
    if (!path.active) return;
    REAL scale[PACK], pull[PACK];
#pragma unroll
    for (int k = 0; k < PACK; ++k) {
        const long long slice = path.group_of(k);
        const REAL inverse = ratio(1, length[slice]);
        const REAL along = products.at[k] * inverse;
        scale[k] = g[slice] * inverse;
        pull[k] = along * inverse;
        if (path.leads()) grad_g[slice] = along;
    }
    each(walk, [&](long long offset) {
        const Pack<REAL> x = load(v, offset);
        Pack<REAL> grad = load(grad_w, offset);
#pragma unroll
        for (int k = 0; k < PACK; ++k) grad.at[k] = scale[k] * (grad.at[k] - x.at[k] * pull[k]);
        store(grad_v, offset, masked(grad, mask, offset));
    });
}
