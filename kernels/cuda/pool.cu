// Max and average pooling, nearest-neighbour resizing, and their gradients.
//
//     max pooling      y[i, j] = max over window (i, j) of x, and its place h · W + w as an int32
//     average pooling  y[i, j] = Σ over window (i, j) of x / count
//     nearest          y[i, j] = x[floor(i · H / OH), floor(j · W / OW)]
//
// for x (N, C, H, W) and y (N, C, OH, OW). Each kernel reads its input and writes its result about
// once: 4 bytes per element of x and y in float32, 8 with the places of max pooling, for one
// addition or comparison per element of a window. Windows that overlap read from the cache.
//
// Versions:
// 1. plain    A thread per result gathers what it needs: no atomics, one order of summation. The
//             threads of a warp take neighbouring results in memory, be they columns or channels.
// 2. vectors  A thread has 16 bytes of neighbouring channels: a quarter of the loads, and of the
//             divisions that find its place. Needs channels-last memory and whole vectors.
//
// They are the same code. The gradient of max pooling knows places, not windows: it can't gather.
// 1. plain    A thread adds up a plane (n, c) in order. Coalesced if channels lie side by side.
// 2. planes   A warp takes 32 results of a plane in contiguous memory at a time; of the lanes that
//             hit one element the first adds up all, in order. No atomics either.
//
// Sizes are what an int holds, the number of elements is not limited.

#include "pool.cuh"

extern "C" __global__ void max_pool(const REAL* x, Pool pool, bool vectors, REAL* y,
                                    int* indices) {
    const int height = pool.rows.size, width = pool.columns.size, channels = pool.channels;
    each_pixel(pool, pool.rows.windows, pool.columns.windows, vectors, [=](auto p) {
        constexpr int W = decltype(p)::vector;
        const Range rows = window(pool.rows, p.row);
        const Range columns = window(pool.columns, p.column);
        auto best = load<W>(x + p.at(rows.first, columns.first, height, width, channels));
        Vector<int, W> place;
        for (int& k : place.at) k = rows.first * width + columns.first;
        for (int h = rows.first; h < rows.stop; h += pool.rows.dilation)
            for (int w = columns.first; w < columns.stop; w += pool.columns.dilation) {
                const auto v = load<W>(x + p.at(h, w, height, width, channels));
                for (int c = 0; c < W; ++c) {
                    // The first NaN wins over all and is kept: no comparison with it is true.
                    const bool is_nan = v.at[c] != v.at[c] && best.at[c] == best.at[c];
                    if (v.at[c] > best.at[c] || is_nan) {
                        best.at[c] = v.at[c];
                        place.at[c] = h * width + w;
                    }
                }
            }
        store(y + p.index, best);
        store(indices + p.index, place);
    });
}

// grad_x holds zeros. The inputs are read ahead of the sums, which `__restrict__` permits.
extern "C" __global__ void max_pool_grad(const REAL* __restrict__ grad,
                                         const int* __restrict__ indices, long long planes,
                                         int channels, int results, int elements,
                                         REAL* __restrict__ grad_x) {
    const long long plane = global_thread();
    if (plane >= planes) return;
    int channel;
    const long long image = divide(plane, channels, channel);
    grad_x += image * elements * channels + channel;
    const long long first = image * results * channels + channel;
#pragma unroll 4
    for (int k = 0; k < results; ++k) {
        const long long i = first + (long long)k * channels;
        grad_x[(long long)indices[i] * channels] += grad[i];
    }
}

// grad_x holds zeros; blocks of whole warps.
extern "C" __global__ void max_pool_grad_planes(const REAL* grad, const int* indices,
                                                long long planes, int results, int elements,
                                                REAL* grad_x) {
    const int lane = threadIdx.x % WARP;
    const long long plane = global_thread() / WARP;
    if (plane >= planes) return;  // all lanes of the warp
    grad += plane * results;
    indices += plane * results;
    grad_x += plane * elements;
    for (int start = 0; start < results; start += WARP) {
        const bool present = start + lane < results;
        const int place = present ? indices[start + lane] : -1;
        const REAL g = present ? grad[start + lane] : REAL(0);
        REAL sum = 0;
        int owner = WARP;
        for (int other = 0; other < WARP; ++other) {
            const int other_place = __shfl_sync(FULL_WARP, place, other);
            const REAL other_g = __shfl_sync(FULL_WARP, g, other);
            if (other_place != place) continue;
            sum += other_g;
            owner = min(owner, other);
        }
        if (present && owner == lane) grad_x[place] += sum;
        __syncwarp();  // a later step may add to the same element
    }
}

