// What batch and layer norm share: moments (count, mean, sum of squared deviations), from which
// means and variances join, and the two sums of their gradients.
//
// E[x²] - E[x]² loses every digit once the mean is large beside the spread. Here values are never
// squared before a mean has been taken off: a few at a time exactly, the results by merging
// (Chan, Golub & LeVeque 1979, the block form of Welford 1962).
#pragma once

// Of K variables that have equally many values; all zero before the first.
template <typename T, int K>
struct Moments {
    T count;
    T mean[K];
    T squares[K];  // Σ (x - mean)²
};

struct Merge {
    template <typename T, int K>
    __device__ __forceinline__ Moments<T, K> operator()(const Moments<T, K>& a,
                                                        const Moments<T, K>& b) const {
        Moments<T, K> both;
        both.count = a.count + b.count;
        const T share = both.count > 0 ? b.count / both.count : 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const T delta = b.mean[k] - a.mean[k];
            both.mean[k] = a.mean[k] + delta * share;
            both.squares[k] = a.squares[k] + b.squares[k] + delta * delta * a.count * share;
        }
        return both;
    }
};

// The K variables as one.
template <typename T, int K>
__device__ Moments<T, 1> collapse(const Moments<T, K>& m) {
    Moments<T, 1> all = {m.count, {m.mean[0]}, {m.squares[0]}};
    for (int k = 1; k < K; k++)
        all = Merge()(all, Moments<T, 1>{m.count, {m.mean[k]}, {m.squares[k]}});
    return all;
}

// Of the first n of a few packs, n > 0, two passes over registers.
__device__ __forceinline__ Moments<REAL, PACK> moments_of(const Pack<REAL> (&x)[UNROLL], int n) {
    Moments<REAL, PACK> m;
    m.count = n;
    const REAL inverse = 1 / m.count;
#pragma unroll
    for (int k = 0; k < PACK; k++) {
        REAL sum = 0;
        REAL squares = 0;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) sum += u < n ? x[u].at[k] : 0;
        const REAL mean = sum * inverse;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const REAL d = u < n ? x[u].at[k] - mean : 0;
            squares += d * d;
        }
        m.mean[k] = mean;
        m.squares[k] = squares;
    }
    return m;
}

// What one thread finds on its path.
__device__ __forceinline__ Moments<REAL, PACK> moments_along(Path& path, const REAL* x) {
    Moments<REAL, PACK> found = {};
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> values[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (u < n) values[u] = load(x, offsets[u]);
        found = Merge()(found, moments_of(values, n));
    }
    return found;
}

// For a pack: Σ g and Σ g · d, where d is the input's deviation from its mean.
struct Sums {
    REAL total[PACK], product[PACK];
};

struct AddSums {
    __device__ __forceinline__ Sums operator()(Sums a, const Sums& b) const {
#pragma unroll
        for (int k = 0; k < PACK; k++) {
            a.total[k] += b.total[k];
            a.product[k] += b.product[k];
        }
        return a;
    }
};

// partial (groups, chunks, 2): both sums of the block's part of each of its groups.
__device__ __forceinline__ void write_sums(const Walk& walk, const Path& path, const Sums& found,
                                           REAL* partial) {
    REAL total = 0;
    REAL product = 0;
    for (int k = 0; k < PACK; k++) {
        total += found.total[k];
        product += found.product[k];
        if (!walk.across && k < PACK - 1) continue;  // the pack belongs to one group
        REAL* out = partial + 2 * (path.group_of(k) * walk.chunks + path.chunk);
        out[0] = total;
        out[1] = product;
        total = 0;
        product = 0;
    }
}
