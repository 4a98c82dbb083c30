// PixelRNN's two-dimensional LSTMs, a step at a time. Line b of the wavefront (wavefront.cuh)
// takes its pixel p of step t:
//   (gates, h, c)[p] = cell(z[p], Σ_l K_l h[line b - reach + l before t], c[line b before t])
// A line shows its pixel of step t - 1, or its initial state if it has not started; a line
// outside of the map shows zeros. Shapes: N images, P = lines · length pixels, H hidden units, L
// taps; maps are channels-last: z and gates (N, P, 4, H), output and cells (N, P, H). Initial
// states (lines, H) may be null, for zeros. The skewed map of the paper never exists: the number
// of a pixel is linear in t and b.
//
// A pixel needs 8 L H² FLOPs for the product and about 30 H for the cell, and moves (L + 11) H
// numbers forwards: z and the states before read, gates, c and h written. Steps depend on each
// other: 55 on the diagonals of 28 × 28 pixels (63 for 32 × 32), 28 row by row. At H = 16 a
// diagonal of 100 images has at most 2800 pixels, 11 MFLOP and 2.3 MB: 1 µs on an H100, less than
// starting a kernel takes. From plain to fast:
//
// 1. `step_plain`: one thread a hidden unit of a pixel, which sums its own products. A launch a
//    step. Every pixel reads all weights from the caches: at H = 128 that is 0.5 MB for each.
// 2. GEMM + `step`: the product of all windows (rows of L H numbers) with the weights by a tiled
//    GEMM, all else in one pass, which also puts h into the windows of the step after. Two
//    launches of some µs a step: 0.2 to 0.4 ms for maps of 28 × 28 at H = 16, most of it waiting.
// 3. scan_persistent.cu: all steps in one launch, with the weights and the last states in shared
//    memory, for as many units as fit: H = 64 on an H100.
//
// The backward pass has the same three. The gradient of the weights is one product over all pixels
// after the scan; for it `windows` writes what every pixel has read.
//
// Any sizes, as long as an image has less than 2^31 pixels; one thread an element.

#include "common.cuh"
#include "recurrent_cell.cuh"
#include "wavefront.cuh"

constexpr int GATES = Lstm::GATES;

