// DRAW's windows, version 1 of window.cu, with its formulas and arrays: a kernel for each of them
// and no shared memory. The second oracle, and the way where a block's shared memory is too small.

#include "window.cuh"

// F_y (N, n, H) and F_x (N, n, W), a thread a filter.
extern "C" __global__ void filters_plain(const REAL* window, Sizes sizes, long long images,
                                         REAL* rows, REAL* columns) {
    const long long thread = global_thread();
    const long long n = thread / (2 * sizes.size);
    const int filter = thread % (2 * sizes.size);
    if (n >= images) return;
    const bool vertical = filter < sizes.size;
    const Axis axis(window + NUMBERS * n, sizes, vertical);
    REAL* bank = (vertical ? rows : columns) + n * axis.size * axis.length;
    fill(axis, filter % sizes.size, bank, Lanes{0, 1});
}

// s F_y X F_xᵀ, a thread a number of a patch.
extern "C" __global__ void read_plain(const REAL* images, const REAL* window, const REAL* rows,
                                      const REAL* columns, Sizes sizes, bool reads,
                                      long long patch_numbers, REAL* patches) {
    const long long at = global_thread();
    if (at >= patch_numbers) return;
    const long long map = at / sizes.patch();  // n C + c
    const long long n = map / sizes.channels;
    const int i = at % sizes.patch() / sizes.size;
    const int j = at % sizes.size;
    const REAL* row = rows + (n * sizes.size + i) * sizes.height;
    const REAL* column = columns + (n * sizes.size + j) * sizes.width;
    const Matrix pixels(images + map * sizes.image(), sizes.height, sizes.width);
    REAL sum = 0;
    for (int a = 0; a < sizes.height; ++a)
        for (int b = 0; b < sizes.width; ++b) sum += row[a] * pixels(a, b) * column[b];
    patches[at] = sum * scale_of(window + NUMBERS * n, reads);
}

// s F_yᵀ P F_x, a thread a pixel.
extern "C" __global__ void write_plain(const REAL* patches, const REAL* window, const REAL* rows,
                                       const REAL* columns, Sizes sizes, bool reads,
                                       long long image_numbers, REAL* images) {
    const long long at = global_thread();
    if (at >= image_numbers) return;
    const long long map = at / sizes.image();
    const long long n = map / sizes.channels;
    const int a = at % sizes.image() / sizes.width;
    const int b = at % sizes.width;
    const Matrix filters_y(rows + n * sizes.size * sizes.height, sizes.size, sizes.height);
    const Matrix filters_x(columns + n * sizes.size * sizes.width, sizes.size, sizes.width);
    const Matrix patch(patches + map * sizes.patch(), sizes.size, sizes.size);
    REAL sum = 0;
    for (int i = 0; i < sizes.size; ++i)
        for (int j = 0; j < sizes.size; ++j) sum += filters_y(i, a) * patch(i, j) * filters_x(j, b);
    images[at] = sum * scale_of(window + NUMBERS * n, reads);
}

// ∂B/∂F_y from F_x, or the other way round, which is the same with all matrices transposed;
// a thread a weight of a filter.
extern "C" __global__ void filter_grads_plain(const REAL* patches, const REAL* images,
                                              const REAL* window, const REAL* others, Sizes sizes,
                                              bool reads, bool vertical, long long weights,
                                              REAL* grads) {
    const long long at = global_thread();
    if (at >= weights) return;
    const int length = vertical ? sizes.height : sizes.width;
    const int others_length = vertical ? sizes.width : sizes.height;
    const long long n = at / length / sizes.size;
    const int i = at / length % sizes.size;
    const int a = at % length;
    const Matrix other(others + n * sizes.size * others_length, sizes.size, others_length);
    REAL sum = 0;
    for (long long map = n * sizes.channels; map < (n + 1) * sizes.channels; ++map) {
        Matrix patch(patches + map * sizes.patch(), sizes.size, sizes.size);
        Matrix pixels(images + map * sizes.image(), sizes.height, sizes.width);
        if (!vertical) {
            patch = patch.transposed();
            pixels = pixels.transposed();
        }
        for (int j = 0; j < sizes.size; ++j)
            for (int b = 0; b < others_length; ++b)
                sum += patch(i, j) * other(j, b) * pixels(a, b);
    }
    grads[at] = sum * scale_of(window + NUMBERS * n, reads);
}

// The five numbers' gradients, a thread a window.
extern "C" __global__ void window_grad_plain(const REAL* window, const REAL* rows,
                                             const REAL* columns, const REAL* grad_rows,
                                             const REAL* grad_columns, Sizes sizes, bool reads,
                                             long long images, REAL* grad_window) {
    const long long n = global_thread();
    if (n >= images) return;
    AxisGrad of[2];
    for (int vertical = 0; vertical < 2; ++vertical) {
        const Axis axis(window + NUMBERS * n, sizes, vertical);
        const long long bank = n * axis.size * axis.length;
        const REAL* filters = (vertical ? rows : columns) + bank;
        const REAL* grads = (vertical ? grad_rows : grad_columns) + bank;
        for (int i = 0; i < axis.size; ++i) of[vertical].add(axis, i, filters, grads, Lanes{0, 1});
    }
    for (int k = 0; k < NUMBERS; ++k)
        grad_window[NUMBERS * n + k] = total(k, of[1], of[0], sizes, reads);
}
