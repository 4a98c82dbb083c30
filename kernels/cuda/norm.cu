// Batch norm with its activation, forward and backward. x has C channels of M values each.
//
//   n = (x - mean) / sqrt(var + eps),  z = weight · n + bias,  y = z > 0 ? z : slope · z
//   g = grad · (z > 0 ? 1 : slope),  grad_bias = Σ g,  grad_weight = Σ g · n
//   grad_x = weight / sqrt(var + eps) · (g - grad_bias / M - n · grad_weight / M)
//
// slope = 1 is no activation, 0 is relu. Going back, z is computed anew: a subtraction and an FMA
// are cheaper than 4 bytes to and from memory. Without mean and var (null) the same kernels are
// the affine map z = weight · x + bias, batch norm with fixed statistics.
//
// Per element in float: forward reads x twice and writes y (12 bytes, about 8 FLOPs), backward
// reads x and grad twice and writes grad_x (20 bytes, about 14 FLOPs): bound by memory.
//
// Versions
//   1. batch_norm_plain, batch_norm_grad_plain: a thread a channel. 64 channels keep 64 of a GPU's
//      10⁵ threads busy, and in NCHW memory no two of them load neighbours.
//   2. moments + finish_moments + normalise, gradient_sums + finish_sums + input_gradient with
//      PACK = 1: blocks of channels times positions (walk.cuh). A warp's loads are neighbours, the
//      whole GPU works; the price is a second, tiny kernel that joins the blocks' results. UNROLL
//      loads are on their way at once, and their values merge with one division.
//   3. The same with PACK = 4: 16 bytes a load, a quarter of the instructions and offsets.
#include "common.cuh"
#include "walk.cuh"
#include "norm.cuh"

// The value where z is above the kink (or NaN), slope times it below. A slope of 0 gives 0 even
// for an infinite value.
__device__ __forceinline__ REAL damp(REAL value, REAL z, REAL slope) {
    if (z <= 0) return slope != 0 ? slope * value : 0;
    return value;
}

// z = (x - center) · gain + shift for one channel.
struct Affine {
    REAL center, gain, shift;

    __device__ __forceinline__ Affine() {}
    __device__ __forceinline__ Affine(long long c, const REAL* mean, const REAL* var,
                                      const REAL* weight, const REAL* bias, REAL eps) {
        center = mean ? mean[c] : 0;
        gain = (weight ? weight[c] : 1) * (var ? 1 / sqrt(var[c] + eps) : 1);
        shift = bias ? bias[c] : 0;
    }
    __device__ __forceinline__ REAL operator()(REAL x) const {
        return (x - center) * gain + shift;
    }
};

// Memory (N, C, S): channels-last memory has S = 1, NCHW memory S = H·W.
__device__ __forceinline__ long long element(long long i, long long c, long long channels,
                                             long long inner) {
    return (i / inner * channels + c) * inner + i % inner;
}

// ------------------------------------------------------------------------- 1. a thread a channel

extern "C" __global__ void batch_norm_plain(
    long long size, long long channels, long long inner, const REAL* x, const REAL* weight,
    const REAL* bias, REAL eps, REAL slope, REAL* y, REAL* mean, REAL* var
) {
    const long long c = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (c >= channels) return;
    REAL average = 0;
    REAL squares = 0;
    for (long long i = 0; i < size; i++) {  // Welford's recurrence
        const REAL value = x[element(i, c, channels, inner)];
        const REAL delta = value - average;
        average += delta / (i + 1);
        squares += delta * (value - average);
    }
    mean[c] = average;
    var[c] = squares / size;
    const Affine affine(c, mean, var, weight, bias, eps);
    for (long long i = 0; i < size; i++) {
        const long long at = element(i, c, channels, inner);
        const REAL z = affine(x[at]);
        y[at] = damp(z, z, slope);
    }
}

