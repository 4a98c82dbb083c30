// Rows of a table (embedding), elements along an axis (gather), and the sums of their gradients.
//
//     take         y[m, d] = weight[index[m], d]
//     take grad    dweight[k, d] = Σ_{m: index[m] = k} g[m, d]
//     gather       y[o, i, n] = x[o, index[o, i, n], n]
//     scatter add  dx[o, k, n] = Σ_{i: index[o, i, n] = k} g[o, i, n]
//
// for weight (K, D), index (M,); x (outer, size, inner), index (outer, count, inner). Bytes in
// float32: 8 per element of the result, and 8 for each index; an addition per element at most. An
// index that is out of range reads nothing: its result is NaN, and its gradient goes nowhere. All
// sums have one order: the same bits from every run.
//
// Versions of take: 1. plain, a thread per element; 2. a thread per 16 bytes, if 4 | D (2 | D in
// float64). Versions of its gradient:
// 1. plain   A thread per element of the table reads all indices and adds up its own: K · D · M
//            reads of indices, from the cache at best.
// 2. tiles   A warp holds a tile of some 256 rows by 32 columns of the table in shared memory and
//            walks over a chunk of the indices, 32 at a time; a vote finds those in its tile. Each
//            lane adds up its own column, so that no two threads share an element. Gradients are
//            read once, indices ceil(K / 256) · ceil(D / 32) times. A second kernel adds up the
//            chunks' tables, in order: about an eighth as many bytes as the gradients.
// Gather and scatter add are plain: a thread per element, and per column (o, n). They are
// coalesced where inner indices lie side by side.

#include "addressing.cuh"
#include "common.cuh"

constexpr int WIDTH = VECTOR_BYTES / sizeof(REAL);
constexpr int BATCH = 8;  // gradients that a warp has under way

template <int W>
__device__ __forceinline__ void take_vector(const REAL* weight, const long long* index,
                                            long long count, long long rows, int columns,
                                            REAL* y) {
    const long long thread = global_thread();
    if (thread >= count * (columns / W)) return;
    int column;
    const long long m = divide(thread, columns / W, column);
    const long long row = index[m];
    Vector<REAL, W> values;
    for (REAL& e : values.at) e = NAN;
    if (0 <= row && row < rows) values = load<W>(weight + row * columns + column * W);
    store(y + thread * W, values);
}

extern "C" __global__ void take(const REAL* weight, const long long* index, long long count,
                                long long rows, int columns, bool vectors, REAL* y) {
    if (vectors)
        take_vector<WIDTH>(weight, index, count, rows, columns, y);
    else
        take_vector<1>(weight, index, count, rows, columns, y);
}

extern "C" __global__ void take_grad_plain(const REAL* grad, const long long* index,
                                           long long count, long long rows, int columns,
                                           REAL* grad_weight) {
    const long long thread = global_thread();
    if (thread >= rows * columns) return;
    int column;
    const long long row = divide(thread, columns, column);
    REAL sum = 0;
    for (long long m = 0; m < count; ++m)
        if (index[m] == row) sum += grad[m * columns + column];
    grad_weight[thread] = sum;
}

// Blocks of one warp: blockIdx.x is a chunk of the indices and a tile of the table's rows,
// blockIdx.y 32 of its columns. Writes one whole table per chunk.
extern "C" __global__ void __launch_bounds__(32) take_grad(
        const REAL* grad, const long long* index, long long count, long long rows, int columns,
        int tile_rows, int tiles, long long chunk, REAL* tables) {
    extern __shared__ REAL tile[];  // (tile_rows, 32); a lane touches its own column only
    const int lane = threadIdx.x;
    const long long first_row = (long long)(blockIdx.x % tiles) * tile_rows;
    const int held = min((long long)tile_rows, rows - first_row);
    const int column = blockIdx.y * WARP + lane;
    const bool present = column < columns;
    for (int row = 0; row < held; ++row) tile[row * WARP + lane] = 0;

    const long long start = blockIdx.x / tiles * chunk;
    const long long stop = min(start + chunk, count);
    for (long long m = start; m < stop; m += WARP) {
        const long long row = m + lane < stop ? index[m + lane] - first_row : -1;
        unsigned hits = __ballot_sync(FULL_WARP, 0 <= row && row < held);
        while (hits) {
            int source[BATCH];  // the lanes with the next hits, the same in all lanes
            REAL g[BATCH];
            for (int b = 0; b < BATCH; ++b) {
                source[b] = __ffs(hits) - 1;
                hits &= hits - 1;
                const bool wanted = source[b] >= 0 && present;
                g[b] = wanted ? grad[(m + source[b]) * columns + column] : REAL(0);
            }
            for (int b = 0; b < BATCH; ++b)
                if (source[b] >= 0)
                    tile[__shfl_sync(FULL_WARP, (int)row, source[b]) * WARP + lane] += g[b];
        }
    }
    if (!present) return;
    tables += (blockIdx.x / tiles * rows + first_row) * columns + column;
    for (long long row = 0; row < held; ++row) tables[row * columns] = tile[row * WARP + lane];
}

extern "C" __global__ void sum_tables(const REAL* tables, int chunks, long long size, REAL* sum) {
    const long long i = global_thread();
    if (i >= size) return;
    REAL total = 0;
#pragma unroll 4
    for (int c = 0; c < chunks; ++c) total += tables[c * size + i];
    sum[i] = total;
}

// Counted from the end if it is negative, as in NumPy; -1 if it is out of range.
__device__ __forceinline__ long long place(long long index, int size) {
    if (index < 0) index += size;
    return 0 <= index && index < size ? index : -1;
}

extern "C" __global__ void gather(const REAL* x, const long long* index, long long total, int size,
                                  int count, int inner, REAL* y) {
    const long long thread = global_thread();
    if (thread >= total) return;
    int i, n;
    const long long outer = divide(divide(thread, inner, n), count, i);
    const long long k = place(index[thread], size);
    y[thread] = k >= 0 ? x[(outer * size + k) * inner + n] : REAL(NAN);
}

// grad_x holds zeros.
extern "C" __global__ void scatter_add(const REAL* __restrict__ grad,
                                       const long long* __restrict__ index, long long columns,
                                       int size, int count, int inner,
                                       REAL* __restrict__ grad_x) {
    const long long thread = global_thread();
    if (thread >= columns) return;
    int n;
    const long long outer = divide(thread, inner, n);
    for (int i = 0; i < count; ++i) {
        const long long from = (outer * count + i) * inner + n;
        const long long k = place(index[from], size);
        if (k >= 0) grad_x[(outer * size + k) * inner + n] += grad[from];
    }
}
