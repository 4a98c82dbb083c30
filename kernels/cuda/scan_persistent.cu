// PixelRNN's two-dimensional LSTMs, all steps in one launch: version 3 of scan.cu, with its
// formulas and arrays. A block owns an image for the whole scan. Images don't depend on each
// other, so no block ever waits for another.
//
// The weights, 4 L H² numbers, lie in shared memory, the four gates of a unit side by side: one
// load. So do the states of all lines, two sets of h in turns, with zeros in place of the lines
// beside the map. Since a window of L lines is contiguous there, the product of a line is one loop
// over L H numbers. In a step, forwards:
//   every thread takes one unit of LINES neighbouring lines, and so reads a weight once for LINES
//   products; their cells follow at once; one __syncthreads.
// Backwards the same the other way round: the cells' gradients, __syncthreads, and the product of
// their windows, in which a line finds its readers (taps reversed), __syncthreads. A line that is
// not active holds zeros there.
//
// Sizes: any N; as many units as fit. The numbers in shared memory, forwards and backwards, are
//   4 L H² + (2 (lines + L - 1) + lines) H      and      4 L H² + (4 (lines + L - 1) + 2 lines) H.
// A block may have 64 KB on sm_75, 163 on sm_80, 99 on sm_86 and sm_89, 227 on sm_90. In fp32, 28
// lines and L = 2 take 13 and 19 KB at H = 16, 150 and 171 KB at H = 64. Where it doesn't fit, the
// launcher takes version 2: at H = 128 the weights are 512 KB.
//
// What bounds a step of m active lines, in cycles of an SM: 4 L H² m / 128 for the FMAs; in
// shared memory, 128 bytes a cycle, L H² m / 8 / LINES for weights and L H² m / 128 for h; and
// some 600 of latency (the first loads of a window, exp and tanh one after the other, a barrier).
// Predicted for diagonals, L = 2, of 28 × 28 pixels in fp32, forwards, at 1.75 GHz:
//   H    m on average   FMAs   shared memory      a step   55 steps
//   16   14              224    224 +  56 =  280   0.5 µs     28 µs
//   64   14             3584   3584 + 896 = 4480   2.9 µs    160 µs
// z is fetched before the window is summed, which hides its latency. Backwards four gradients are
// read for each weight, L H² m / 32 at best, and a step waits for its gates: twice as long. At
// H = 16 in fp32 100 images move 50 MB, 17 µs of an H100's memory, less than the steps take.

#include "common.cuh"
#include "recurrent_cell.cuh"
#include "wavefront.cuh"

constexpr int GATES = Lstm::GATES;
constexpr int LINES = 16 / sizeof(REAL);
constexpr int MOST_THREADS = 512;

struct alignas(16) Gates {
    REAL k[GATES];
};

// Neighbouring numbers, one or two loads.
template <int WIDTH>
struct alignas(WIDTH == 1 ? sizeof(REAL) : 16) Pack {
    REAL v[WIDTH];
};

__device__ __forceinline__ Gates* shared_memory()
{
    extern __shared__ float4 memory[];
    return reinterpret_cast<Gates*>(memory);
}

// use(first of LINES lines, unit) for all units of the lines begin ... end - 1, in turns.
template <typename Use>
__device__ __forceinline__ void each(int begin, int end, int hidden, Use use)
{
    const int items = (end - begin + LINES - 1) / LINES * hidden;
    for (int i = threadIdx.x; i < items; i += blockDim.x)
        use(begin + i / hidden * LINES, i % hidden);
}

// product[r] += Σ_i window[r][i] · weights[i], of LINES windows; `depth` is a multiple of WIDTH.
template <int WIDTH>
__device__ __forceinline__ void multiply(
    const REAL* const* window, const Gates* weights, int depth, int hidden,
    REAL (*product)[GATES])
{
#pragma unroll(4 / WIDTH)
    for (int i = 0; i < depth; i += WIDTH) {
        Pack<WIDTH> h[LINES];
#pragma unroll
        for (int r = 0; r < LINES; ++r)
            h[r] = *reinterpret_cast<const Pack<WIDTH>*>(window[r] + i);
#pragma unroll
        for (int v = 0; v < WIDTH; ++v) {
            const Gates w = weights[(i + v) * hidden];
#pragma unroll
            for (int r = 0; r < LINES; ++r)
#pragma unroll
                for (int k = 0; k < GATES; ++k) product[r][k] += w.k[k] * h[r].v[v];
        }
    }
}

