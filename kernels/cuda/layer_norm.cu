// Layer norm over the rows of (M, D), forward and backward.
//
//   n = (x - mean) · rstd,  rstd = 1 / sqrt(var + eps),  y = weight · n + bias
//   h = grad · weight,  grad_x = rstd · (h - mean(h) - n · mean(h · n)),  means over the row
//   grad_weight = Σ grad · n,  grad_bias = Σ grad, sums over the rows
//
// Per element in float: forward reads x and writes y (8 bytes, about 9 FLOPs; the second reading
// of a row comes from the caches), backward reads x and grad for grad_x and once more for the sums
// over the rows, which run across (20 bytes, about 15 FLOPs): bound by memory.
//
// Versions
//   1. layer_norm_plain, layer_norm_grad_plain: a thread a row. Neighbouring threads read D apart,
//      so every load of a warp is 32 transactions, and few rows leave the GPU idle.
//   2. layer_norm, layer_norm_input_gradient with PACK = 1: some threads of a block share a row
//      (walk.cuh; several short rows a block, 256 threads for a long one), loads side by side;
//      layer_norm_sums: the same as columns, and finish_sums of norm.cu joins the blocks.
//   3. The same with PACK = 4: 16 bytes a load.
#include "common.cuh"
#include "walk.cuh"
#include "norm.cuh"

// ----------------------------------------------------------------------------- 1. a thread a row

extern "C" __global__ void layer_norm_plain(
    long long rows, long long width, const REAL* x, const REAL* weight, const REAL* bias, REAL eps,
    REAL* y, REAL* mean, REAL* rstd
) {
    const long long r = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (r >= rows) return;
    REAL average = 0;
    REAL squares = 0;
    for (long long i = 0; i < width; i++) {  // Welford's recurrence
        const REAL value = x[r * width + i];
        const REAL delta = value - average;
        average += delta / (i + 1);
        squares += delta * (value - average);
    }
    const REAL inverse = 1 / sqrt(squares / width + eps);
    for (long long i = 0; i < width; i++) {
        const REAL normal = (x[r * width + i] - average) * inverse;
        y[r * width + i] = normal * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
    }
    mean[r] = average;
    rstd[r] = inverse;
}

// Row by row for grad_x, then column by column for the sums; a grid of enough threads for both.
extern "C" __global__ void layer_norm_grad_plain(
    long long rows, long long width, const REAL* grad, const REAL* x, const REAL* mean,
    const REAL* rstd, const REAL* weight, REAL* grad_x, REAL* grad_weight, REAL* grad_bias
) {
    const long long thread = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (thread < rows) {
        const long long r = thread;
        double total = 0;
        double product = 0;
        for (long long i = 0; i < width; i++) {
            const REAL h = grad[r * width + i] * (weight ? weight[i] : 1);
            total += h;
            product += h * (x[r * width + i] - mean[r]) * rstd[r];
        }
        for (long long i = 0; i < width; i++) {
            const REAL h = grad[r * width + i] * (weight ? weight[i] : 1);
            const REAL normal = (x[r * width + i] - mean[r]) * rstd[r];
            grad_x[r * width + i] =
                rstd[r] * (h - REAL(total / width) - normal * REAL(product / width));
        }
    }
    if (thread < width) {
        const long long i = thread;
        double total = 0;
        double product = 0;
        for (long long r = 0; r < rows; r++) {
            total += grad[r * width + i];
            product += grad[r * width + i] * (x[r * width + i] - mean[r]) * rstd[r];
        }
        grad_bias[i] = total;
        grad_weight[i] = product;
    }
}

// -------------------------------------------------------------------- 2., 3. threads share a row