extern "C" __global__ void batch_norm_grad_plain(
    long long size, long long channels, long long inner, const REAL* grad, const REAL* x,
    const REAL* mean, const REAL* var, const REAL* weight, const REAL* bias, REAL eps, REAL slope,
    REAL* grad_x, REAL* grad_weight, REAL* grad_bias
) {
    const long long c = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (c >= channels) return;
    const Affine affine(c, mean, var, weight, bias, eps);
    const REAL rstd = 1 / sqrt(var[c] + eps);
    double total = 0;
    double product = 0;
    for (long long i = 0; i < size; i++) {
        const long long at = element(i, c, channels, inner);
        const REAL g = damp(grad[at], affine(x[at]), slope);
        total += g;
        product += g * (x[at] - affine.center) * rstd;
    }
    if (grad_bias) grad_bias[c] = total;
    if (grad_weight) grad_weight[c] = product;
    for (long long i = 0; i < size; i++) {
        const long long at = element(i, c, channels, inner);
        const REAL g = damp(grad[at], affine(x[at]), slope);
        const REAL normal = (x[at] - affine.center) * rstd;
        grad_x[at] = affine.gain * (g - REAL(total / size) - normal * REAL(product / size));
    }
}

// ------------------------------------------------------------ 2., 3. the whole grid, two launches

// partial (C, chunks, 3): count, mean and Σ (x - mean)² of each block's part of each channel.
extern "C" __global__ void moments(Walk walk, const REAL* x, REAL* partial) {
    __shared__ Moments<REAL, PACK> scratch[THREADS];
    Path path(walk);
    join(walk, path, moments_along(path, x), Merge(), scratch);
    if (!path.leads()) return;
    const Moments<REAL, PACK> found = scratch[threadIdx.x];
    auto write = [&](long long channel, REAL count, REAL mean, REAL squares) {
        REAL* out = partial + 3 * (channel * walk.chunks + path.chunk);
        out[0] = count;
        out[1] = mean;
        out[2] = squares;
    };
    if (walk.across) {
        for (int k = 0; k < PACK; k++)
            write(path.group_of(k), found.count, found.mean[k], found.squares[k]);
    } else {
        const Moments<REAL, 1> all = collapse(found);
        write(path.group, all.count, all.mean[0], all.squares[0]);
    }
}

// A warp a channel; mean and biased variance (C,).
extern "C" __global__ void finish_moments(
    long long channels, long long chunks, const REAL* partial, REAL* mean, REAL* var
) {
    const long long c = blockIdx.x * (long long)(blockDim.x / WARP) + threadIdx.x / WARP;
    if (c >= channels) return;  // the whole warp
    Moments<double, 1> found = {};
    for (long long i = threadIdx.x % WARP; i < chunks; i += WARP) {
        const REAL* of = partial + 3 * (c * chunks + i);
        found = Merge()(found, Moments<double, 1>{of[0], {of[1]}, {of[2]}});
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Moments<double, 1> other;
        other.count = __shfl_down_sync(FULL_WARP, found.count, distance);
        other.mean[0] = __shfl_down_sync(FULL_WARP, found.mean[0], distance);
        other.squares[0] = __shfl_down_sync(FULL_WARP, found.squares[0], distance);
        found = Merge()(found, other);
    }
    if (threadIdx.x % WARP == 0) {
        mean[c] = found.mean[0];
        var[c] = found.squares[0] / found.count;
    }
}

// r += momentum · (statistic - r), for what batch norm uses when it doesn't train.
extern "C" __global__ void update_running(
    long long channels, REAL* running_mean, REAL* running_var, const REAL* mean, const REAL* var,
    REAL momentum, REAL unbias
) {
    const long long c = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (c >= channels) return;
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_var[c] += momentum * (var[c] * unbias - running_var[c]);
}

extern "C" __global__ void normalise(
    Walk walk, const REAL* x, const REAL* mean, const REAL* var, const REAL* weight,
    const REAL* bias, REAL eps, REAL slope, REAL* y
) {
    Path path(walk);
    if (!path.active) return;
    Affine affine[PACK];
    for (int k = 0; k < PACK; k++)
        affine[k] = Affine(path.group_of(k), mean, var, weight, bias, eps);
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> values[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (u < n) values[u] = load(x, offsets[u]);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            for (int k = 0; k < PACK; k++) {
                const REAL z = affine[k](values[u].at[k]);
                values[u].at[k] = damp(z, z, slope);
            }
            store(y, offsets[u], values[u]);
        }
    }
}

