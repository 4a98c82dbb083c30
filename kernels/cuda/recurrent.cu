// LSTM and GRU, a step at a time:
//   (gates, h', c') = cell(weight_ih x_t + bias_ih, weight_hh h + bias_hh, h, c)
// (cells in recurrent_cell.cuh). Shapes: T steps, N sequences, H hidden units, G gates (4 or 3).
// `gates` (N, G, H) of a step holds weight_ih x_t on entry, from one product for all steps.
//
// A step needs 2 G N H² FLOPs for the recurrent product and about 30 N H for the cells. It moves
// the weights' G H² numbers and, in the fused cell, (3 G + 3) N H forwards (input's and recurrent
// product and c read, gates, h and c written) and (2 G + 8) N H backwards. At N = H = 128, an LSTM
// in fp32: 16.8 MFLOP, 0.26 MB and 1 MB, all of it in the L2 cache: 1 µs on an H100, less than
// starting a kernel takes. From plain to fast:
//
// 1. `step_plain`: one thread an element, which sums its own G products over H. A launch a step.
//    Every sequence reads all weights from the caches.
// 2. GEMM + `step`: the product from a tiled GEMM, which reads a weight once for a tile of
//    sequences; everything after it in one pass over the step's elements. Bound by two launches a
//    step: steps depend on each other, so nothing hides the few µs that each launch takes.
// 3. recurrent_persistent.cu: all steps in one launch, weights in registers and shared memory.
//
// The backward pass has the same three. All that its scan computes is each step's gradient for the
// arguments of the gates (N, G, H); those of the weights and of x are products over all steps.
//
// Any sizes; one thread for each of the N H elements. 26 to 56 registers, no shared memory.

#include "common.cuh"
#include "recurrent_cell.cuh"

constexpr int GATES = CELL::GATES;

struct Element {
    long long n;  // sequence
    int j;        // unit
    long long at; // place in an (N, H) array

    __device__ Element(int hidden)
    {
        at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
        n = at / hidden;
        j = int(at % hidden);
    }

    // Place of gate k in an (N, G, H) array.
    __device__ long long gate(int k, int hidden) const { return (n * GATES + k) * hidden + j; }
};

// The step of one element from its recurrent products b.
__device__ __forceinline__ void step_element(
    const Element& e, int hidden, REAL* b, REAL* gates, const REAL* bias_ih, const REAL* bias_hh,
    const REAL* h_before, const REAL* c_before, REAL* h, REAL* kept)
{
    REAL a[GATES], value[GATES];
    for (int k = 0; k < GATES; ++k) {
        a[k] = gates[e.gate(k, hidden)];
        if (bias_ih) a[k] += bias_ih[k * hidden + e.j];
        if (bias_hh) b[k] += bias_hh[k * hidden + e.j];
    }
    REAL keep = c_before ? c_before[e.at] : REAL(0);
    h[e.at] = CELL::forward(a, b, h_before[e.at], keep, value);
    kept[e.at] = keep;
    for (int k = 0; k < GATES; ++k) gates[e.gate(k, hidden)] = value[k];
}

// c_before is null for a GRU; kept is c for an LSTM, b_n for a GRU; a bias may be null.
extern "C" __global__ void step_plain(
    REAL* gates, const REAL* weight_hh, const REAL* bias_ih, const REAL* bias_hh,
    const REAL* h_before, const REAL* c_before, REAL* h, REAL* kept, long long batch, int hidden)
{
    const Element e(hidden);
    if (e.n >= batch) return;
    REAL b[GATES] = {};
    for (int m = 0; m < hidden; ++m)
        for (int k = 0; k < GATES; ++k)
            b[k] += weight_hh[((long long)k * hidden + e.j) * hidden + m]
                * h_before[e.n * hidden + m];
    step_element(e, hidden, b, gates, bias_ih, bias_hh, h_before, c_before, h, kept);
}

// product (N, G, H) = weight_hh h_before.
extern "C" __global__ void step(
    REAL* gates, const REAL* product, const REAL* bias_ih, const REAL* bias_hh,
    const REAL* h_before, const REAL* c_before, REAL* h, REAL* kept, long long batch, int hidden)
{
    const Element e(hidden);
    if (e.n >= batch) return;
    REAL b[GATES];
    for (int k = 0; k < GATES; ++k) b[k] = product[e.gate(k, hidden)];
    step_element(e, hidden, b, gates, bias_ih, bias_hh, h_before, c_before, h, kept);
}

// Adds this step's gradient of the output, then goes back through the cell. `grad_h` holds what
// reaches h past the weights, on entry from the step after, on exit for the step before.
__device__ __forceinline__ void step_grad_element(
    const Element& e, int hidden, REAL product, const REAL* grad_output, const REAL* gates,
    const REAL* kept, const REAL* before, REAL* grad_h, REAL* grad_c, REAL* grad_a, REAL* grad_b)
{
    REAL value[GATES], from_a[GATES], from_b[GATES];
    for (int k = 0; k < GATES; ++k) value[k] = gates[e.gate(k, hidden)];
    REAL carry_c = grad_c ? grad_c[e.at] : REAL(0);
    grad_h[e.at] = CELL::backward(
        grad_h[e.at] + product + grad_output[e.at], carry_c, value, kept[e.at], before[e.at],
        from_a, from_b);
    if (grad_c) grad_c[e.at] = carry_c;
    for (int k = 0; k < GATES; ++k) {
        grad_b[e.gate(k, hidden)] = from_b[k];
        if (grad_a) grad_a[e.gate(k, hidden)] = from_a[k];
    }
}

// grad_after (N, G, H) is grad_b of the step after, null at the last. grad_c is null for a GRU,
// grad_a for an LSTM, whose two products have the same gradient.
extern "C" __global__ void step_grad_plain(
    const REAL* grad_after, const REAL* weight_hh, const REAL* grad_output, const REAL* gates,
    const REAL* kept, const REAL* before, REAL* grad_h, REAL* grad_c, REAL* grad_a, REAL* grad_b,
    long long batch, int hidden)
{
    const Element e(hidden);
    if (e.n >= batch) return;
    REAL product = 0;
    if (grad_after)
        for (int row = 0; row < GATES * hidden; ++row)
            product += grad_after[e.n * GATES * hidden + row]
                * weight_hh[(long long)row * hidden + e.j];
    step_grad_element(
        e, hidden, product, grad_output, gates, kept, before, grad_h, grad_c, grad_a, grad_b);
}

// product (N, H) = weight_hhᵀ grad_after, null at the last step.
extern "C" __global__ void step_grad(
    const REAL* product, const REAL* grad_output, const REAL* gates, const REAL* kept,
    const REAL* before, REAL* grad_h, REAL* grad_c, REAL* grad_a, REAL* grad_b, long long batch,
    int hidden)
{
    const Element e(hidden);
    if (e.n >= batch) return;
    step_grad_element(
        e, hidden, product ? product[e.at] : REAL(0), grad_output, gates, kept, before, grad_h,
        grad_c, grad_a, grad_b);
}
