// Optimizer steps over all parameters in one launch. Parameter p, gradient g, moments m, v (or u).
//
//   rule       per element, first what comes before: g ← g + weight_decay p      bytes in float32
//   sgd        p ← p - lr g; with momentum u ← momentum u + g,  p ← p - lr u     12; 20
//   rmsprop    v ← α v + (1 - α) g²,  p ← p - lr g / (√v + ε)                    20; momentum 28
//   adam       m ← β₁ m + (1 - β₁) g,  v ← β₂ v + (1 - β₂) g²,
//              p ← p - lr m̂ / (√v̂ + ε),  m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)    28
//   adamax     m as above,  u ← max(β₂ u, |g| + ε),  p ← p - lr / (1 - β₁ᵗ) m / u  28
//   ema        a ← a + (1 - d) (p - a),  d = min(decay, (1 + t) / (10 + t))      12
//   scale      g ← factor g                                                      8
//   squares    Σ g² of each chunk, which finish_norm adds up to √Σ               4
//
// 2 to 20 FLOPs for 4 bytes or more: memory is the limit, and before it the launches. A network
// has dozens of parameters, most of them biases of a few hundred elements; a launch takes longer
// than the work on one of those.
//
// Versions:
//   adam_plain   a launch per parameter, a thread per element.
//   *            one launch for all. The parameters are cut into chunks of at most CHUNK elements
//                (`optim.py`), a block for each, so that a weight of millions and a bias of 64 are
//                shared fairly among the multiprocessors; 16 bytes per load where a chunk's arrays
//                allow it, all loads of an element before the first store.
//
// Parameters and state stay where they are, so a table in device memory holds their addresses. The
// gradients are new arrays at every step: their addresses travel with the launch, by value. So
// nothing is copied to the device before a step, nothing can be out of date, and a recorded graph
// keeps the addresses of its own gradients. A launch may pass 4 KB; with more than GRADIENTS
// parameters there is one launch for each GRADIENTS of them.
//
// Learning rate, step, count t and factors may lie in device memory, to be read when the kernel
// runs: a replayed graph sees the numbers of its day. What follows from them (1 - βᵗ) is computed
// once per block, in double precision.

#include "common.cuh"
#include "vector.cuh"

constexpr int GRADIENTS = 448;

struct Gradients {
    REAL* at[GRADIENTS];
};

// A number from the host, or the address of one on the device.
struct Number {
    const void* address;
    double value;
    int type;
};

enum { FROM_HOST, FLOAT32, FLOAT64, INT64 };

__device__ __forceinline__ double read(const Number& number) {
    switch (number.type) {
        case FLOAT32: return *static_cast<const float*>(number.address);
        case FLOAT64: return *static_cast<const double*>(number.address);
        case INT64: return static_cast<double>(*static_cast<const long long*>(number.address));
        default: return number.value;
    }
}

// The part of N parallel arrays that a block works on.
template <int N>
struct Chunk {
    REAL* array[N];
    int count;
    bool aligned;
};

// This block's chunk. Row c of `chunks` is (tensor, first element, count); the arrays are those in
// the ROWS rows of the table, (ROWS, tensors) addresses, and then the gradient if there is one.
template <int ROWS, int N>
__device__ __forceinline__ Chunk<N> find_chunk(const long long* chunks,
                                               const unsigned long long* table, int tensors,
                                               const Gradients* gradients) {
    static_assert(ROWS == N || ROWS + 1 == N, "there is at most one gradient");
    const long long* row = chunks + 3LL * blockIdx.x;
    const long long tensor = row[0], first = row[1];
    Chunk<N> chunk;
    chunk.count = static_cast<int>(row[2]);
    unsigned long long bits = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        chunk.array[k] = k < ROWS ? reinterpret_cast<REAL*>(table[k * tensors + tensor])
                                  : gradients->at[tensor];
        chunk.array[k] += first;
        bits |= reinterpret_cast<unsigned long long>(chunk.array[k]);
    }
    chunk.aligned = bits % VECTOR_BYTES == 0;
    return chunk;
}

// Elements i, ..., i + W - 1: rule(x) has one of each array in x and changes the first WRITTEN.
template <int WRITTEN, int W, int N, typename Rule>
__device__ __forceinline__ void update(const Chunk<N>& chunk, int i, const Rule& rule) {
    Vector<REAL, W> values[N];
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = load<W>(chunk.array[k] + i);
#pragma unroll
    for (int w = 0; w < W; ++w) {
        REAL x[N];
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = values[k].at[w];
        rule(x);
#pragma unroll
        for (int k = 0; k < WRITTEN; ++k) values[k].at[w] = x[k];
    }
#pragma unroll
    for (int k = 0; k < WRITTEN; ++k) store(chunk.array[k] + i, values[k]);
}

