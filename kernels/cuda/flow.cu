// The gated step of an inverse autoregressive flow on z (rows, columns). A row of ms, which a
// network gives, holds m and after it s.
//
//     x = s + bias          σ = sigmoid(x)          log σ = min(x, 0) - log1p(exp(-|x|))
//     y = σ z + (1 - σ) m                           dz = g σ,  dm = g (1 - σ)
//     log_det = Σ log σ, the sum over a row         ds = (g (z - m) σ + l) (1 - σ)
//
// where g and l are the gradients of y and of log_det.
//
// Bytes per number of z in float32: 16, the gradient 28. FLOPs: about 30, most of them in exp and
// log1p. σ is computed again for the gradient: 4 bytes written and read would take longer. Built
// from single operations the step reads and writes 80 bytes, in ten launches.
//
// Versions:
// 1. plain   A thread per row: threads of a warp read `columns` numbers apart.
// 2. groups  Neighbouring lanes take neighbouring numbers and add up their log σ: up to 32 lanes
//            for a row of up to 256 numbers, a block for a longer one.
// 3. vectors 16 bytes to an instruction. Needs rows of z that start at multiples of 16 bytes; then
//            m and s do, too.
//
// 2 and 3 are the same code. Any number of rows and columns (below 2³⁰); blocks of whole warps.

#include "softmax.cuh"  // each_row: the rows of a matrix, shared out to groups of threads

// σ, 1 - σ and log σ; the smaller of the first two is not found by subtracting.
struct Gate {
    REAL keep, replace, log_keep;
};

__device__ __forceinline__ Gate gate(REAL x) {
    const REAL e = exp(-fabs(x));
    const REAL large = 1 / (1 + e);
    const REAL small = e * large;
    const bool open = x > 0;
    return {open ? large : small, open ? small : large, (open ? REAL(0) : x) - log1p(e)};
}

// ---- 1. plain ----------------------------------------------------------------------------------

extern "C" __global__ void iaf_gate_plain(const REAL* z, const REAL* ms, REAL bias, long long rows,
                                          int columns, REAL* y, REAL* log_det) {
    const long long row = global_thread();
    if (row >= rows) return;
    const REAL* m = ms + 2 * row * columns;
    const REAL* s = m + columns;
    REAL sum = 0;
    for (int j = 0; j < columns; ++j) {
        const Gate at = gate(s[j] + bias);
        y[row * columns + j] = at.keep * z[row * columns + j] + at.replace * m[j];
        sum += at.log_keep;
    }
    log_det[row] = sum;
}

extern "C" __global__ void iaf_gate_grad_plain(const REAL* grad, const REAL* grad_log_det,
                                               const REAL* z, const REAL* ms, REAL bias,
                                               long long rows, int columns, REAL* grad_z,
                                               REAL* grad_ms) {
    const long long row = global_thread();
    if (row >= rows) return;
    for (int j = 0; j < columns; ++j) {
        const long long i = row * columns + j;  // in z
        const long long m = i + row * columns;  // in ms
        const long long s = m + columns;
        const Gate at = gate(ms[s] + bias);
        grad_z[i] = grad[i] * at.keep;
        grad_ms[m] = grad[i] * at.replace;
        grad_ms[s] = (grad[i] * (z[i] - ms[m]) * at.keep + grad_log_det[row]) * at.replace;
    }
}

// ---- 2. and 3. groups and vectors --------------------------------------------------------------

extern "C" __global__ void iaf_gate(const REAL* z, const REAL* ms, REAL bias, long long rows,
                                    int columns, int lanes, bool vectors, REAL* y,
                                    REAL* log_det) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto group) {
        const Values zs(z + row * columns, part);
        const Values of_m(ms + 2 * row * columns, part);
        const Values of_s(ms + (2 * row + 1) * columns, part);
        REAL sum = 0;
        part.each([&](int k, int j) {
            auto v = zs.get(k, j);
            const auto m = of_m.get(k, j);
            const auto s = of_s.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i) {
                const Gate at = gate(s.at[i] + bias);
                v.at[i] = at.keep * v.at[i] + at.replace * m.at[i];
                sum += at.log_keep;
            }
            store(y + row * columns + j, v);
        });
        sum = group.reduce(sum, Sum<REAL>());
        if (group.rank == 0 && row < rows) log_det[row] = sum;
    });
}

extern "C" __global__ void iaf_gate_grad(const REAL* grad, const REAL* grad_log_det,
                                         const REAL* z, const REAL* ms, REAL bias, long long rows,
                                         int columns, int lanes, bool vectors, REAL* grad_z,
                                         REAL* grad_ms) {
    each_row(rows, columns, lanes, vectors, [=](long long row, auto part, auto) {
        if (row >= rows) return;
        const REAL l = grad_log_det[row];
        const Values gs(grad + row * columns, part);
        const Values zs(z + row * columns, part);
        const Values of_m(ms + 2 * row * columns, part);
        const Values of_s(ms + (2 * row + 1) * columns, part);
        part.each([&](int k, int j) {
            auto g = gs.get(k, j);
            const auto v = zs.get(k, j);
            auto m = of_m.get(k, j);
            auto s = of_s.get(k, j);
            for (int i = 0; i < width_of<decltype(v)>; ++i) {
                const Gate at = gate(s.at[i] + bias);
                s.at[i] = (g.at[i] * (v.at[i] - m.at[i]) * at.keep + l) * at.replace;
                m.at[i] = g.at[i] * at.replace;
                g.at[i] *= at.keep;
            }
            store(grad_z + row * columns + j, g);
            store(grad_ms + 2 * row * columns + j, m);
            store(grad_ms + (2 * row + 1) * columns + j, s);
        });
    });
}