__device__ __forceinline__ long long thread()
{
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// One unit of one pixel of step t. Rows are ordered (line, image): those of a step's lines lie
// side by side.
struct Element {
    int t, b;        // step and line
    long long row;   // among the rows of this step
    long long n;     // image
    int j;           // unit
    long long pixel; // among all images'

    __device__ Element(const Wavefront& order, int t, int first, long long batch, int hidden)
        : t(t),
          row(thread() / hidden),
          j(int(thread() % hidden))
    {
        b = first + int(row / batch);
        n = row % batch;
        pixel = n * order.pixels() + order.pixel(t, b);
    }

    // Place of gate k in an (N, P, 4, H) array.
    __device__ long long gate(int k, int hidden) const { return (pixel * GATES + k) * hidden + j; }
};

// What line b showed before step t: unit j of `states` (N, P, H), or of the initial states.
__device__ __forceinline__ REAL state_before(
    const Wavefront& order, int t, int b, long long n, int j, int hidden, const REAL* states,
    const REAL* initial)
{
    if (b < 0 || b >= order.lines) return 0;
    if (order.taken(t, b) <= 0) return initial ? initial[(long long)b * hidden + j] : REAL(0);
    return states[(n * order.pixels() + order.pixel(t - 1, b)) * hidden + j];
}

// The cell of one element, from its product. Returns h.
__device__ __forceinline__ REAL step_element(
    const Wavefront& order, const Element& e, int hidden, const REAL* product, const REAL* z,
    const REAL* c0, REAL* gates, REAL* cells, REAL* output)
{
    REAL a[GATES], value[GATES];
    for (int k = 0; k < GATES; ++k) a[k] = z[e.gate(k, hidden)];
    REAL c = state_before(order, e.t, e.b, e.n, e.j, hidden, cells, c0);
    const REAL h = Lstm::forward(a, product, REAL(0), c, value);
    for (int k = 0; k < GATES; ++k) gates[e.gate(k, hidden)] = value[k];
    cells[e.pixel * hidden + e.j] = c;
    output[e.pixel * hidden + e.j] = h;
    return h;
}

// weight (L, H, 4, H): tap, unit before, gate, unit.
extern "C" __global__ void step_plain(
    const REAL* z, const REAL* weight, const REAL* h0, const REAL* c0, REAL* gates, REAL* cells,
    REAL* output, Wavefront order, int t, long long batch, int hidden)
{
    const Element e(order, t, order.begin(t), batch, hidden);
    if (e.b >= order.end(t)) return;
    REAL product[GATES] = {};
    for (int l = 0; l < order.taps; ++l) {
        const int other = e.b - order.reach + l;
        const REAL* w = weight + (long long)l * hidden * GATES * hidden + e.j;
        for (int i = 0; i < hidden; ++i) {
            const REAL h = state_before(order, t, other, e.n, i, hidden, output, h0);
            for (int k = 0; k < GATES; ++k)
                product[k] += h * w[((long long)i * GATES + k) * hidden];
        }
    }
    step_element(order, e, hidden, product, z, c0, gates, cells, output);
}

// product (rows of this step, 4, H) = windows · weight; windows (lines, N, L, H) are those of the
// step after on exit.
extern "C" __global__ void step(
    const REAL* product, const REAL* z, const REAL* c0, REAL* gates, REAL* cells, REAL* output,
    REAL* windows, Wavefront order, int t, long long batch, int hidden)
{
    const Element e(order, t, order.begin(t), batch, hidden);
    if (e.b >= order.end(t)) return;
    REAL own[GATES];
    for (int k = 0; k < GATES; ++k) own[k] = product[(e.row * GATES + k) * hidden + e.j];
    const REAL h = step_element(order, e, hidden, own, z, c0, gates, cells, output);
    for (int l = 0; l < order.taps; ++l) {
        const int reader = e.b + order.reach - l;
        if (0 <= reader && reader < order.lines)
            windows[((reader * batch + e.n) * order.taps + l) * hidden + e.j] = h;
    }
}

// The gradient of one element, whose h has the gradient grad_h from its readers. For a line that
// starts only in step t + 1 this is the gradient of its initial state. grad_c0 (lines, N, H) takes
// along the gradient of c, which ends as that of the initial state.
__device__ __forceinline__ void step_grad_element(
    const Wavefront& order, const Element& e, long long batch, int hidden, REAL grad_h,
    const REAL* grad_output, const REAL* c0, const REAL* gates, const REAL* cells, REAL* grad_h0,
    REAL* grad_c0, REAL* grad_a, REAL* grad_z)
{
    const long long state = (e.b * batch + e.n) * hidden + e.j;
    if (order.taken(e.t, e.b) < 0) {
        grad_h0[state] = grad_h;
        return;
    }
    REAL value[GATES], from_a[GATES], from_b[GATES];
    for (int k = 0; k < GATES; ++k) value[k] = gates[e.gate(k, hidden)];
    const REAL before = state_before(order, e.t, e.b, e.n, e.j, hidden, cells, c0);
    const long long at = e.pixel * hidden + e.j;
    REAL carry = grad_c0[state];
    Lstm::backward(grad_h + grad_output[at], carry, value, cells[at], before, from_a, from_b);
    grad_c0[state] = carry;
    for (int k = 0; k < GATES; ++k) {
        grad_z[e.gate(k, hidden)] = from_b[k];
        if (grad_a) grad_a[(e.row * GATES + k) * hidden + e.j] = from_b[k];
    }
}

// The lines of a backward step t >= -1: the active ones, and the one whose turn comes next.
__device__ __forceinline__ int end_grad(const Wavefront& order, int t)
{
    return order.delay ? min(order.lines, t + 2) : order.lines;
}

// weight (4, H, L, H): gate, unit, tap, unit before.
extern "C" __global__ void step_grad_plain(
    const REAL* grad_output, const REAL* weight, const REAL* c0, const REAL* gates,
    const REAL* cells, REAL* grad_h0, REAL* grad_c0, REAL* grad_z, Wavefront order, int t,
    long long batch, int hidden)
{
    const Element e(order, t, order.begin(t), batch, hidden);
    if (e.b >= end_grad(order, t)) return;
    const int channels = GATES * hidden;
    REAL grad_h = 0;
    for (int l = 0; l < order.taps; ++l) {
        const int reader = e.b + order.reach - l;
        if (!order.active(t + 1, reader)) continue;
        const REAL* after =
            grad_z + (e.n * order.pixels() + order.pixel(t + 1, reader)) * channels;
        for (int i = 0; i < channels; ++i)
            grad_h += after[i] * weight[((long long)i * order.taps + l) * hidden + e.j];
    }
    step_grad_element(
        order, e, batch, hidden, grad_h, grad_output, c0, gates, cells, grad_h0, grad_c0, nullptr,
        grad_z);
}

// grad_windows (rows of step t + 1, L, H) = grad_a · weight, null at the last step; grad_a (rows
// of this step, 4, H) is what the next product takes.
extern "C" __global__ void step_grad(
    const REAL* grad_windows, const REAL* grad_output, const REAL* c0, const REAL* gates,
    const REAL* cells, REAL* grad_h0, REAL* grad_c0, REAL* grad_a, REAL* grad_z, Wavefront order,
    int t, long long batch, int hidden)
{
    const Element e(order, t, order.begin(t), batch, hidden);
    if (e.b >= end_grad(order, t)) return;
    REAL grad_h = 0;
    for (int l = 0; l < order.taps && grad_windows; ++l) {
        const int reader = e.b + order.reach - l;
        if (!order.active(t + 1, reader)) continue;
        const long long row = (reader - order.begin(t + 1)) * batch + e.n;
        grad_h += grad_windows[(row * order.taps + l) * hidden + e.j];
    }
    step_grad_element(
        order, e, batch, hidden, grad_h, grad_output, c0, gates, cells, grad_h0, grad_c0, grad_a,
        grad_z);
}

// out (N, P, L, H): the states that each pixel has read.
extern "C" __global__ void windows(
    const REAL* output, const REAL* h0, REAL* out, Wavefront order, long long batch, int hidden)
{
    long long rest = thread();
    const int j = int(rest % hidden);
    rest /= hidden;
    const int l = int(rest % order.taps);
    rest /= order.taps;
    const int taken = int(rest % order.length);
    rest /= order.length;
    const int b = int(rest % order.lines);
    const long long n = rest / order.lines;
    if (n >= batch) return;
    const int t = taken + order.delay * b;
    const long long pixel = n * order.pixels() + order.pixel(t, b);
    out[(pixel * order.taps + l) * hidden + j] =
        state_before(order, t, b - order.reach + l, n, j, hidden, output, h0);
}