template <int WRITTEN, int N, typename Rule>
__device__ __forceinline__ void for_chunk(const Chunk<N>& chunk, const Rule& rule) {
    constexpr int W = WIDTH<REAL>;
    const int vectors = chunk.aligned ? chunk.count / W : 0;
    for (int v = threadIdx.x; v < vectors; v += blockDim.x) update<WRITTEN, W>(chunk, v * W, rule);
    for (int i = vectors * W + threadIdx.x; i < chunk.count; i += blockDim.x)
        update<WRITTEN, 1>(chunk, i, rule);
}

// 1 - βᵗ from log β, without cancellation where β is near 1.
__device__ __forceinline__ double correction(double log_beta, double step) {
    return -expm1(step * log_beta);
}

// -------------------------------------------------------------------------------------------- SGD

extern "C" __global__ void sgd(const __grid_constant__ Gradients gradients,
                               const unsigned long long* table, const long long* chunks,
                               int tensors, const __grid_constant__ Number lr, REAL decay) {
    const REAL rate = static_cast<REAL>(read(lr));
    for_chunk<1>(find_chunk<1, 2>(chunks, table, tensors, &gradients), [&](REAL(&x)[2]) {
        REAL& p = x[0];
        const REAL g = x[1] + decay * p;
        p -= rate * g;
    });
}

// The update is weight_g g + weight_u u: u alone, or g + momentum u in Nesterov's form.
extern "C" __global__ void sgd_momentum(const __grid_constant__ Gradients gradients,
                                        const unsigned long long* table, const long long* chunks,
                                        int tensors, const __grid_constant__ Number lr, REAL decay,
                                        REAL momentum, REAL weight_g, REAL weight_u) {
    const REAL rate = static_cast<REAL>(read(lr));
    for_chunk<2>(find_chunk<2, 3>(chunks, table, tensors, &gradients), [&](REAL(&x)[3]) {
        REAL &p = x[0], &u = x[1];
        const REAL g = x[2] + decay * p;
        u = momentum * u + g;
        p -= rate * (weight_g * g + weight_u * u);
    });
}

// ---------------------------------------------------------------------------------------- RMSProp

// ε stands inside or outside of the root: one of the two is 0.
extern "C" __global__ void rmsprop(const __grid_constant__ Gradients gradients,
                                   const unsigned long long* table, const long long* chunks,
                                   int tensors, const __grid_constant__ Number lr, REAL decay,
                                   REAL alpha, REAL rest, REAL eps_inside, REAL eps_outside) {
    const REAL rate = static_cast<REAL>(read(lr));
    for_chunk<2>(find_chunk<2, 3>(chunks, table, tensors, &gradients), [&](REAL(&x)[3]) {
        REAL &p = x[0], &v = x[1];
        const REAL g = x[2] + decay * p;
        v = alpha * v + rest * g * g;
        p -= rate * g / (sqrt(v + eps_inside) + eps_outside);
    });
}

extern "C" __global__ void rmsprop_momentum(const __grid_constant__ Gradients gradients,
                                            const unsigned long long* table,
                                            const long long* chunks, int tensors,
                                            const __grid_constant__ Number lr, REAL decay,
                                            REAL alpha, REAL rest, REAL eps_inside,
                                            REAL eps_outside, REAL momentum) {
    const REAL rate = static_cast<REAL>(read(lr));
    for_chunk<3>(find_chunk<3, 4>(chunks, table, tensors, &gradients), [&](REAL(&x)[4]) {
        REAL &p = x[0], &v = x[1], &u = x[2];
        const REAL g = x[3] + decay * p;
        v = alpha * v + rest * g * g;
        u = momentum * u + g / (sqrt(v + eps_inside) + eps_outside);
        p -= rate * u;
    });
}

// ------------------------------------------------------------------------------------------- Adam

// As the paper has it, for one parameter; the launcher computes the corrections 1 - βᵗ.
extern "C" __global__ void adam_plain(REAL* p, REAL* m, REAL* v, const REAL* grad, long long n,
                                      REAL lr, REAL beta1, REAL rest1, REAL beta2, REAL rest2,
                                      REAL correction1, REAL correction2, REAL eps) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= n) return;
    const REAL g = grad[i];
    m[i] = beta1 * m[i] + rest1 * g;
    v[i] = beta2 * v[i] + rest2 * g * g;
    const REAL m_hat = m[i] / correction1;
    const REAL v_hat = v[i] / correction2;
    p[i] -= lr * m_hat / (sqrt(v_hat) + eps);
}

