// DRAW's windows: grids of n × n Gaussian filters, which read patches of images and write them.
// Images X (N, C, H, W), patches P (N, C, n, n), window (N, 5): g̃x, g̃y, log σ², log δ̃, log γ.
// Per axis of A pixels, in each image:
//
//     μ_i = (g̃ + 1)(A + 1)/2 - 1 + (i - (n - 1)/2) δ        δ = δ̃ (max(H, W) - 1)/(n - 1)
//     F[i, a] = exp((m² - (a - μ_i)²)/2σ²) / Z_i            m = the nearest pixel - μ_i
//
//     read   P = γ F_y X F_xᵀ          write   X = 1/γ F_yᵀ P F_x
//
// Both are derivatives of B = s Σ_c P · F_y X F_xᵀ, with s = γ or 1/γ: for P, and for X. So the
// gradient of reading for X is a writing with s = γ, that of writing for P a reading with s = 1/γ,
// and those of the five numbers are of one form, where P or X is the gradient of the result. With
// the products S = F_y X and T = s P F_x, both (n, W):
//
//     ∂B/∂F_y = Σ_c T Xᵀ    ∂B/∂F_x = s Σ_c Pᵀ S    ∂B/∂log γ = ± F_y · ∂B/∂F_y
//     ∂B/∂logits = F[i, a] (∂B/∂F[i, a] - average of ∂B/∂F[i] by F[i])
//
// Per channel about 2 n H W FLOPs, the gradient 6 n H W; bytes: those of X and P once. At 28 × 28
// and n = 5 that is 8 kFLOP for 3 kB: a launch takes longer. Of single operations, a window would
// be some 30 launches.
//
// Versions:
// 1. plain   window_plain.cu: filters go to global memory; a thread then sums up one number of the
//            result over all pixels, n times the FLOPs, since nothing holds S and T. Any sizes.
// 2. fused   This file: one launch, a block an image, its channels in turn. Filters, S, T and the
//            filters' gradients lie in shared memory, n (H + 2 W) numbers, or 2 n (H + 2 W) and 5 a
//            warp for the gradient: for n = 12 on 128 × 128 pixels 18 and 36 KB in float32. A
//            thread sums TILE numbers at once, and so reads one of two factors once for TILE
//            products. X is not copied: S reads it n / TILE times, ∂B/∂F_y n times, mostly from
//            the L1 cache.
//
// Every sum has a fixed order: results are the same in every run. Images of less than 2³¹ pixels.

#include "window.cuh"

constexpr int TILE = 4;
constexpr int SHARERS = 8;  // of a sum along a row: 32 bytes, the least that memory reads

// All threads of a block call the functions below, and __syncthreads in between.

// put(i, j, Σ_k a(i, k) b(k, j)) for every i and j: a thread takes TILE rows of a column. Threads
// of a warp read neighbours in b and, most of them, the same numbers of a.
template <typename Put>
__device__ __forceinline__ void multiply(Matrix a, Matrix b, Put put) {
    const int tiles = (a.rows + TILE - 1) / TILE;
    for (int task = threadIdx.x; task < tiles * b.columns; task += blockDim.x) {
        const int i = task / b.columns * TILE;
        const int j = task % b.columns;
        REAL sum[TILE] = {};
#pragma unroll 8  // loads on their way at once
        for (int k = 0; k < a.columns; ++k) {
            const REAL factor = b(k, j);
#pragma unroll
            for (int t = 0; t < TILE; ++t) sum[t] += a(min(i + t, a.rows - 1), k) * factor;
        }
#pragma unroll
        for (int t = 0; t < TILE; ++t)
            if (i + t < a.rows) put(i + t, j, sum[t]);
    }
}

// put(i, j, Σ_k a(i, k) b(j, k)): sums along rows of both. SHARERS threads share a sum and read
// numbers that lie side by side.
template <typename Put>
__device__ __forceinline__ void multiply_by_rows(Matrix a, Matrix b, Put put) {
    const Lanes lanes = {int(threadIdx.x) % SHARERS, SHARERS};
    const int sums = a.rows * b.rows;
    for (int first = 0; first < sums; first += blockDim.x / SHARERS) {
        const int at = first + threadIdx.x / SHARERS;
        const int i = at / b.rows;
        const int j = at % b.rows;
        REAL sum = 0;
        if (at < sums)
            for (int k = lanes.rank; k < a.columns; k += SHARERS) sum += a(i, k) * b(j, k);
        sum = lanes.reduce(sum, Sum<REAL>());
        if (lanes.rank == 0 && at < sums) put(i, j, sum);
    }
}

// The part of shared memory that comes next.
struct Shared {
    REAL* free;

    __device__ __forceinline__ Shared() {
        extern __shared__ REAL memory[];
        free = memory;
    }

    __device__ __forceinline__ REAL* take(int numbers) {
        REAL* taken = free;
        free += numbers;
        return taken;
    }
};

// A bank of filters (n, A) along one axis of the block's window, a warp a filter.
struct Filters {
    Axis axis;
    REAL* bank;

    __device__ __forceinline__ Filters(const REAL* window, const Sizes& sizes, bool vertical,
                                       Shared& shared)
        : axis(window, sizes, vertical), bank(shared.take(axis.size * axis.length)) {
        each([&](int i, Lanes lanes) { fill(axis, i, bank, lanes); });
    }

    // f(i, lanes) for the filters of this thread's warp.
    template <typename F>
    __device__ __forceinline__ void each(F f) const {
        const Lanes lanes = {int(threadIdx.x) % WARP, WARP};
        for (int i = threadIdx.x / WARP; i < axis.size; i += blockDim.x / WARP) f(i, lanes);
    }

    __device__ __forceinline__ Matrix matrix() const { return {bank, axis.size, axis.length}; }
};

