// Softmax and its relatives along the rows of x (rows, columns), and the two cross entropies.
//
//     m = max_k x_k            rest = Σ_k exp(x_k - m) - 1          lse = m + log(1 + rest)
//     softmax                 y_j = exp(x_j - m) / (1 + rest)  dx_j = y_j (g_j - Σ_k g_k y_k)
//     log softmax             y_j = (x_j - m) - log(1 + rest)  dx_j = g_j - exp(y_j) Σ_k g_k
//     cross entropy, class t  (m - x_t) + log(1 + rest)        dx_j = g (exp(x_j - lse) - [j = t])
//     binary cross entropy    w |x| + log(1 + exp(-|x|))       dx = g sign(x) (w - σ(-|x|))
//     of a target t in [0, 1], where w = 1 - t for x > 0 and w = t else
//
// Bytes per value in float32: softmax 8, its gradient 12, cross entropy 4, its gradient 8,
// logsumexp 4, the binary ones 12 and 16. FLOPs: about 10 for each exponential, of which there are
// one or two, and a few more: far less than a GPU does in the time of those bytes. Passes over
// memory are what counts.
//
// Versions:
// 1. plain   A thread per row: one pass each for maximum, sum and result. Threads of a warp read
//            `columns` values apart, so a transaction of 32 bytes serves one of them at a time.
// 2. groups  Neighbouring lanes take neighbouring values. Maximum and sum come from one pass,
//            online. Up to 32 lanes keep a row of up to 256 values in registers: one read, no
//            barrier. A longer row has a block, which reads it again for the result, mostly from
//            the cache.
// 3. vectors 16 bytes to an instruction: a quarter of the loads and of the address arithmetic, and
//            more bytes under way. Needs rows that start at multiples of 16 bytes.
//
// 2 and 3 are the same code. Any number of rows and columns (below 2³¹); blocks of whole warps.

#include "softmax.cuh"

// Left alone, nvcc spills a few values in order to fit yet more blocks on a multiprocessor.
constexpr int THREADS = 256;
constexpr int BLOCKS = sizeof(REAL) == 4 ? 4 : 2;

// The loss of a row whose target is no class is NaN, and so is its gradient: no read goes astray.
__device__ __forceinline__ bool is_class(long long target, int columns) {
    return 0 <= target && target < columns;
}

// ---- 1. plain ----------------------------------------------------------------------------------

__device__ REAL plain_maximum(const REAL* x, int columns) {
    REAL max = -INFINITY;
    for (int j = 0; j < columns; ++j) max = Max<REAL>()(max, x[j]);
    return max;
}

__device__ REAL plain_sum(const REAL* x, int columns, REAL max) {
    REAL sum = 0;
    for (int j = 0; j < columns; ++j) sum += exp(x[j] - max);
    return sum;
}

extern "C" __global__ void softmax_plain(const REAL* x, long long rows, int columns,
                                         bool log_space, REAL* y) {
    const long long row = global_thread();
    if (row >= rows) return;
    x += row * columns;
    y += row * columns;
    const REAL max = plain_maximum(x, columns);
    const REAL sum = plain_sum(x, columns, max);
    for (int j = 0; j < columns; ++j)
        y[j] = log_space ? (x[j] - max) - log(sum) : exp(x[j] - max) / sum;
}

extern "C" __global__ void softmax_grad_plain(const REAL* grad, const REAL* y, long long rows,
                                              int columns, bool log_space, REAL* grad_x) {
    const long long row = global_thread();
    if (row >= rows) return;
    grad += row * columns;
    y += row * columns;
    grad_x += row * columns;
    REAL sum = 0;
    for (int j = 0; j < columns; ++j) sum += log_space ? grad[j] : grad[j] * y[j];
    for (int j = 0; j < columns; ++j)
        grad_x[j] = log_space ? grad[j] - exp(y[j]) * sum : y[j] * (grad[j] - sum);
}

extern "C" __global__ void cross_entropy_plain(const REAL* logits, const long long* targets,
                                               long long rows, int columns, long long ignore_index,
                                               REAL* losses, double* lse) {
    const long long row = global_thread();
    if (row >= rows) return;
    const long long target = targets[row];
    logits += row * columns;
    const REAL max = plain_maximum(logits, columns);
    const REAL log_sum = log(plain_sum(logits, columns, max));
    lse[row] = double(max) + double(log_sum);
    if (target == ignore_index)
        losses[row] = 0;
    else
        losses[row] = is_class(target, columns) ? (max - logits[target]) + log_sum : REAL(NAN);
}

extern "C" __global__ void cross_entropy_grad_plain(const REAL* grad, const REAL* logits,
                                                    const long long* targets, const double* lse,
                                                    long long rows, int columns,
                                                    long long ignore_index, REAL* grad_logits) {
    const long long row = global_thread();
    if (row >= rows) return;
    const long long target = targets[row];
    const REAL scale = is_class(target, columns) ? grad[row] : REAL(NAN);
    for (long long i = row * columns; i < (row + 1) * columns; ++i) {
        const REAL onehot = i - row * columns == target;
        const REAL softmax = exp(double(logits[i]) - lse[row]);
        grad_logits[i] = target == ignore_index ? REAL(0) : scale * (softmax - onehot);
    }
}

