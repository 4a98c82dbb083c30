// Convolution with weights for the live taps of its kernel only (PixelCNN), and its two gradients:
// one thread for each element of the result.
//
//     output            y[n,o,i,j]  = b[o] + sum_{c,l} x[n,c,i+kh[l]-p,j+kw[l]-p] W[o,c,l]
//     input gradient    gx[n,c,h,w] = sum_{o,l} g[n,o,h-kh[l]+p,w-kw[l]+p] W[o,c,l]
//     weight gradient   gW[o,c,l]   = sum_{n,i,j} g[n,o,i,j] x[n,c,i+kh[l]-p,j+kw[l]-p]
//
// x (N, H, W, C), y and g (N, OH, OW, O), W (O, L, C), b (O) or null: channels-last memory.
// FLOPs: 2 N OH OW O C L for each of the three: a masked kernel of 5x5 has 12 or 13 live taps, so
// half of what zeros in a full kernel would cost.
//
// Versions: 1. this file, for float, double and any size; 2. and 3. are those of the convolution
// (gemm_tiled, gemm_tensor), whose taps are a list.
#include "common.cuh"

constexpr int MAX_TAPS = 900;  // what fits a kernel's parameters

struct Masked {
    int height, width, channels;         // of x
    int out_height, out_width, outputs;  // of y
    int padding_h, padding_w, taps;
    short kh[MAX_TAPS], kw[MAX_TAPS];
};

#define FOR_EACH(element, size)                                                 \
    for (long long element = blockIdx.x * (long long)blockDim.x + threadIdx.x;  \
         element < (size); element += (long long)gridDim.x * blockDim.x)

extern "C" __global__ void masked_output(REAL* y, const REAL* x, const REAL* weight,
                                         const REAL* bias, const __grid_constant__ Masked m,
                                         long long size) {
    FOR_EACH(element, size) {
        const int o = element % m.outputs;
        const int j = element / m.outputs % m.out_width;
        const int i = element / m.outputs / m.out_width % m.out_height;
        const long long n = element / m.outputs / m.out_width / m.out_height;
        REAL sum = 0;
        for (int l = 0; l < m.taps; ++l) {
            const int h = i + m.kh[l] - m.padding_h;
            const int w = j + m.kw[l] - m.padding_w;
            if (h < 0 || h >= m.height || w < 0 || w >= m.width) continue;
            const REAL* pixel = x + ((n * m.height + h) * m.width + w) * m.channels;
            const REAL* tap = weight + ((long long)o * m.taps + l) * m.channels;
            for (int c = 0; c < m.channels; ++c) sum += pixel[c] * tap[c];
        }
        y[element] = bias ? sum + bias[o] : sum;
    }
}

extern "C" __global__ void masked_input_grad(REAL* gx, const REAL* grad, const REAL* weight,
                                             const __grid_constant__ Masked m, long long size) {
    FOR_EACH(element, size) {
        const int c = element % m.channels;
        const int w = element / m.channels % m.width;
        const int h = element / m.channels / m.width % m.height;
        const long long n = element / m.channels / m.width / m.height;
        REAL sum = 0;
        for (int l = 0; l < m.taps; ++l) {
            const int i = h - m.kh[l] + m.padding_h;
            const int j = w - m.kw[l] + m.padding_w;
            if (i < 0 || i >= m.out_height || j < 0 || j >= m.out_width) continue;
            const REAL* pixel = grad + ((n * m.out_height + i) * m.out_width + j) * m.outputs;
            const REAL* tap = weight + (long long)l * m.channels + c;
            for (int o = 0; o < m.outputs; ++o)
                sum += pixel[o] * tap[(long long)o * m.taps * m.channels];
        }
        gx[element] = sum;
    }
}

// Sums of a line, of lines, of images: a single long sum would lose the digits of its last terms.
extern "C" __global__ void masked_weight_grad(REAL* gw, const REAL* x, const REAL* grad,
                                              int images, const __grid_constant__ Masked m,
                                              long long size) {
    FOR_EACH(element, size) {
        const int c = element % m.channels;
        const int l = element / m.channels % m.taps;
        const int o = element / m.channels / m.taps;
        REAL total = 0;
        for (long long n = 0; n < images; ++n) {
            REAL image_sum = 0;
            for (int i = 0; i < m.out_height; ++i) {
                const int h = i + m.kh[l] - m.padding_h;
                if (h < 0 || h >= m.height) continue;
                const REAL* line = x + (n * m.height + h) * m.width * m.channels + c;
                const REAL* grad_line =
                    grad + (n * m.out_height + i) * m.out_width * m.outputs + o;
                REAL line_sum = 0;
                for (int j = 0; j < m.out_width; ++j) {
                    const int w = j + m.kw[l] - m.padding_w;
                    if (w < 0 || w >= m.width) continue;
                    line_sum += grad_line[(long long)j * m.outputs] *
                                line[(long long)w * m.channels];
                }
                image_sum += line_sum;
            }
            total += image_sum;
        }
        gw[element] = total;
    }
}
