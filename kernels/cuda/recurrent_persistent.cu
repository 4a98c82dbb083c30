// LSTM and GRU, all steps in one launch: version 3 of recurrent.cu, with its formulas and arrays.
// A block owns ROWS sequences for the whole scan. Sequences don't depend on each other, so no
// block ever waits for another.
//
// The weights, G H² numbers, are read once and stay in the SM. A block has SLICES · H threads (H
// rounded up to whole warps): thread (slice, unit) keeps the weights between its unit and the
// H / SLICES units of its slice. The first HELD units' are in its registers, the others' in shared
// memory. A step, forwards, with a __syncthreads after each part:
//   1. every thread multiplies its weights with its slice of h, of all ROWS sequences;
//   2. thread (slice, unit) is the cell of sequence `slice`: it adds up the slices' partial sums,
//      and writes its gates and h to global memory, h to shared memory too. c stays in a register.
// Backwards the same the other way round: first the cells, then the product of their gradients.
// What the cells read from global memory is fetched one step ahead.
//
// Sizes: any T and N; H <= 128, from 512 threads with 128 registers each: 64 for weights (in fp32
// those of 16 units and 4 gates), up to 16 for sums, the rest for a step's values and the next
// one's. So the registers of an SM, 256 KB, hold up to 128 KB of weights: in fp32 all of them up
// to H = 64. Dynamic shared memory has
//   SLICES P IN  +  (P - HELD) G threads  +  threads OUT   numbers,   P = max(H / SLICES, HELD)
// for h, weights and partial sums, (IN, OUT) = (ROWS, G ROWS) forwards, (G ROWS, ROWS) backwards.
// An LSTM in fp32, ROWS = 4, H = 64, 96, 128: 17, 74, 162 KB. A block may have 64 KB on sm_75, 163
// on sm_80, 99 on sm_86 and sm_89, 227 on sm_90. Where it doesn't fit, the launcher takes version
// 2: at H = 256 the weights, 1 MB, would need four SMs that exchange h in every step.
//
// What bounds a step, in cycles of an SM: G H² ROWS / 128 for the FMAs, a cycle for 128 bytes of
// shared memory, and some 400 of latency (two barriers, the slices' sums, exp and tanh one after
// the other). Predicted for an LSTM in fp32, forwards, at 1.75 GHz:
//   H    ROWS   FMAs   shared memory: weights + h + sums   a step
//   64    1      128      0 +  128 +   64 =  192           0.35 µs
//   64    4      512      0 +  128 +  256 =  384           0.6 µs
//   128   1      512   1024 +  512 +  128 = 1664           1.2 µs
//   128   4     2048   1024 +  512 +  512 = 2048           1.7 µs
// So ROWS = 4 takes less than twice as long, with a quarter of the blocks: it pays once blocks of
// one sequence don't fit the GPU all at once. Backwards a thread meets G gradients of each unit
// instead of one h (at H = 128, ROWS = 4: 1024 + 2048 + 128 cycles). A GRU takes three quarters.
// Before the first step every block reads all weights from the L2, 2 to 5 µs at H = 128.
//
// 96 to 128 registers and no spills, but with ROWS = 4 in double, a variant that is not made. No
// bank conflicts: threads of a warp read weights and sums next to each other; of h they all read
// the same number, up to 16 bytes at once.

#include "common.cuh"
#include "recurrent_cell.cuh"

constexpr int GATES = CELL::GATES;
constexpr int SLICES = 4;                // at least ROWS
constexpr int HELD = 64 / sizeof(REAL);
constexpr int MOST_THREADS = 512;

__device__ __forceinline__ REAL* shared_memory()
{
    extern __shared__ float4 memory[];  // aligned for reads of 16 bytes
    return reinterpret_cast<REAL*>(memory);
}

// Who a thread is, and where the arrays in shared memory begin.
struct Place {
    int hidden, width, per_slice, padded;
    int slice, unit;
    REAL* vector;   // [SLICES][padded][in], what the weights are multiplied with
    REAL* weights;  // [padded - HELD][GATES][threads]
    REAL* partial;  // [SLICES][out][width], each slice's part of the products

    __device__ Place(int hidden, int in)
        : hidden(hidden),
          width(blockDim.x / SLICES),
          per_slice((hidden + SLICES - 1) / SLICES),
          padded(max(per_slice, HELD)),
          slice(threadIdx.x / width),
          unit(threadIdx.x % width),
          vector(shared_memory()),
          weights(vector + SLICES * padded * in),
          partial(weights + (padded - HELD) * GATES * blockDim.x)
    {
    }

