// Positions in images, and which elements a pooling window reads.
#pragma once

#include "addressing.cuh"
#include "common.cuh"

constexpr int WIDTH = VECTOR_BYTES / sizeof(REAL);

// A spatial axis: `size` elements, and `windows` windows over them (or pixels of a resized image).
struct Axis {
    int size, windows, kernel_size, stride, padding, dilation;
};

// Memory is (images, height, width, channels). Contiguous NCHW memory is the same with N · C
// images of one channel.
struct Pool {
    int images, channels;
    Axis rows, columns;
};

struct Range {
    int first, stop;
};

// Window i reads the elements first, first + dilation, ... before stop.
__device__ __forceinline__ Range window(Axis axis, int i) {
    const int start = i * axis.stride - axis.padding;
    const int stop = min(start + axis.dilation * (axis.kernel_size - 1) + 1, axis.size);
    if (start >= 0) return {start, stop};
    const int skipped = (-start + axis.dilation - 1) / axis.dilation;  // taps in the padding
    return {start + skipped * axis.dilation, stop};
}

// The windows (without dilation) that hold element i.
__device__ __forceinline__ Range windows_of(Axis axis, int i) {
    const int place = i + axis.padding;
    const int before = place - axis.kernel_size;  // the last place that window 0 does not reach
    return {before < 0 ? 0 : before / axis.stride + 1,
            min(place / axis.stride + 1, axis.windows)};
}

// The element that pixel i of the resized image shows: floor(i · size / windows).
__device__ __forceinline__ int nearest_element(Axis axis, int i) {
    int rest;
    return (int)divide((long long)i * axis.size, axis.windows, rest);
}

// The pixels of the resized image that show element i: from ceil(i · windows / size) on.
__device__ __forceinline__ Range pixels_of(Axis axis, int i) {
    int rest;
    const long long from = (long long)i * axis.windows + axis.size - 1;
    return {(int)divide(from, axis.size, rest),
            (int)divide(from + axis.windows, axis.size, rest)};
}

// The place of W channels, from `channel` on, of one pixel.
template <int W>
struct Pixel {
    static constexpr int vector = W;
    int row, column, channel;
    long long image;
    long long index;  // in memory

    // The place in memory of the same channels of another pixel, in images of another size.
    __device__ __forceinline__ long long at(int i, int j, int height, int width,
                                            int channels) const {
        return ((image * height + i) * width + j) * channels + channel;
    }
};

template <int W, typename F>
__device__ __forceinline__ void each_pixel_of(int images, int height, int width, int channels,
                                              F f) {
    const long long thread = global_thread();
    if (thread >= (long long)images * height * width * (channels / W)) return;
    Pixel<W> p;
    const long long pixel = divide(thread, channels / W, p.channel);
    const long long row = divide(pixel, width, p.column);
    p.image = divide(row, height, p.row);
    p.channel *= W;
    p.index = thread * W;
    f(p);
}

// Calls f(Pixel<W>) for one pixel of images of this size in each thread, W channels at a time if
// `vectors` is true and W = 1 else. Needs a thread for each.
template <typename F>
__device__ __forceinline__ void each_pixel(const Pool& pool, int height, int width, bool vectors,
                                           F f) {
    if (vectors)
        each_pixel_of<WIDTH>(pool.images, height, width, pool.channels, f);
    else
        each_pixel_of<1>(pool.images, height, width, pool.channels, f);
}
