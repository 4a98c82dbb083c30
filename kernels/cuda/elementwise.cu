// Activations, their gradients, and chains of element-wise operations: one pass over memory each.
// Arrays are dense memory of n elements in any order of their axes, all in the same one.
//
//   activation        y = f(x)                        8 bytes per element in float32
//   activation_grad   dx = f'(saved) dy               12 bytes
//   chain             y = f2(f1(x, b1), b2) ...       8 bytes, and 4 for each b that is an array
//
// f takes 1 (relu) to some 40 (gelu, tanh) operations. A GPU has time for 100 or more while it
// moves 8 bytes (H100: 67 TFLOP/s, 3.35 TB/s), so memory is the limit as long as enough loads are
// under way. A chain of k steps in k passes would move 8 k bytes: one pass is the whole gain.
//
// Versions:
//   *_plain   a thread per element. Already coalesced: a warp reads 128 bytes that lie together.
//   *         16 bytes per load: a quarter of the instructions, four times the bytes under way for
//             each of them; f is chosen before the loop and not for each element (in a chain: for
//             each vector), a branch that all threads take alike.
// Any n, any pointers; `aligned` says that all are multiples of 16 bytes, as vectors need.

#include "for_each.cuh"

// The numbers by which the launcher names the functions: their places in `reference.STEPS`.
enum {
    RELU, LEAKY_RELU, ELU, SOFTPLUS, SIGMOID, TANH, SILU, GELU, GELU_TANH,
    NEG, ABS, SQUARE, SQRT, EXP, LOG,
    ADD, SUB, RSUB, MUL, DIV, RDIV, MAX, MIN,
};

#define SQRT_HALF REAL(0.70710678118654752)
#define SQRT_2_PI REAL(0.79788456080286536)  // √(2/π)
#define CUBIC REAL(0.044715)

__device__ __forceinline__ REAL sigmoid(REAL x) { return 1 / (1 + exp(-x)); }

// The normal distribution function. erfc keeps its digits where 1 + erf would cancel.
__device__ __forceinline__ REAL normal_cdf(REAL x) { return REAL(0.5) * erfc(-x * SQRT_HALF); }

// (1 + tanh u) / 2 = σ(2u), which keeps its digits where the tanh nears -1.
__device__ __forceinline__ REAL gelu_gate(REAL x) {
    return sigmoid(2 * SQRT_2_PI * x * (1 + CUBIC * x * x));
}

// Comparisons are written so that NaN passes. b is an activation's parameter or a step's operand.
__device__ __forceinline__ REAL apply(int kind, REAL x, REAL b) {
    switch (kind) {
        case RELU: return x <= 0 ? REAL(0) : x;
        case LEAKY_RELU: return x <= 0 ? b * x : x;
        case ELU: return x <= 0 ? b * expm1(x) : x;
        case SOFTPLUS: return (x <= 0 ? REAL(0) : x) + log1p(exp(-abs(x)));
        case SIGMOID: return sigmoid(x);
        case TANH: return tanh(x);
        case SILU: return x * sigmoid(x);
        case GELU: return x * normal_cdf(x);
        case GELU_TANH: return x * gelu_gate(x);
        case NEG: return -x;
        case ABS: return abs(x);
        case SQUARE: return x * x;
        case SQRT: return sqrt(x);
        case EXP: return exp(x);
        case LOG: return log(x);
        case ADD: return x + b;
        case SUB: return x - b;
        case RSUB: return b - x;
        case MUL: return x * b;
        case DIV: return x / b;
        case RDIV: return b / x;
        case MAX: return x > b || x != x ? x : b;
        default: return x < b || x != x ? x : b;  // MIN
    }
}

// g · dy/dx, with v the x or the y of the activation, whichever its table says was saved.
__device__ __forceinline__ REAL apply_grad(int kind, REAL g, REAL v, REAL a) {
    switch (kind) {
        case RELU: return v <= 0 ? REAL(0) : g;
        case LEAKY_RELU: return v <= 0 ? a * g : g;
        case ELU: return v <= 0 ? (v + a) * g : g;
        case SOFTPLUS: return -expm1(-v) * g;
        case SIGMOID: return v * (1 - v) * g;
        case TANH: return (1 - v * v) * g;
        case SILU: {
            const REAL s = sigmoid(v);
            return s * (1 + v * (1 - s)) * g;
        }
        case GELU: {
            const REAL density = SQRT_2_PI / 2 * exp(REAL(-0.5) * v * v);
            return (normal_cdf(v) + v * density) * g;
        }
        default: {  // GELU_TANH
            const REAL s = gelu_gate(v);
            const REAL slope = 2 * SQRT_2_PI * (1 + 3 * CUBIC * v * v);
            return s * (1 + v * (1 - s) * slope) * g;
        }
    }
}