// Weight decay joins the gradient (`decay`), or shrinks p by 1 - lr shrinkage (AdamW).
extern "C" __global__ void adam(const __grid_constant__ Gradients gradients,
                                const unsigned long long* table, const long long* chunks,
                                int tensors, const __grid_constant__ Number lr,
                                const __grid_constant__ Number step, double log_beta1,
                                double log_beta2, double shrinkage, REAL decay, REAL beta1,
                                REAL rest1, REAL beta2, REAL rest2, REAL eps_inside,
                                REAL eps_outside) {
    __shared__ REAL of_the_step[3];
    if (threadIdx.x == 0) {
        const double t = read(step), rate = read(lr);
        of_the_step[0] = static_cast<REAL>(rate / correction(log_beta1, t));
        of_the_step[1] = static_cast<REAL>(1 / correction(log_beta2, t));
        of_the_step[2] = static_cast<REAL>(1 - rate * shrinkage);
    }
    __syncthreads();
    const REAL rate = of_the_step[0], unbias_v = of_the_step[1], shrink = of_the_step[2];
    for_chunk<3>(find_chunk<3, 4>(chunks, table, tensors, &gradients), [&](REAL(&x)[4]) {
        REAL &p = x[0], &m = x[1], &v = x[2];
        const REAL g = x[3] + decay * p;
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * g * g;
        p = shrink * p - rate * m / (sqrt(unbias_v * v + eps_inside) + eps_outside);
    });
}

extern "C" __global__ void adamax(const __grid_constant__ Gradients gradients,
                                  const unsigned long long* table, const long long* chunks,
                                  int tensors, const __grid_constant__ Number lr,
                                  const __grid_constant__ Number step, double log_beta1,
                                  REAL decay, REAL beta1, REAL rest1, REAL beta2, REAL eps) {
    __shared__ REAL rate_of_the_step;
    if (threadIdx.x == 0)
        rate_of_the_step = static_cast<REAL>(read(lr) / correction(log_beta1, read(step)));
    __syncthreads();
    const REAL rate = rate_of_the_step;
    for_chunk<3>(find_chunk<3, 4>(chunks, table, tensors, &gradients), [&](REAL(&x)[4]) {
        REAL &p = x[0], &m = x[1], &u = x[2];
        const REAL g = x[3] + decay * p;
        m = beta1 * m + rest1 * g;
        u = Max<REAL>()(beta2 * u, abs(g) + eps);  // which keeps NaN of either side
        p -= rate * m / u;
    });
}

// ----------------------------------------------------------------- averages, scaling, global norm

// After t updates; t = ∞ for d = decay.
extern "C" __global__ void ema(const unsigned long long* table, const long long* chunks,
                               int tensors, double one_minus_decay,
                               const __grid_constant__ Number t) {
    __shared__ REAL rest_of_the_step;
    if (threadIdx.x == 0)
        rest_of_the_step = static_cast<REAL>(max(one_minus_decay, 9 / (10 + read(t))));
    __syncthreads();
    const REAL rest = rest_of_the_step;  // 1 - d
    for_chunk<1>(find_chunk<2, 2>(chunks, table, tensors, nullptr), [&](REAL(&x)[2]) {
        REAL &a = x[0], &p = x[1];
        a += rest * (p - a);
    });
}

extern "C" __global__ void scale(const __grid_constant__ Gradients arrays, const long long* chunks,
                                 const __grid_constant__ Number factor) {
    const REAL f = static_cast<REAL>(read(factor));
    if (f == 1) return;  // gradients that need no clipping: no memory is touched
    for_chunk<1>(find_chunk<0, 1>(chunks, nullptr, 0, &arrays), [&](REAL(&x)[1]) { x[0] *= f; });
}

// sums[c] = Σ x² over chunk c; in double, whose range holds the square of every float.
extern "C" __global__ void squares(const __grid_constant__ Gradients arrays,
                                   const long long* chunks, double* sums) {
    __shared__ double scratch[WARP];
    double sum = 0;
    for_chunk<0>(find_chunk<0, 1>(chunks, nullptr, 0, &arrays),
                 [&](REAL(&x)[1]) { sum += static_cast<double>(x[0]) * x[0]; });
    sum = block_reduce(sum, Sum<double>(), scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block. out = (norm, factor): the norm √Σ sums, and what brings it down to `most` if it is
// finite and larger, else 1. Each thread adds its sums in order: no run differs from another.
extern "C" __global__ void finish_norm(const double* sums, long long n,
                                       const __grid_constant__ Number most, double* out) {
    __shared__ double scratch[WARP];
    double sum = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    sum = block_reduce(sum, Sum<double>(), scratch);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(sum), limit = read(most);
    out[0] = norm;
    out[1] = norm > limit && norm < INFINITY ? limit / norm : 1;
}