// The number of elements by which a window's sum is divided.
__device__ __forceinline__ REAL count(Pool pool, Range rows, Range columns, bool include_pad) {
    return include_pad ? REAL(pool.rows.kernel_size) * pool.columns.kernel_size
                       : REAL(rows.stop - rows.first) * (columns.stop - columns.first);
}

extern "C" __global__ void avg_pool(const REAL* x, Pool pool, bool vectors, bool include_pad,
                                    REAL* y) {
    const int height = pool.rows.size, width = pool.columns.size, channels = pool.channels;
    each_pixel(pool, pool.rows.windows, pool.columns.windows, vectors, [=](auto p) {
        constexpr int W = decltype(p)::vector;
        const Range rows = window(pool.rows, p.row);
        const Range columns = window(pool.columns, p.column);
        Vector<REAL, W> sum = {};
        for (int h = rows.first; h < rows.stop; ++h)
            for (int w = columns.first; w < columns.stop; ++w) {
                const auto v = load<W>(x + p.at(h, w, height, width, channels));
                for (int c = 0; c < W; ++c) sum.at[c] += v.at[c];
            }
        const REAL n = count(pool, rows, columns, include_pad);
        for (REAL& e : sum.at) e /= n;
        store(y + p.index, sum);
    });
}

extern "C" __global__ void avg_pool_grad(const REAL* grad, Pool pool, bool vectors,
                                         bool include_pad, REAL* grad_x) {
    const int height = pool.rows.windows, width = pool.columns.windows, channels = pool.channels;
    each_pixel(pool, pool.rows.size, pool.columns.size, vectors, [=](auto p) {
        constexpr int W = decltype(p)::vector;
        const Range down = windows_of(pool.rows, p.row);
        const Range across = windows_of(pool.columns, p.column);
        Vector<REAL, W> sum = {};
        for (int i = down.first; i < down.stop; ++i)
            for (int j = across.first; j < across.stop; ++j) {
                const REAL n =
                    count(pool, window(pool.rows, i), window(pool.columns, j), include_pad);
                const auto g = load<W>(grad + p.at(i, j, height, width, channels));
                for (int c = 0; c < W; ++c) sum.at[c] += g.at[c] / n;
            }
        store(grad_x + p.index, sum);
    });
}

extern "C" __global__ void nearest(const REAL* x, Pool pool, bool vectors, REAL* y) {
    const int height = pool.rows.size, width = pool.columns.size, channels = pool.channels;
    each_pixel(pool, pool.rows.windows, pool.columns.windows, vectors, [=](auto p) {
        const int h = nearest_element(pool.rows, p.row);
        const int w = nearest_element(pool.columns, p.column);
        store(y + p.index, load<decltype(p)::vector>(x + p.at(h, w, height, width, channels)));
    });
}

extern "C" __global__ void nearest_grad(const REAL* grad, Pool pool, bool vectors, REAL* grad_x) {
    const int height = pool.rows.windows, width = pool.columns.windows, channels = pool.channels;
    each_pixel(pool, pool.rows.size, pool.columns.size, vectors, [=](auto p) {
        constexpr int W = decltype(p)::vector;
        const Range down = pixels_of(pool.rows, p.row);
        const Range across = pixels_of(pool.columns, p.column);
        Vector<REAL, W> sum = {};
        for (int i = down.first; i < down.stop; ++i)
            for (int j = across.first; j < across.stop; ++j) {
                const auto g = load<W>(grad + p.at(i, j, height, width, channels));
                for (int c = 0; c < W; ++c) sum.at[c] += g.at[c];
            }
        store(grad_x + p.index, sum);
    });
}