// Calls body(Constant<kind>()): inside, the compiler knows the kind, keeps one branch of `apply`
// and drops the others.
template <typename Body>
__device__ __forceinline__ void with_activation(int kind, const Body& body) {
    switch (kind) {
        case RELU: return body(Constant<RELU>());
        case LEAKY_RELU: return body(Constant<LEAKY_RELU>());
        case ELU: return body(Constant<ELU>());
        case SOFTPLUS: return body(Constant<SOFTPLUS>());
        case SIGMOID: return body(Constant<SIGMOID>());
        case TANH: return body(Constant<TANH>());
        case SILU: return body(Constant<SILU>());
        case GELU: return body(Constant<GELU>());
        default: return body(Constant<GELU_TANH>());
    }
}

template <typename Body>
__device__ __forceinline__ void with_step(int kind, const Body& body) {
    switch (kind) {
        case NEG: return body(Constant<NEG>());
        case ABS: return body(Constant<ABS>());
        case SQUARE: return body(Constant<SQUARE>());
        case SQRT: return body(Constant<SQRT>());
        case EXP: return body(Constant<EXP>());
        case LOG: return body(Constant<LOG>());
        case ADD: return body(Constant<ADD>());
        case SUB: return body(Constant<SUB>());
        case RSUB: return body(Constant<RSUB>());
        case MUL: return body(Constant<MUL>());
        case DIV: return body(Constant<DIV>());
        case RDIV: return body(Constant<RDIV>());
        case MAX: return body(Constant<MAX>());
        case MIN: return body(Constant<MIN>());
        default: return with_activation(kind, body);
    }
}

// ------------------------------------------------------------------------------------ activations

extern "C" __global__ void activation_plain(const REAL* x, REAL* y, long long n, int kind,
                                            REAL a) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i < n) y[i] = apply(kind, x[i], a);
}

extern "C" __global__ void activation(const REAL* x, REAL* y, long long n, int kind, REAL a,
                                      bool aligned) {
    with_activation(kind, [&](auto known) {
        for_each<REAL>(n, aligned, [&](long long i, auto width) {
            auto v = load<width.value>(x + i);
#pragma unroll
            for (int w = 0; w < width.value; ++w) v.at[w] = apply(known.value, v.at[w], a);
            store(y + i, v);
        });
    });
}

extern "C" __global__ void activation_grad_plain(const REAL* grad, const REAL* saved, REAL* grad_x,
                                                 long long n, int kind, REAL a) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i < n) grad_x[i] = apply_grad(kind, grad[i], saved[i], a);
}

extern "C" __global__ void activation_grad(const REAL* grad, const REAL* saved, REAL* grad_x,
                                           long long n, int kind, REAL a, bool aligned) {
    with_activation(kind, [&](auto known) {
        for_each<REAL>(n, aligned, [&](long long i, auto width) {
            auto g = load<width.value>(grad + i);
            const auto v = load<width.value>(saved + i);
#pragma unroll
            for (int w = 0; w < width.value; ++w)
                g.at[w] = apply_grad(known.value, g.at[w], v.at[w], a);
            store(grad_x + i, g);
        });
    });
}

// ----------------------------------------------------------------------------------------- chains

// The launcher writes these bytes; the constant bank broadcasts them to all threads.
struct Step {
    const REAL* array;  // null: the operand is `number`
    long long size;     // 0: the array has x's shape, else its length along one axis of x
    long long inner;    // how many elements of x lie from one place of that axis to the next
    REAL number;
    int kind;
};

struct Chain {
    Step steps[8];
    int count;
};

// A step's operands for elements i, ..., i + W - 1.
template <int W>
__device__ __forceinline__ Vector<REAL, W> operands(const Step& step, long long i) {
    Vector<REAL, W> b;
    if (step.array == nullptr) {
#pragma unroll
        for (int w = 0; w < W; ++w) b.at[w] = step.number;
    } else if (step.size == 0) {
        b = load<W>(step.array + i);
    } else {
        // One division for the first element, then counting. The array is short and stays in L1.
        const unsigned long long place = static_cast<unsigned long long>(i) / step.inner;
        long long inside = i - place * step.inner;
        long long column = place % step.size;
#pragma unroll
        for (int w = 0; w < W; ++w) {
            b.at[w] = step.array[column];
            if (++inside == step.inner) {
                inside = 0;
                column = column + 1 == step.size ? 0 : column + 1;
            }
        }
    }
    return b;
}

extern "C" __global__ void chain_plain(const REAL* x, REAL* y, long long n,
                                       const __grid_constant__ Chain chain) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= n) return;
    REAL value = x[i];
    for (int s = 0; s < chain.count; ++s)
        value = apply(chain.steps[s].kind, value, operands<1>(chain.steps[s], i).at[0]);
    y[i] = value;
}

extern "C" __global__ void chain(const REAL* x, REAL* y, long long n,
                                 const __grid_constant__ Chain chain, bool aligned) {
    for_each<REAL>(n, aligned, [&](long long i, auto width) {
        auto v = load<width.value>(x + i);
        for (int s = 0; s < chain.count; ++s) {
            const Step& step = chain.steps[s];
            const auto b = operands<width.value>(step, i);
            with_step(step.kind, [&](auto known) {
#pragma unroll
                for (int w = 0; w < width.value; ++w)
                    v.at[w] = apply(known.value, v.at[w], b.at[w]);
            });
        }
        store(y + i, v);
    });
}
