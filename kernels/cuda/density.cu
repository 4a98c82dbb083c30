// Rows of numbers that end in one number each: a sample of a normal distribution with its KL, and
// the log-likelihood of binary images.
//
//     reparameterize    z = m + exp(s) e            kl = Σ (m² + expm1(2 s)) / 2 - s
//         gradient      dm = g + l m                ds = g exp(s) e + l expm1(2 s)
//     bernoulli         out = -Σ w |x| + log(1 + exp(-|x|))
//         gradient      dx = g sign(x) (σ(-|x|) - w)
//
// of rows (rows, columns): l is the gradient of kl. x are logits, and w is the part of a target t
// in [0, 1] on the other side than x: 1 - t for x > 0, else t. There are fewer targets than rows
// where a model was sampled several times: row r belongs to target r mod `targets`.
//
// Bytes per number in float32: reparameterize 16, its gradient 24, bernoulli 8 (4 where a target
// still lies in the cache), its gradient 12. FLOPs: 30 to 50, for two exponentials or an
// exponential and a logarithm; a GPU does as many in the time of those bytes. From single
// operations each of the four takes five to ten passes over memory.
//
// Versions:
// 1. plain   A thread per row: threads of a warp read `columns` numbers apart.
// 2. groups  Neighbouring lanes take neighbouring numbers and add up their sums: up to 32 lanes
//            for a row of up to 256 numbers, a block for a longer one.
// 3. vectors 16 bytes to an instruction. Needs rows that start at multiples of 16 bytes.
//
// 2 and 3 are the same code. Any number of rows and columns (below 2³¹); blocks of whole warps.

#include "softmax.cuh"  // each_row: the rows of a matrix, shared out to groups of threads

__device__ __forceinline__ REAL kl(REAL mean, REAL log_std) {
    // By expm1: σ² - 1 and 2 log σ nearly cancel close to the prior.
    return REAL(0.5) * (mean * mean + expm1(2 * log_std)) - log_std;
}

__device__ __forceinline__ REAL wrong(REAL logit, REAL target) {
    return logit > 0 ? 1 - target : target;
}

__device__ __forceinline__ REAL surprise(REAL logit, REAL target) {
    const REAL size = fabs(logit);
    return wrong(logit, target) * size + log1p(exp(-size));
}

__device__ __forceinline__ REAL surprise_slope(REAL logit, REAL target) {
    const REAL e = exp(-fabs(logit));
    const REAL difference = wrong(logit, target) - e / (1 + e);
    return logit > 0 ? difference : -difference;
}

// ---- 1. plain ----------------------------------------------------------------------------------

extern "C" __global__ void reparameterize_plain(const REAL* mean, const REAL* log_std,
                                                const REAL* noise, long long rows, int columns,
                                                REAL* z, REAL* divergence) {
    const long long row = global_thread();
    if (row >= rows) return;
    REAL sum = 0;
    for (long long i = row * columns; i < (row + 1) * columns; ++i) {
        z[i] = mean[i] + exp(log_std[i]) * noise[i];
        sum += kl(mean[i], log_std[i]);
    }
    divergence[row] = sum;
}

extern "C" __global__ void reparameterize_grad_plain(
        const REAL* grad, const REAL* grad_kl, const REAL* mean, const REAL* log_std,
        const REAL* noise, long long rows, int columns, REAL* grad_mean, REAL* grad_log_std) {
    const long long row = global_thread();
    if (row >= rows) return;
    const REAL l = grad_kl[row];
    for (long long i = row * columns; i < (row + 1) * columns; ++i) {
        grad_mean[i] = grad[i] + l * mean[i];
        grad_log_std[i] = grad[i] * exp(log_std[i]) * noise[i] + l * expm1(2 * log_std[i]);
    }
}

extern "C" __global__ void bernoulli_plain(const REAL* logits, const REAL* targets,
                                           long long n_targets, long long rows, int columns,
                                           REAL* out) {
    const long long row = global_thread();
    if (row >= rows) return;
    const REAL* x = logits + row * columns;
    const REAL* t = targets + row % n_targets * columns;
    REAL sum = 0;
    for (int j = 0; j < columns; ++j) sum += surprise(x[j], t[j]);
    out[row] = -sum;
}