extern "C" __global__ void read_fused(const REAL* images, const REAL* window, Sizes sizes,
                                      REAL* patches) {
    const long long n = blockIdx.x;
    const int size = sizes.size;
    window += NUMBERS * n;
    Shared shared;
    const Filters rows(window, sizes, true, shared);
    const Filters columns(window, sizes, false, shared);
    REAL* seen = shared.take(size * sizes.width);  // S
    const REAL scale = scale_of(window, true);
    for (int c = 0; c < sizes.channels; ++c) {
        const long long map = n * sizes.channels + c;
        const Matrix pixels(images + map * sizes.image(), sizes.height, sizes.width);
        REAL* patch = patches + map * sizes.patch();
        __syncthreads();  // the filters are there, and nobody reads the last channel's S
        multiply(rows.matrix(), pixels, [=](int i, int b, REAL sum) {
            seen[i * sizes.width + b] = sum;
        });
        __syncthreads();
        multiply_by_rows({seen, size, sizes.width}, columns.matrix(), [=](int i, int j, REAL sum) {
            patch[i * size + j] = scale * sum;
        });
    }
}

extern "C" __global__ void write_fused(const REAL* patches, const REAL* window, Sizes sizes,
                                       REAL* images) {
    const long long n = blockIdx.x;
    const int size = sizes.size;
    window += NUMBERS * n;
    Shared shared;
    const Filters rows(window, sizes, true, shared);
    const Filters columns(window, sizes, false, shared);
    REAL* strokes = shared.take(size * sizes.width);  // T
    const REAL scale = scale_of(window, false);
    for (int c = 0; c < sizes.channels; ++c) {
        const long long map = n * sizes.channels + c;
        const Matrix patch(patches + map * sizes.patch(), size, size);
        REAL* image = images + map * sizes.image();
        __syncthreads();  // the filters are there, and nobody reads the last channel's T
        multiply(patch, columns.matrix(), [=](int i, int b, REAL sum) {
            strokes[i * sizes.width + b] = scale * sum;
        });
        __syncthreads();
        multiply(rows.matrix().transposed(), {strokes, size, sizes.width},
                 [=](int a, int b, REAL sum) { image[a * sizes.width + b] = sum; });
    }
}

// grad_input: the gradient for the images if the window reads, for the patches if it writes.
extern "C" __global__ void grad_fused(const REAL* patches, const REAL* images, const REAL* window,
                                      Sizes sizes, bool reads, REAL* grad_input,
                                      REAL* grad_window) {
    const long long n = blockIdx.x;
    const int size = sizes.size;
    window += NUMBERS * n;
    Shared shared;
    const Filters rows(window, sizes, true, shared);
    const Filters columns(window, sizes, false, shared);
    REAL* seen = shared.take(size * sizes.width);     // S
    REAL* strokes = shared.take(size * sizes.width);  // T
    REAL* grad_rows = shared.take(size * sizes.height);
    REAL* grad_columns = shared.take(size * sizes.width);
    REAL* of_warp = shared.take(NUMBERS * blockDim.x / WARP);
    const Matrix all_seen(seen, size, sizes.width);
    const Matrix all_strokes(strokes, size, sizes.width);
    const REAL scale = scale_of(window, reads);
    for (int i = threadIdx.x; i < size * (sizes.height + sizes.width); i += blockDim.x)
        grad_rows[i] = 0;  // and after it grad_columns
    for (int c = 0; c < sizes.channels; ++c) {
        const long long map = n * sizes.channels + c;
        const Matrix patch(patches + map * sizes.patch(), size, size);
        const Matrix pixels(images + map * sizes.image(), sizes.height, sizes.width);
        __syncthreads();  // the filters are there, and nobody reads the last channel's S and T
        multiply(rows.matrix(), pixels, [=](int i, int b, REAL sum) {
            seen[i * sizes.width + b] = sum;
        });
        multiply(patch, columns.matrix(), [=](int i, int b, REAL sum) {
            strokes[i * sizes.width + b] = scale * sum;
        });
        __syncthreads();
        if (reads) {
            REAL* grad = grad_input + map * sizes.image();
            multiply(rows.matrix().transposed(), all_strokes, [=](int a, int b, REAL sum) {
                grad[a * sizes.width + b] = sum;
            });
        } else {
            REAL* grad = grad_input + map * sizes.patch();
            multiply_by_rows(all_seen, columns.matrix(), [=](int i, int j, REAL sum) {
                grad[i * size + j] = scale * sum;
            });
        }
        multiply_by_rows(all_strokes, pixels, [=](int i, int a, REAL sum) {
            grad_rows[i * sizes.height + a] += sum;
        });
        multiply(patch.transposed(), all_seen, [=](int j, int b, REAL sum) {
            grad_columns[j * sizes.width + b] += scale * sum;
        });
    }
    __syncthreads();
    AxisGrad of_y;
    AxisGrad of_x;
    rows.each([&](int i, Lanes lanes) { of_y.add(rows.axis, i, rows.bank, grad_rows, lanes); });
    columns.each([&](int j, Lanes lanes) {
        of_x.add(columns.axis, j, columns.bank, grad_columns, lanes);
    });
    const int warps = blockDim.x / WARP;
    for (int k = 0; k < NUMBERS; ++k) {
        const REAL sum = warp_reduce(total(k, of_y, of_x, sizes, reads), Sum<REAL>());
        if (threadIdx.x % WARP == 0) of_warp[k * warps + threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= NUMBERS) return;
    REAL sum = 0;
    for (int warp = 0; warp < warps; ++warp) sum += of_warp[threadIdx.x * warps + warp];
    grad_window[NUMBERS * n + threadIdx.x] = sum;
}
