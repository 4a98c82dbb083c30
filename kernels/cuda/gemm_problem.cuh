// What a matrix product is given to do.
//
//     D[m, n] = act(sum_k A[m, k] B[k, n] + bias[n])
//
// No operand of a convolution exists as a matrix; its elements are looked up in the image:
//
//                     A                         B                        m        n       k
//   output            x, gathered               W[o, (tap, c)]           pixel    o       (tap, c)
//   input gradient    g, gathered               W[(tap, o), c]           pixel    c       (tap, o)
//   weight gradient   g[pixel, o], transposed   x, gathered              o        (tap,c) pixel
//
// "Gathered" means: row = pixel (image, i, j), column = (tap, channel), and the value is that of
// the image at (i*stride + origin + tap), or 0 outside it. Taps are a list, not a rectangle, so a
// masked convolution lists the taps that live. A plain product is a convolution of 1x1 images with
// one tap: NT is an output, NN an input gradient, TN a weight gradient.
//
// The input gradient of a convolution with stride s falls apart into s*s phases, one for each
// remainder of the pixel's position by s. Each phase is a product of its own, with stride 1 and
// with the taps that hit it; all of them run in one launch.
#pragma once

constexpr int MAX_TAPS = 256;
constexpr int MAX_PHASES = 16;

// n / divisor by a multiplication (Granlund and Montgomery 1994); n < 2^31. A division by a number
// that the compiler doesn't know takes some 20 instructions, too many for the loading loop.
struct Divisor {
    unsigned int divisor, multiplier, shift;
};

struct Tap {
    short dh, dw;  // added to the pixel's position
    int weight;    // where this tap's weights begin, in elements (input gradient)
};

struct Phase {
    int pixels;             // N * (pixels of the phase in an image)
    int first_tap, taps;    // part of the list
    int out_first;          // where the phase begins in an output image, in elements
    Divisor image, line;    // pixels of the phase in an image, in a line
};

struct Problem {
    long long out_size;                      // elements of the output of one product
    int batch, batch_inner;                  // products; the batch is (outer, inner)
    int a_outer, a_inner, b_outer, b_inner;  // steps between the products' operands
    // The gathered image (N, height, width, channels), steps in elements, channels contiguous.
    int height, width, image_step, line_step, pixel_step;
    int stride_h, stride_w, origin_h, origin_w;
    Divisor channels;
    int other_step;             // from one row of W, or of g, to the next
    int a_aligned, b_aligned;   // may A, B be read by 16 bytes: addresses, steps, channels
    int m, n;                   // rows (weight gradient; else the phase's pixels), columns
    int out_image, out_line, out_pixel;  // steps in the output; the weight gradient's rows: image
    int phases, most_pixels;    // of any phase
    Tap taps[MAX_TAPS];
    Phase phase[MAX_PHASES];
};

__device__ __forceinline__ int divide(int n, const Divisor& d) {
    const unsigned long long product = (unsigned long long)(unsigned)n * d.multiplier;
    return ((unsigned)(product >> 32) + (unsigned)n) >> d.shift;
}

// Where a pixel's window begins in the image.
struct Corner {
    int offset, h, w;
};

constexpr int OUTSIDE = -(1 << 29);  // the line of a pixel that doesn't exist: no tap is inside

__device__ __forceinline__ Corner corner_of(const Problem& p, const Phase& phase, int pixel) {
    if (pixel >= phase.pixels) return {0, OUTSIDE, OUTSIDE};
    const int image = divide(pixel, phase.image);
    const int within = pixel - image * (int)phase.image.divisor;
    const int i = divide(within, phase.line);
    const int j = within - i * (int)phase.line.divisor;
    const int h = i * p.stride_h + p.origin_h;
    const int w = j * p.stride_w + p.origin_w;
    return {image * p.image_step + h * p.line_step + w * p.pixel_step, h, w};
}