extern "C" __global__ void bernoulli_grad_plain(const REAL* grad, const REAL* logits,
                                                const REAL* targets, long long n_targets,
                                                long long rows, int columns, REAL* grad_logits) {
    const long long row = global_thread();
    if (row >= rows) return;
    const REAL* x = logits + row * columns;
    const REAL* t = targets + row % n_targets * columns;
    for (int j = 0; j < columns; ++j)
        grad_logits[row * columns + j] = -grad[row] * surprise_slope(x[j], t[j]);
}

// ---- 2. and 3. groups and vectors --------------------------------------------------------------

extern "C" __global__ void reparameterize(const REAL* mean, const REAL* log_std, const REAL* noise,
                                          long long rows, int columns, int lanes, bool vectors,
                                          REAL* z, REAL* divergence) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Values means(mean + row * columns, part);
        const Values log_stds(log_std + row * columns, part);
        const Values noises(noise + row * columns, part);
        REAL sum = 0;
        part.each([&](int k, int j) {
            const auto m = means.get(k, j);
            const auto s = log_stds.get(k, j);
            auto v = noises.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i) {
                v.at[i] = m.at[i] + exp(s.at[i]) * v.at[i];
                sum += kl(m.at[i], s.at[i]);
            }
            store(z + row * columns + j, v);
        });
        sum = group.reduce(sum, Sum<REAL>());
        if (group.rank == 0 && row < rows) divergence[row] = sum;
    });
}

extern "C" __global__ void reparameterize_grad(const REAL* grad, const REAL* grad_kl,
                                               const REAL* mean, const REAL* log_std,
                                               const REAL* noise, long long rows, int columns,
                                               int lanes, bool vectors, REAL* grad_mean,
                                               REAL* grad_log_std) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto) {
        if (row >= rows) return;
        const REAL l = grad_kl[row];
        const Values grads(grad + row * columns, part);
        const Values means(mean + row * columns, part);
        const Values log_stds(log_std + row * columns, part);
        const Values noises(noise + row * columns, part);
        part.each([&](int k, int j) {
            const auto g = grads.get(k, j);
            auto m = means.get(k, j);
            auto s = log_stds.get(k, j);
            const auto e = noises.get(k, j);
            for (int i = 0; i < width_of<decltype(m)>; ++i) {
                m.at[i] = g.at[i] + l * m.at[i];
                s.at[i] = g.at[i] * exp(s.at[i]) * e.at[i] + l * expm1(2 * s.at[i]);
            }
            store(grad_mean + row * columns + j, m);
            store(grad_log_std + row * columns + j, s);
        });
    });
}

extern "C" __global__ void bernoulli(const REAL* logits, const REAL* targets, long long n_targets,
                                     long long rows, int columns, int lanes, bool vectors,
                                     REAL* out) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Values xs(logits + row * columns, part);
        const Values ts(targets + row % n_targets * columns, part);
        REAL sum = 0;
        part.each([&](int k, int j) {
            const auto x = xs.get(k, j);
            const auto t = ts.get(k, j);
            for (int i = 0; i < width_of<decltype(x)>; ++i) sum += surprise(x.at[i], t.at[i]);
        });
        sum = group.reduce(sum, Sum<REAL>());
        if (group.rank == 0 && row < rows) out[row] = -sum;
    });
}

extern "C" __global__ void bernoulli_grad(const REAL* grad, const REAL* logits,
                                          const REAL* targets, long long n_targets, long long rows,
                                          int columns, int lanes, bool vectors,
                                          REAL* grad_logits) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto) {
        if (row >= rows) return;
        const REAL g = grad[row];
        const Values xs(logits + row * columns, part);
        const Values ts(targets + row % n_targets * columns, part);
        part.each([&](int k, int j) {
            auto x = xs.get(k, j);
            const auto t = ts.get(k, j);
            for (int i = 0; i < width_of<decltype(x)>; ++i)
                x.at[i] = -g * surprise_slope(x.at[i], t.at[i]);
            store(grad_logits + row * columns + j, x);
        });
    });
}
