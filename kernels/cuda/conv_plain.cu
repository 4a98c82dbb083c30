// Convolution and its two gradients, one thread for each element of the result.
//
//     output            y[n,o,i,j]    = b[o] + sum_{c,kh,kw} x[n,c,h,w] W[o,c,kh,kw]
//     input gradient    gx[n,c,h,w]   = b[c] + sum_{o,kh,kw} g[n,o,i,j] W[o,c,kh,kw]
//     weight gradient   gW[o,c,kh,kw] = sum_{n,i,j} g[n,o,i,j] x[n,c,h,w]
//                       where h = i*stride + kh*dilation - padding, and w likewise from j, kw
//
// x (N, H, W, C), y and g (N, OH, OW, O), W (O, KH, KW, C/groups), b (O) or (C) or null: the memory
// is channels-last. FLOPs: 2 N OH OW O C/groups KH KW for each of the three. Bytes that must move:
// sizeof(REAL) times the sizes of the three arrays; these kernels ask for two values per product.
//
// Versions:
//   1. this file     a thread an element, every operand read from memory (the caches help). Takes
//                    groups, dilation, float and double, and any size: what the others don't take
//   2. gemm_tiled    an implicit matrix product; a block shares its operands through shared memory,
//                    a thread keeps 8x8 sums in registers: 16 reads for 64 products instead of 128
//   3. gemm_tensor   the same pipeline, its products by tensor cores in TF32 or bfloat16
#include "common.cuh"

struct Geometry {
    int height, width, channels;           // of x, all groups together
    int out_height, out_width, outputs;    // of y
    int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int groups;
};

// Loops over the elements of the result: any size, whatever the grid.
#define FOR_EACH(element, size)                                                      \
    for (long long element = blockIdx.x * (long long)blockDim.x + threadIdx.x;       \
         element < (size); element += (long long)gridDim.x * blockDim.x)

extern "C" __global__ void conv_output(REAL* y, const REAL* x, const REAL* weight,
                                       const REAL* bias, const Geometry g, long long size) {
    const int c_group = g.channels / g.groups;
    const int o_group = g.outputs / g.groups;
    FOR_EACH(element, size) {
        const int o = element % g.outputs;
        const int j = element / g.outputs % g.out_width;
        const int i = element / g.outputs / g.out_width % g.out_height;
        const long long n = element / g.outputs / g.out_width / g.out_height;
        const int first = o / o_group * c_group;  // of the group's channels
        const REAL* w_row = weight + (long long)o * g.kernel_h * g.kernel_w * c_group;
        REAL sum = 0;
        for (int kh = 0; kh < g.kernel_h; ++kh) {
            const int h = i * g.stride_h + kh * g.dilation_h - g.padding_h;
            if (h < 0 || h >= g.height) continue;
            for (int kw = 0; kw < g.kernel_w; ++kw) {
                const int w = j * g.stride_w + kw * g.dilation_w - g.padding_w;
                if (w < 0 || w >= g.width) continue;
                const REAL* pixel = x + ((n * g.height + h) * g.width + w) * g.channels + first;
                const REAL* tap = w_row + ((long long)kh * g.kernel_w + kw) * c_group;
                for (int c = 0; c < c_group; ++c) sum += pixel[c] * tap[c];
            }
        }
        y[element] = bias ? sum + bias[o] : sum;
    }
}

// Every element gathers what was scattered from it: the taps for which (h + padding - kh*dilation)
// is a multiple of the stride. No atomic additions, the same bits every time.
extern "C" __global__ void conv_input_grad(REAL* gx, const REAL* grad, const REAL* weight,
                                           const REAL* bias, const Geometry g, long long size) {
    const int c_group = g.channels / g.groups;
    const int o_group = g.outputs / g.groups;
    const long long o_step = (long long)g.kernel_h * g.kernel_w * c_group;
    FOR_EACH(element, size) {
        const int channel = element % g.channels;
        const int w = element / g.channels % g.width;
        const int h = element / g.channels / g.width % g.height;
        const long long n = element / g.channels / g.width / g.height;
        const int group = channel / c_group;
        const REAL* w_column = weight + group * o_group * o_step + channel % c_group;
        REAL sum = 0;
        for (int kh = 0; kh < g.kernel_h; ++kh) {
            const int i = (h + g.padding_h - kh * g.dilation_h) / g.stride_h;
            const bool hit_h = i * g.stride_h + kh * g.dilation_h - g.padding_h == h;
            if (!hit_h || i < 0 || i >= g.out_height) continue;
            for (int kw = 0; kw < g.kernel_w; ++kw) {
                const int j = (w + g.padding_w - kw * g.dilation_w) / g.stride_w;
                const bool hit_w = j * g.stride_w + kw * g.dilation_w - g.padding_w == w;
                if (!hit_w || j < 0 || j >= g.out_width) continue;
                const long long pixel = (n * g.out_height + i) * g.out_width + j;
                const REAL* source = grad + pixel * g.outputs + group * o_group;
                const REAL* tap = w_column + ((long long)kh * g.kernel_w + kw) * c_group;
                for (int o = 0; o < o_group; ++o) sum += source[o] * tap[o * o_step];
            }
        }
        gx[element] = bias ? sum + bias[channel] : sum;
    }
}

// Sums of a line, of lines, of images: a single long sum would lose the digits of its last terms.
extern "C" __global__ void conv_weight_grad(REAL* gw, const REAL* x, const REAL* grad,
                                            int images, const Geometry g, long long size) {
    const int c_group = g.channels / g.groups;
    const int o_group = g.outputs / g.groups;
    FOR_EACH(element, size) {
        const int c = element % c_group;
        const int kw = element / c_group % g.kernel_w;
        const int kh = element / c_group / g.kernel_w % g.kernel_h;
        const int o = element / c_group / g.kernel_w / g.kernel_h;
        const int channel = o / o_group * c_group + c;
        REAL total = 0;
        for (long long n = 0; n < images; ++n) {
            REAL image_sum = 0;
            for (int i = 0; i < g.out_height; ++i) {
                const int h = i * g.stride_h + kh * g.dilation_h - g.padding_h;
                if (h < 0 || h >= g.height) continue;
                const REAL* line = x + (n * g.height + h) * g.width * g.channels + channel;
                const REAL* grad_line =
                    grad + (n * g.out_height + i) * g.out_width * g.outputs + o;
                REAL line_sum = 0;
                for (int j = 0; j < g.out_width; ++j) {
                    const int w = j * g.stride_w + kw * g.dilation_w - g.padding_w;
                    if (w < 0 || w >= g.width) continue;
                    line_sum += grad_line[(long long)j * g.outputs] *
                                line[(long long)w * g.channels];
                }
                image_sum += line_sum;
            }
            total += image_sum;
        }
        gw[element] = total;
    }
}