// weight (L, H, H, 4): tap, unit before, unit, gate. Initial states (lines, H) may be null.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) scan_persistent(
    const REAL* z, const REAL* weight, const REAL* h0, const REAL* c0, REAL* gates, REAL* cells,
    REAL* output, Wavefront order, int hidden)
{
    const int lines = order.lines, depth = order.taps * hidden;
    const int padded = (lines + order.taps - 1) * hidden, margin = order.reach * hidden;
    Gates* const weights = shared_memory();                             // [depth][H]
    REAL* const h = reinterpret_cast<REAL*>(weights + depth * hidden);  // [2][padded]
    REAL* const c = h + 2 * padded;                                     // [lines][H]
    REAL* const flat = reinterpret_cast<REAL*>(weights);
    for (int i = threadIdx.x; i < depth * hidden * GATES; i += blockDim.x) flat[i] = weight[i];
    for (int i = threadIdx.x; i < padded; i += blockDim.x) {
        const bool inside = margin <= i && i < margin + lines * hidden;
        h[i] = h[padded + i] = inside && h0 ? h0[i - margin] : REAL(0);
    }
    for (int i = threadIdx.x; i < lines * hidden; i += blockDim.x) c[i] = c0 ? c0[i] : REAL(0);
    __syncthreads();

    const long long first = (long long)blockIdx.x * order.pixels();
    for (int t = 0; t < order.steps(); ++t) {
        const REAL* const before = h + t % 2 * padded;
        REAL* const after = h + (1 - t % 2) * padded;
        const int end = order.end(t);
        each(order.begin(t), end, hidden, [&](int b, int j) {
            REAL a[LINES][GATES], product[LINES][GATES] = {};
            long long at[LINES];
            const REAL* window[LINES];
#pragma unroll
            for (int r = 0; r < LINES; ++r) {
                const int line = min(b + r, end - 1);  // the last one again, where there are fewer
                window[r] = before + line * hidden;
                at[r] = (first + order.pixel(t, line)) * GATES * hidden + j;
#pragma unroll
                for (int k = 0; k < GATES; ++k) a[r][k] = z[at[r] + k * hidden];
            }
            if (hidden % 4 == 0)
                multiply<4>(window, weights + j, depth, hidden, product);
            else
                multiply<1>(window, weights + j, depth, hidden, product);
#pragma unroll
            for (int r = 0; r < LINES; ++r) {
                if (b + r >= end) continue;
                const int own = (b + r) * hidden + j;
                REAL value[GATES];
                const REAL new_h = Lstm::forward(a[r], product[r], REAL(0), c[own], value);
                after[margin + own] = new_h;
#pragma unroll
                for (int k = 0; k < GATES; ++k) gates[at[r] + k * hidden] = value[k];
                const long long state = (first + order.pixel(t, b + r)) * hidden + j;
                cells[state] = c[own];
                output[state] = new_h;
            }
        });
        __syncthreads();
    }
}

// weight (L, H, H, 4): tap from the last to the first, unit, unit before, gate. grad_h0, grad_c0
// (lines, N, H) are those of the initial states.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) scan_grad_persistent(
    const REAL* grad_output, const REAL* weight, const REAL* c0, const REAL* gates,
    const REAL* cells, REAL* grad_h0, REAL* grad_c0, REAL* grad_z, Wavefront order,
    long long batch, int hidden)
{
    const int lines = order.lines, depth = order.taps * hidden;
    const int padded = (lines + order.taps - 1) * hidden;
    const int margin = (order.taps - 1 - order.reach) * hidden;
    Gates* const weights = shared_memory();                         // [depth][H]
    Gates* const grad_a = weights + depth * hidden;                 // [padded]
    REAL* const grad_h = reinterpret_cast<REAL*>(grad_a + padded);  // [lines][H]
    REAL* const grad_c = grad_h + lines * hidden;                   // [lines][H]
    REAL* const flat = reinterpret_cast<REAL*>(weights);
    for (int i = threadIdx.x; i < depth * hidden * GATES; i += blockDim.x) flat[i] = weight[i];
    for (int i = threadIdx.x; i < padded; i += blockDim.x) grad_a[i] = Gates{};
    for (int i = threadIdx.x; i < lines * hidden; i += blockDim.x) grad_h[i] = grad_c[i] = 0;
    __syncthreads();

    const long long n = blockIdx.x, first = n * order.pixels();
    for (int t = order.steps() - 1; t >= 0; --t) {
        const int begin = order.begin(t), end = order.end(t);
        // One line more, which was active in step t + 1.
        const int last = min(lines, end + order.delay);
        for (int i = threadIdx.x; i < (last - begin) * hidden; i += blockDim.x) {
            const int b = begin + i / hidden, j = i % hidden, own = b * hidden + j;
            Gates from_b = {};
            if (b < end) {
                REAL value[GATES], from_a[GATES];
                const long long pixel = first + order.pixel(t, b);
#pragma unroll
                for (int k = 0; k < GATES; ++k)
                    value[k] = gates[(pixel * GATES + k) * hidden + j];
                REAL c_before = 0;
                if (order.taken(t, b) > 0)
                    c_before = cells[(first + order.pixel(t - 1, b)) * hidden + j];
                else if (c0)
                    c_before = c0[own];
                Lstm::backward(
                    grad_h[own] + grad_output[pixel * hidden + j], grad_c[own], value,
                    cells[pixel * hidden + j], c_before, from_a, from_b.k);
#pragma unroll
                for (int k = 0; k < GATES; ++k)
                    grad_z[(pixel * GATES + k) * hidden + j] = from_b.k[k];
            }
            grad_a[margin + own] = from_b;
        }
        __syncthreads();

        // All lines that an active one has read.
        const int read = max(0, begin - order.reach);
        const int read_end = min(lines, end + order.taps - 1 - order.reach);
        each(read, read_end, hidden, [&](int b, int j) {
            REAL sum[LINES] = {};
            const Gates* window[LINES];
#pragma unroll
            for (int r = 0; r < LINES; ++r)
                window[r] = grad_a + min(b + r, read_end - 1) * hidden;
#pragma unroll 4
            for (int i = 0; i < depth; ++i) {
                const Gates w = weights[i * hidden + j];
#pragma unroll
                for (int r = 0; r < LINES; ++r) {
                    const Gates g = window[r][i];
#pragma unroll
                    for (int k = 0; k < GATES; ++k) sum[r] += w.k[k] * g.k[k];
                }
            }
#pragma unroll
            for (int r = 0; r < LINES; ++r)
                if (b + r < read_end) grad_h[(b + r) * hidden + j] = sum[r];
        });
        __syncthreads();
    }
    for (int i = threadIdx.x; i < lines * hidden; i += blockDim.x) {
        const long long state = (i / hidden * batch + n) * hidden + i % hidden;
        grad_h0[state] = grad_h[i];
        grad_c0[state] = grad_c[i];
    }
}
