// The matrix product, one thread for each element of the result.
//
//     y[p, m, n] = act(sum_k a[p, m, k] b[p, k, n] + bias[n])
//
// p counts the products of a batch, over two axes; operands have any strides, so a transposed or
// broadcast one needs no copy. FLOPs: 2 P M N K; bytes asked for: 2 sizeof(REAL) a multiplication.
//
// Versions:
//   1. this file     takes every size and both precisions. It is what float64 uses while a graph is
//                    captured; elsewhere float64 goes to cuBLAS
//   2. gemm_tiled, 3. gemm_tensor: those of the convolution; a plain product is one of 1x1 images
#include "gemm.cuh"

struct Strides {  // in elements, along the axes of the batch, rows and columns
    long long outer, inner, row, column;
};

struct Sizes {
    long long batch_inner, m, n, k;
};

extern "C" __global__ void matmul_plain(REAL* y, const REAL* a, const REAL* b, const REAL* bias,
                                        const Strides a_strides, const Strides b_strides,
                                        const Sizes s, long long size, int activation,
                                        REAL slope) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += step) {
        const long long column = i % s.n;
        const long long row = i / s.n % s.m;
        const long long product = i / s.n / s.m;
        const long long outer = product / s.batch_inner;
        const long long inner = product % s.batch_inner;
        const REAL* from_a =
            a + outer * a_strides.outer + inner * a_strides.inner + row * a_strides.row;
        const REAL* from_b =
            b + outer * b_strides.outer + inner * b_strides.inner + column * b_strides.column;
        REAL sum = 0;
        for (long long k = 0; k < s.k; ++k)
            sum += from_a[k * a_strides.column] * from_b[k * b_strides.row];
        y[i] = activate(bias ? sum + bias[column] : sum, activation, slope);
    }
}
