// Channels to the end: (N, C, P) -> (N, P, C), both dense; P pixels.
//
// Bytes: 2 sizeof(REAL) an element, no FLOPs: as fast as memory if reads and writes are both whole
// lines, which is what a copy that follows the strides of one side can't do.
//   few_channels   a thread a pixel: it reads one value of every plane, and a warp's writes fill
//                  the same few lines. For images: with 3 channels a tile would be mostly empty
//   transpose      32x32 through shared memory: a warp reads 32 pixels of a channel and writes 32
//                  channels of a pixel. Rows of 33: a column then meets 32 different banks
// Any size; both loop over what the grid leaves.
#include "common.cuh"

constexpr int SIDE = 32;
constexpr int ROWS = 8;  // of threads, so each moves 4 elements

extern "C" __global__ void few_channels(REAL* out, const REAL* x, long long images,
                                        long long pixels, int channels) {
    const long long step = (long long)gridDim.x * blockDim.x;
    const long long all = images * pixels;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < all; i += step) {
        const REAL* from = x + i / pixels * pixels * channels + i % pixels;
        for (int c = 0; c < channels; ++c) out[i * channels + c] = from[c * pixels];
    }
}

extern "C" __global__ void transpose(REAL* out, const REAL* x, long long images, long long pixels,
                                     int channels) {
    __shared__ REAL tile[SIDE][SIDE + 1];
    const long long across = (pixels + SIDE - 1) / SIDE;
    const long long down = (channels + SIDE - 1) / SIDE;
    for (long long block = blockIdx.x; block < images * down * across; block += gridDim.x) {
        const long long image = block / (down * across) * pixels * channels;
        const long long first_pixel = block % across * SIDE;
        const long long first_channel = block / across % down * SIDE;
        for (int r = threadIdx.y; r < SIDE; r += ROWS) {
            const long long c = first_channel + r;
            const long long p = first_pixel + threadIdx.x;
            if (c < channels && p < pixels) tile[r][threadIdx.x] = x[image + c * pixels + p];
        }
        __syncthreads();
        for (int r = threadIdx.y; r < SIDE; r += ROWS) {
            const long long p = first_pixel + r;
            const long long c = first_channel + threadIdx.x;
            if (c < channels && p < pixels) out[image + p * channels + c] = tile[threadIdx.x][r];
        }
        __syncthreads();  // the next round writes the tile
    }
}