    __device__ void clear_vector(int in) const
    {
        for (int i = threadIdx.x; i < SLICES * padded * in; i += blockDim.x) vector[i] = 0;
        __syncthreads();
    }

    // Number v of this thread's own unit in `vector`.
    __device__ REAL& own(int v, int in) const
    {
        return vector[(unit / per_slice * padded + unit % per_slice) * in + v];
    }

    // Number v of a slice's partial sums for this thread's own unit.
    __device__ REAL& sum(int of_slice, int v, int out) const
    {
        return partial[(of_slice * out + v) * width + unit];
    }
};

// The weights of one thread.
struct Weights {
    REAL held[HELD][GATES];
    const REAL* shared;
    int in_shared;

    // The weight between this thread's unit and unit i, for gate k, is
    // weight[k * gate_stride + i * stride + unit]: neighbours read numbers that are neighbours.
    // Past the end of a slice lie zeros, in `vector` too.
    __device__ Weights(const Place& p, const REAL* weight, int gate_stride, int stride)
        : shared(p.weights + threadIdx.x), in_shared(p.padded - HELD)
    {
        const int first = p.slice * p.per_slice;
        const int units = p.unit < p.hidden ? min(p.per_slice, p.hidden - first) : 0;
        const REAL* own = weight + first * stride + p.unit;
#pragma unroll
        for (int i = 0; i < HELD; ++i)
#pragma unroll
            for (int k = 0; k < GATES; ++k)
                held[i][k] = i < units ? own[k * gate_stride + i * stride] : REAL(0);
        REAL* put = p.weights + threadIdx.x;
        for (int i = HELD; i < p.padded; ++i)
            for (int k = 0; k < GATES; ++k, put += blockDim.x)
                *put = i < units ? own[k * gate_stride + i * stride] : REAL(0);
    }

    // use(i, the weights [GATES] of unit i of the slice) for each of them.
    template <typename Use>
    __device__ __forceinline__ void each(Use use) const
    {
#pragma unroll
        for (int i = 0; i < HELD; ++i) use(i, held[i]);
#pragma unroll 2  // more would not leave 128 registers enough
        for (int i = 0; i < in_shared; ++i) {
            REAL w[GATES];
#pragma unroll
            for (int k = 0; k < GATES; ++k) w[k] = shared[(i * GATES + k) * blockDim.x];
            use(HELD + i, w);
        }
    }
};

// weight_t (H, G, H) is weight_hh transposed. c0 is null for a GRU; kept is c for an LSTM, b_n for
// a GRU; a bias may be null. steps > 0.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) scan_persistent(
    REAL* gates, const REAL* weight_t, const REAL* bias_ih, const REAL* bias_hh, const REAL* h0,
    const REAL* c0, REAL* output, REAL* kept, int steps, long long batch, int hidden, bool reverse)
{
    constexpr int IN = ROWS, OUT = GATES * ROWS;
    const Place p(hidden, IN);
    const Weights weights(p, weight_t, hidden, GATES * hidden);
    p.clear_vector(IN);
    const long long n = (long long)blockIdx.x * ROWS + p.slice;
    const bool is_cell = p.slice < ROWS && n < batch && p.unit < hidden;
    const long long stride = reverse ? -batch : batch;
    long long row = (reverse ? steps - 1 : 0) * batch + n;  // sequence n at this step, of T N rows

    REAL h = 0, keep = 0, a_next[GATES] = {};
    auto fetch = [&](long long at) {
        for (int k = 0; k < GATES; ++k) a_next[k] = gates[(at * GATES + k) * hidden + p.unit];
    };
    if (is_cell) {
        h = p.own(p.slice, IN) = h0[n * hidden + p.unit];
        keep = c0 ? c0[n * hidden + p.unit] : REAL(0);
        fetch(row);
    }
    __syncthreads();

    for (int step = 0; step < steps; ++step, row += stride) {
        REAL a[GATES];
        for (int k = 0; k < GATES; ++k) a[k] = a_next[k];
        if (is_cell && step + 1 < steps) fetch(row + stride);

        REAL sum[GATES][ROWS] = {};
        const REAL* vector = p.vector + p.slice * p.padded * IN;
        weights.each([&](int i, const REAL* w) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int k = 0; k < GATES; ++k) sum[k][r] += w[k] * vector[i * IN + r];
        });
#pragma unroll
        for (int k = 0; k < GATES; ++k)