// ---- 2. and 3. groups and vectors --------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) softmax(
        const REAL* x, long long rows, int columns, int lanes, bool vectors, bool log_space,
        REAL* y) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Values values(x + row * columns, part);
        const Statistics s = statistics(values, part, group);
        const REAL log_sum = log1p(s.rest);
        const REAL scale = 1 / (1 + s.rest);
        part.each([&](int k, int j) {
            auto v = values.get(k, j);
            for (REAL& e : v.at) e = log_space ? (e - s.max) - log_sum : exp(e - s.max) * scale;
            store(y + row * columns + j, v);
        });
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) softmax_grad(
        const REAL* grad, const REAL* y, long long rows, int columns, int lanes, bool vectors,
        bool log_space, REAL* grad_x) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Values gs(grad + row * columns, part);
        const Values ys(y + row * columns, part);
        REAL sum = 0;
        part.each([&](int k, int j) {
            const auto g = gs.get(k, j);
            const auto v = ys.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i)
                sum += log_space ? g.at[i] : g.at[i] * v.at[i];
        });
        sum = group.reduce(sum, Sum<REAL>());
        part.each([&](int k, int j) {
            auto g = gs.get(k, j);
            const auto v = ys.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i)
                g.at[i] = log_space ? g.at[i] - exp(v.at[i]) * sum : v.at[i] * (g.at[i] - sum);
            store(grad_x + row * columns + j, g);
        });
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) logsumexp(
        const REAL* x, long long rows, int columns, int lanes, bool vectors, REAL* out) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Statistics s = statistics(Values(x + row * columns, part), part, group);
        const bool finite = s.max - s.max == 0;
        if (group.rank == 0 && row < rows) out[row] = finite ? s.max + log1p(s.rest) : s.max;
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) cross_entropy(
        const REAL* logits, const long long* targets, long long rows, int columns, int lanes,
        bool vectors, long long ignore_index, REAL* losses, double* lse) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const REAL* x = logits + row * columns;
        const Statistics s = statistics(Values(x, part), part, group);
        if (group.rank != 0 || row >= rows) return;
        const long long target = targets[row];
        const REAL log_sum = log1p(s.rest);
        lse[row] = double(s.max) + double(log_sum);
        if (target == ignore_index)
            losses[row] = 0;
        else
            losses[row] = is_class(target, columns) ? (s.max - x[target]) + log_sum : REAL(NAN);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) cross_entropy_grad(
        const REAL* grad, const REAL* logits, const long long* targets, const double* lse,
        long long rows, int columns, int lanes, bool vectors, long long ignore_index,
        REAL* grad_logits) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        if (row >= rows) return;
        const Values values(logits + row * columns, part);
        const long long target = targets[row];
        const REAL g = is_class(target, columns) ? grad[row] : REAL(NAN);
        // exp(x - lse) without rounding lse: by its rounded value, then by the remainder.
        const REAL shift = lse[row];
        const REAL scale = exp(REAL(double(shift) - lse[row]));
        part.each([&](int k, int j) {
            auto v = values.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i) {
                const REAL onehot = j + i == target;
                const REAL softmax = exp(v.at[i] - shift) * scale;
                v.at[i] = target == ignore_index ? REAL(0) : g * (softmax - onehot);
            }
            store(grad_logits + row * columns + j, v);
        });
    });
}

// ---- Binary cross entropy: a thread per vector of values, and one for each value of the rest --

template <typename F>
__device__ __forceinline__ void each_vector(long long size, bool vectors, F f) {
    const long long thread = global_thread();
    const long long whole = vectors ? size / WIDTH : 0;
    if (thread < whole)
        f(thread * WIDTH, Vector<REAL, WIDTH>());
    else if (whole * WIDTH + (thread - whole) < size)
        f(whole * WIDTH + (thread - whole), Vector<REAL, 1>());
}

extern "C" __global__ void binary_cross_entropy(const REAL* logits, const REAL* targets,
                                                long long size, bool vectors, REAL* losses) {
    each_vector(size, vectors, [=](long long first, auto v) {
        constexpr int W = width_of<decltype(v)>;
        const auto x = load<W>(logits + first);
        const auto t = load<W>(targets + first);
        for (int i = 0; i < W; ++i) {
            const REAL wrong = x.at[i] > 0 ? 1 - t.at[i] : t.at[i];
            v.at[i] = wrong * fabs(x.at[i]) + log1p(exp(-fabs(x.at[i])));
        }
        store(losses + first, v);
    });
}

extern "C" __global__ void binary_cross_entropy_grad(const REAL* grad, const REAL* logits,
                                                     const REAL* targets, long long size,
                                                     bool vectors, REAL* grad_logits) {
    each_vector(size, vectors, [=](long long first, auto v) {
        constexpr int W = width_of<decltype(v)>;
        const auto g = load<W>(grad + first);
        const auto x = load<W>(logits + first);
        const auto t = load<W>(targets + first);
        for (int i = 0; i < W; ++i) {
            const REAL e = exp(-fabs(x.at[i]));
            const REAL wrong = x.at[i] > 0 ? 1 - t.at[i] : t.at[i];
            const REAL difference = wrong - e / (1 + e);
            v.at[i] = g.at[i] * (x.at[i] > 0 ? difference : -difference);
        }
        store(grad_logits + first, v);
    });
}
