// The logistic distribution cut into bins: log P of the bin around x, and its gradients. All
// arrays are dense memory of n numbers in one order.
//
//     a, b = (x ± half - mean) exp(-log_scale)     d = a - b
//     log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - exp(-d))
//     d mean      = -g (σ(-a) - σ(b)) exp(-log_scale)
//     d log_scale = -g (a σ(-a) - b σ(b) + d / (exp(d) - 1))
//
// The lowest bin begins at -∞: without σ(-b) and d. The highest ends at +∞: without σ(a) and d.
//
// Bytes per number in float32: 16, the gradients 24. FLOPs: about 100, for four exponentials and
// three logarithms: near what a GPU does in the time of those bytes. One pass instead of the
// twenty that single operations would take is the whole gain.
//
// Versions:
//   *_plain   a thread per number; already coalesced.
//   *         16 bytes per load: a quarter of the instructions, more bytes under way for each.
// Any n; `aligned` says that all pointers are multiples of 16 bytes, as vectors need.

#include "for_each.cuh"

// A bin of this width or less in units of the scale has the probability density · width.
constexpr REAL TINY = REAL(1e-30);

// x in units of the scale: the edges of its bin, their distance, and whether it is an outer one.
struct Bin {
    REAL inverse, upper, lower, width, log_width;
    bool lowest, highest;
};

__device__ __forceinline__ Bin bin(REAL x, REAL mean, REAL log_scale, REAL half, REAL lowest,
                                   REAL highest) {
    const REAL inverse = exp(-log_scale);
    const REAL centred = x - mean;
    return {inverse, (centred + half) * inverse, (centred - half) * inverse, 2 * half * inverse,
            log(2 * half) - log_scale, x < lowest, x > highest};
}

__device__ __forceinline__ REAL softplus(REAL x) {
    return (x <= 0 ? REAL(0) : x) + log1p(exp(-fabs(x)));
}

__device__ __forceinline__ REAL sigmoid(REAL x) {
    const REAL e = exp(-fabs(x));
    return (x <= 0 ? e : REAL(1)) / (1 + e);
}

// log(1 - exp(-d)). The logarithm of a small d, which `exp` may have made 0,
// is known without.
__device__ __forceinline__ REAL log_of_width(const Bin& at) {
    const REAL probability = -expm1(-at.width);
    if (!(at.width < 1)) return log(probability);
    return at.log_width + (at.width > TINY ? log(probability / at.width) : REAL(0));
}

__device__ __forceinline__ REAL log_probability(const Bin& at) {
    const REAL below_top = at.highest ? REAL(0) : softplus(-at.upper);
    const REAL above_bottom = at.lowest ? REAL(0) : softplus(at.lower);
    const REAL inner = at.lowest || at.highest ? REAL(0) : log_of_width(at);
    return inner - below_top - above_bottom;
}

struct Slopes {
    REAL mean, log_scale;
};

__device__ __forceinline__ Slopes slopes(const Bin& at) {
    const REAL of_upper = at.highest ? REAL(0) : sigmoid(-at.upper);
    const REAL of_lower = at.lowest ? REAL(0) : -sigmoid(at.lower);
    const bool outer = at.lowest || at.highest;
    const REAL of_width = at.width <= TINY ? REAL(1) : at.width / expm1(at.width);
    return {-(of_upper + of_lower) * at.inverse,
            -(of_upper * at.upper + of_lower * at.lower + (outer ? REAL(0) : of_width))};
}

extern "C" __global__ void logistic_plain(const REAL* x, const REAL* mean, const REAL* log_scale,
                                          REAL* out, long long n, REAL half, REAL lowest,
                                          REAL highest) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i < n) out[i] = log_probability(bin(x[i], mean[i], log_scale[i], half, lowest, highest));
}

extern "C" __global__ void logistic(const REAL* x, const REAL* mean, const REAL* log_scale,
                                    REAL* out, long long n, REAL half, REAL lowest, REAL highest,
                                    bool aligned) {
    for_each<REAL>(n, aligned, [&](long long i, auto width) {
        auto v = load<width.value>(x + i);
        const auto m = load<width.value>(mean + i);
        const auto s = load<width.value>(log_scale + i);
#pragma unroll
        for (int w = 0; w < width.value; ++w)
            v.at[w] = log_probability(bin(v.at[w], m.at[w], s.at[w], half, lowest, highest));
        store(out + i, v);
    });
}

extern "C" __global__ void logistic_grad_plain(const REAL* grad, const REAL* x, const REAL* mean,
                                               const REAL* log_scale, REAL* grad_mean,
                                               REAL* grad_log_scale, long long n, REAL half,
                                               REAL lowest, REAL highest) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= n) return;
    const Slopes slope = slopes(bin(x[i], mean[i], log_scale[i], half, lowest, highest));
    grad_mean[i] = grad[i] * slope.mean;
    grad_log_scale[i] = grad[i] * slope.log_scale;
}

extern "C" __global__ void logistic_grad(const REAL* grad, const REAL* x, const REAL* mean,
                                         const REAL* log_scale, REAL* grad_mean,
                                         REAL* grad_log_scale, long long n, REAL half, REAL lowest,
                                         REAL highest, bool aligned) {
    for_each<REAL>(n, aligned, [&](long long i, auto width) {
        const auto g = load<width.value>(grad + i);
        const auto v = load<width.value>(x + i);
        auto m = load<width.value>(mean + i);
        auto s = load<width.value>(log_scale + i);
#pragma unroll
        for (int w = 0; w < width.value; ++w) {
            const Bin at = bin(v.at[w], m.at[w], s.at[w], half, lowest, highest);
            const Slopes slope = slopes(at);
            m.at[w] = g.at[w] * slope.mean;
            s.at[w] = g.at[w] * slope.log_scale;
        }
        store(grad_mean + i, m);
        store(grad_log_scale + i, s);
    });
}