#pragma unroll
            for (int r = 0; r < ROWS; ++r) p.sum(p.slice, k * ROWS + r, OUT) = sum[k][r];
        __syncthreads();

        if (is_cell) {
            REAL b[GATES], value[GATES];
            for (int k = 0; k < GATES; ++k) {
                // From the cache again at each step, to save registers.
                if (bias_ih) a[k] += bias_ih[k * hidden + p.unit];
                b[k] = bias_hh ? bias_hh[k * hidden + p.unit] : REAL(0);
                for (int s = 0; s < SLICES; ++s) b[k] += p.sum(s, k * ROWS + p.slice, OUT);
            }
            h = p.own(p.slice, IN) = CELL::forward(a, b, h, keep, value);
            output[row * hidden + p.unit] = h;
            kept[row * hidden + p.unit] = keep;
            for (int k = 0; k < GATES; ++k) gates[(row * GATES + k) * hidden + p.unit] = value[k];
        }
        __syncthreads();  // the new h is there, and nobody reads the partial sums any more
    }
}

// grad_h and grad_c (N, H) hold the gradients of the last states on entry, of the first on exit;
// grad_c is null for a GRU. states (T, N, H) and initial (N, H) are c for an LSTM, h for a GRU.
// grad_a is null for an LSTM, whose two products have the same gradient, grad_b. steps > 0.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) scan_grad_persistent(
    const REAL* grad_output, const REAL* gates, const REAL* kept, const REAL* states,
    const REAL* initial, const REAL* weight_hh, REAL* grad_h, REAL* grad_c, REAL* grad_a,
    REAL* grad_b, int steps, long long batch, int hidden, bool reverse)
{
    constexpr int IN = GATES * ROWS, OUT = ROWS;
    constexpr int CHAINS = ROWS > 1 ? 1 : GATES;  // one sum alone would wait for each FMA's end
    const Place p(hidden, IN);
    const Weights weights(p, weight_hh, hidden * hidden, hidden);
    p.clear_vector(IN);
    const long long n = (long long)blockIdx.x * ROWS + p.slice;
    const bool is_cell = p.slice < ROWS && n < batch && p.unit < hidden;
    const long long stride = reverse ? batch : -batch;
    long long row = (reverse ? 0 : steps - 1) * batch + n;

    REAL gradient = 0, carry_c = 0;
    REAL value[GATES] = {}, keep = 0, before = 0, from_output = 0;  // of the step to come
    auto fetch = [&](long long at, bool last) {
        for (int k = 0; k < GATES; ++k) value[k] = gates[(at * GATES + k) * hidden + p.unit];
        keep = kept[at * hidden + p.unit];
        before = last ? initial[n * hidden + p.unit] : states[(at + stride) * hidden + p.unit];
        from_output = grad_output[at * hidden + p.unit];
    };
    if (is_cell) {
        gradient = grad_h[n * hidden + p.unit];
        carry_c = grad_c ? grad_c[n * hidden + p.unit] : REAL(0);
        fetch(row, steps == 1);
    }

    for (int step = 0; step < steps; ++step, row += stride) {
        if (is_cell) {
            REAL from_a[GATES], from_b[GATES];
            gradient = CELL::backward(
                gradient + from_output, carry_c, value, keep, before, from_a, from_b);
            for (int k = 0; k < GATES; ++k) {
                p.own(k * ROWS + p.slice, IN) = from_b[k];
                grad_b[(row * GATES + k) * hidden + p.unit] = from_b[k];
                if (grad_a) grad_a[(row * GATES + k) * hidden + p.unit] = from_a[k];
            }
            if (step + 1 < steps) fetch(row + stride, step + 2 == steps);
        }
        __syncthreads();

        REAL sum[CHAINS][ROWS] = {};
        const REAL* vector = p.vector + p.slice * p.padded * IN;
        weights.each([&](int i, const REAL* w) {
#pragma unroll
            for (int k = 0; k < GATES; ++k)
#pragma unroll
                for (int r = 0; r < ROWS; ++r)
                    sum[k % CHAINS][r] += w[k] * vector[i * IN + k * ROWS + r];
        });
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            for (int k = 1; k < CHAINS; ++k) sum[0][r] += sum[k][r];
            p.sum(p.slice, r, OUT) = sum[0][r];
        }
        __syncthreads();

        if (is_cell)
            for (int s = 0; s < SLICES; ++s) gradient += p.sum(s, p.slice, OUT);
    }
    if (is_cell) {
        grad_h[n * hidden + p.unit] = gradient;
        if (grad_c) grad_c[n * hidden + p.unit] = carry_c;
    }
}