extern "C" __global__ void layer_norm(
    Walk walk, const REAL* __restrict__ x, const REAL* __restrict__ weight,
    const REAL* __restrict__ bias, REAL eps, REAL* __restrict__ y, REAL* mean, REAL* rstd
) {
    __shared__ Moments<REAL, PACK> scratch[THREADS];
    Path path(walk);
    join(walk, path, moments_along(path, x), Merge(), scratch);
    const Moments<REAL, 1> row = collapse(scratch[path.leader()]);
    const REAL average = row.mean[0];
    const REAL inverse = 1 / sqrt(row.squares[0] / row.count + eps);
    if (path.leads()) {
        mean[path.group] = average;
        rstd[path.group] = inverse;
    }
    Path again(walk);
    long long position = again.position;
    long long offsets[UNROLL];
    while (const int n = again.next(offsets)) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            Pack<REAL> values = load(x, offsets[u]);
            for (int k = 0; k < PACK; k++) {
                const long long i = again.place_of(position, k);
                const REAL normal = (values.at[k] - average) * inverse;
                values.at[k] = normal * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
            }
            store(y, offsets[u], values);
            position += walk.depth;
        }
    }
}

extern "C" __global__ void layer_norm_input_gradient(
    Walk walk, const REAL* __restrict__ grad, const REAL* __restrict__ x, const REAL* mean,
    const REAL* rstd, const REAL* __restrict__ weight, REAL* __restrict__ grad_x
) {
    __shared__ Sums scratch[THREADS];
    Path path(walk);
    const REAL average = path.active ? mean[path.group] : 0;
    const REAL inverse = path.active ? rstd[path.group] : 0;
    auto gradient_of = [&](long long offset, long long position, Pack<REAL>& normal) {
        Pack<REAL> h = load(grad, offset);
        normal = load(x, offset);
        for (int k = 0; k < PACK; k++) {
            if (weight) h.at[k] *= weight[path.place_of(position, k)];
            normal.at[k] = (normal.at[k] - average) * inverse;
        }
        return h;
    };

    Sums found = {};  // Σ h and Σ h · n
    long long offsets[UNROLL];
    long long position = path.position;
    while (const int n = path.next(offsets)) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            Pack<REAL> normal;
            const Pack<REAL> h = gradient_of(offsets[u], position, normal);
            for (int k = 0; k < PACK; k++) {
                found.total[k] += h.at[k];
                found.product[k] += h.at[k] * normal.at[k];
            }
            position += walk.depth;
        }
    }
    join(walk, path, found, AddSums(), scratch);

    const Sums& row = scratch[path.leader()];
    REAL mean_h = 0;
    REAL mean_hn = 0;
    for (int k = 0; k < PACK; k++) {
        mean_h += row.total[k];
        mean_hn += row.product[k];
    }
    const long long width = walk.positions * (walk.across ? 1 : PACK);
    mean_h /= width;
    mean_hn /= width;

    Path again(walk);
    position = again.position;
    while (const int n = again.next(offsets)) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            Pack<REAL> normal;
            Pack<REAL> h = gradient_of(offsets[u], position, normal);
            for (int k = 0; k < PACK; k++)
                h.at[k] = inverse * (h.at[k] - mean_h - normal.at[k] * mean_hn);
            store(grad_x, offsets[u], h);
            position += walk.depth;
        }
    }
}

// partial (D, chunks, 2): Σ grad and Σ grad · n of each block's rows; a walk along the columns.
extern "C" __global__ void layer_norm_sums(
    Walk walk, const REAL* grad, const REAL* x, const REAL* mean, const REAL* rstd, REAL* partial
) {
    __shared__ Sums scratch[THREADS];
    Path path(walk);
    Sums found = {};
    long long offsets[UNROLL];
    long long row = path.position;
    while (const int n = path.next(offsets)) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (u >= n) continue;
            const Pack<REAL> values = load(x, offsets[u]);
            const Pack<REAL> grads = load(grad, offsets[u]);
            for (int k = 0; k < PACK; k++) {
                const REAL normal = (values.at[k] - mean[row]) * rstd[row];
                found.total[k] += grads.at[k];
                found.product[k] += grads.at[k] * normal;
            }
            row += walk.depth;
        }
    }
    join(walk, path, found, AddSums(), scratch);
    if (path.leads()) write_sums(walk, path, scratch[threadIdx.x], partial);
}