// partial (C, chunks, 2): Σ g and Σ g · (x - center) of each block's part of each channel.
extern "C" __global__ void gradient_sums(
    Walk walk, const REAL* grad, const REAL* x, const REAL* mean, const REAL* var,
    const REAL* weight, const REAL* bias, REAL eps, REAL slope, REAL* partial
) {
    __shared__ Sums scratch[THREADS];
    Path path(walk);
    Sums found = {};
    Affine affine[PACK];
    for (int k = 0; k < PACK && path.active; k++)
        affine[k] = Affine(path.group_of(k), mean, var, weight, bias, eps);
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> values[UNROLL], grads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            values[u] = load(x, offsets[u]);
            grads[u] = load(grad, offsets[u]);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
#pragma unroll
            for (int k = 0; k < PACK; k++) {
                const REAL value = values[u].at[k];
                const REAL g = damp(grads[u].at[k], affine[k](value), slope);
                found.total[k] += g;
                found.product[k] += g * (value - affine[k].center);
            }
        }
    }
    join(walk, path, found, AddSums(), scratch);
    if (path.leads()) write_sums(walk, path, scratch[threadIdx.x], partial);
}

// A warp a channel: adds the partial sums. Null outputs are left out; `correction` (2, C) is what
// input_gradient takes off: mean(g) and mean(g · n) / sqrt(var + eps).
extern "C" __global__ void finish_sums(
    long long channels, long long chunks, long long size, const REAL* partial, const REAL* var,
    REAL eps, REAL* grad_weight, REAL* grad_bias, REAL* correction
) {
    const long long c = blockIdx.x * (long long)(blockDim.x / WARP) + threadIdx.x / WARP;
    if (c >= channels) return;  // the whole warp
    double total = 0;
    double product = 0;
    for (long long i = threadIdx.x % WARP; i < chunks; i += WARP) {
        total += partial[2 * (c * chunks + i)];
        product += partial[2 * (c * chunks + i) + 1];
    }
    total = warp_reduce(total, Sum<double>());
    product = warp_reduce(product, Sum<double>());
    if (threadIdx.x % WARP != 0) return;
    const double rstd = var ? 1 / sqrt(double(var[c]) + eps) : 1;
    if (grad_weight) grad_weight[c] = product * rstd;
    if (grad_bias) grad_bias[c] = total;
    if (correction) {
        correction[c] = total / size;
        correction[channels + c] = product * rstd * rstd / size;
    }
}

// Without `correction` (null) the statistics are constants.
extern "C" __global__ void input_gradient(
    Walk walk, const REAL* grad, const REAL* x, const REAL* mean, const REAL* var,
    const REAL* weight, const REAL* bias, REAL eps, REAL slope, const REAL* correction,
    REAL* grad_x
) {
    Path path(walk);
    if (!path.active) return;
    Affine affine[PACK];
    REAL mean_g[PACK], mean_gn[PACK];
    for (int k = 0; k < PACK; k++) {
        const long long c = path.group_of(k);
        affine[k] = Affine(c, mean, var, weight, bias, eps);
        mean_g[k] = correction ? correction[c] : 0;
        mean_gn[k] = correction ? correction[walk.groups * (walk.across ? PACK : 1) + c] : 0;
    }
    long long offsets[UNROLL];
    while (const int n = path.next(offsets)) {
        Pack<REAL> values[UNROLL], grads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            values[u] = load(x, offsets[u]);
            grads[u] = load(grad, offsets[u]);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
#pragma unroll
            for (int k = 0; k < PACK; k++) {
                const REAL value = values[u].at[k];
                const REAL g = damp(grads[u].at[k], affine[k](value), slope);
                const REAL d = value - affine[k].center;
                grads[u].at[k] = affine[k].gain * (g - mean_g[k] - d * mean_gn[k]);
            }
            store(grad_x, offsets[u], grads[u]);
        }
    }
}
