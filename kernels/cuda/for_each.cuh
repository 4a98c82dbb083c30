// The loop of kernels that treat every element alike.
#pragma once

#include "vector.cuh"

// A number that is part of a type, so that a lambda knows it: [](auto width) { width.value ... }.
template <int N>
struct Constant {
    static constexpr int value = N;
};

// Calls body(i, width) for elements i, ..., i + width.value - 1, which together are 0, ..., n - 1:
// whole vectors first where memory is aligned, then what is left one by one. The grid strides over
// any n.
template <typename T, typename Body>
__device__ __forceinline__ void for_each(long long n, bool aligned, const Body& body) {
    const long long thread = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    const long long threads = gridDim.x * static_cast<long long>(blockDim.x);
    const long long vectors = aligned ? n / WIDTH<T> : 0;
    for (long long v = thread; v < vectors; v += threads)
        body(v * WIDTH<T>, Constant<WIDTH<T>>());
    for (long long i = vectors * WIDTH<T> + thread; i < n; i += threads)
        body(i, Constant<1>());
}
