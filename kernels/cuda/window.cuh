// What both versions of DRAW's windows share (formulas in window.cu): the filters along an axis,
// their gradient, and matrices.
#pragma once

#include "softmax.cuh"  // Lanes: the threads of a warp that share a sum

constexpr int NUMBERS = 5;  // of a window: g̃x, g̃y, log σ², log δ̃, log γ

struct Sizes {
    int channels, size, height, width;

    __device__ __forceinline__ long long image() const { return (long long)height * width; }
    __device__ __forceinline__ int patch() const { return size * size; }
};

// Where the filters lie along an axis: g, δ and 1/σ².
struct Axis {
    REAL centre, stride, precision;
    int size, length;

    __device__ __forceinline__ Axis(const REAL* window, const Sizes& sizes, bool vertical)
        : size(sizes.size), length(vertical ? sizes.height : sizes.width) {
        const int longest = max(sizes.height, sizes.width) - 1;
        centre = (window[vertical ? 1 : 0] + 1) * (REAL(length + 1) / 2) - 1;
        stride = exp(window[3]) * (REAL(longest) / max(size - 1, 1));
        precision = exp(-window[2]);
    }

    __device__ __forceinline__ REAL offset(int i) const { return i - REAL(size - 1) / 2; }
    __device__ __forceinline__ REAL mean(int i) const { return centre + offset(i) * stride; }

    // F[i, a] Z_i. The nearest pixel's is 1, and none larger. A difference of squares as a product
    // keeps its digits where both are large.
    __device__ __forceinline__ REAL weight(int i, int a) const {
        const REAL mu = mean(i);
        const REAL nearest = fmin(fmax(floor(mu + REAL(0.5)), REAL(0)), REAL(length - 1));
        return exp((nearest - a) * ((nearest - mu) + (a - mu)) * REAL(0.5) * precision);
    }
};

// Fills row i of a bank of filters (n, A).
__device__ __forceinline__ void fill(const Axis& axis, int i, REAL* bank, Lanes lanes) {
    REAL* row = bank + i * axis.length;
    REAL sum = 0;
    for (int a = lanes.rank; a < axis.length; a += lanes.size) {
        row[a] = axis.weight(i, a);
        sum += row[a];
    }
    sum = lanes.reduce(sum, Sum<REAL>());
    for (int a = lanes.rank; a < axis.length; a += lanes.size) row[a] /= sum;
}

// A thread's share of the gradients of g, log σ² and log δ, and of F · ∂B/∂F.
struct AxisGrad {
    REAL centre = 0, variance = 0, stride = 0, product = 0;

    // Adds filter i's, from banks with F and ∂B/∂F.
    __device__ __forceinline__ void add(const Axis& axis, int i, const REAL* bank,
                                        const REAL* grads, Lanes lanes) {
        const REAL* weights = bank + i * axis.length;
        const REAL* grad = grads + i * axis.length;
        REAL share = 0;
        for (int a = lanes.rank; a < axis.length; a += lanes.size) share += weights[a] * grad[a];
        product += share;
        const REAL average = lanes.reduce(share, Sum<REAL>());
        for (int a = lanes.rank; a < axis.length; a += lanes.size) {
            const REAL distance = a - axis.mean(i);
            const REAL of_mean = weights[a] * (grad[a] - average) * distance * axis.precision;
            centre += of_mean;
            variance += of_mean * distance / 2;
            stride += of_mean * axis.offset(i) * axis.stride;
        }
    }
};

// The k-th number of a window's gradient, from the shares of both axes.
__device__ __forceinline__ REAL total(int k, const AxisGrad& y, const AxisGrad& x,
                                      const Sizes& sizes, bool reads) {
    switch (k) {
        case 0: return x.centre * (REAL(sizes.width + 1) / 2);
        case 1: return y.centre * (REAL(sizes.height + 1) / 2);
        case 2: return x.variance + y.variance;
        case 3: return x.stride + y.stride;
        default: return reads ? y.product : -y.product;
    }
}

// s = γ to read, 1/γ to write.
__device__ __forceinline__ REAL scale_of(const REAL* window, bool reads) {
    return exp(reads ? window[4] : -window[4]);
}

// A matrix, or a transposed one, in memory that somebody else owns.
struct Matrix {
    const REAL* data;
    int rows, columns, row_step, column_step;

    __device__ __forceinline__ Matrix(const REAL* data, int rows, int columns)
        : data(data), rows(rows), columns(columns), row_step(columns), column_step(1) {}

    __device__ __forceinline__ REAL operator()(int i, int j) const {
        return data[i * row_step + j * column_step];
    }

    __device__ __forceinline__ Matrix transposed() const {
        Matrix other = *this;
        other.rows = columns;
        other.columns = rows;
        other.row_step = column_step;
        other.column_step = row_step;
        return other;
    }
};
