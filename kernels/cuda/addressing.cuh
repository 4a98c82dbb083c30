// Vector loads and stores, and the division that finds an element's place.
#pragma once

constexpr int VECTOR_BYTES = 16;  // the widest access of a thread

// W numbers that one instruction loads or stores. Their address is a multiple of their size.
template <typename T, int W>
struct __align__(W * sizeof(T)) Vector {
    T at[W];
};

template <int W, typename T>
__device__ __forceinline__ Vector<T, W> load(const T* address) {
    return *reinterpret_cast<const Vector<T, W>*>(address);
}

template <typename T, int W>
__device__ __forceinline__ void store(T* address, const Vector<T, W>& values) {
    *reinterpret_cast<Vector<T, W>*>(address) = values;
}

__device__ __forceinline__ long long global_thread() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// n / d and the rest. 64-bit division takes some 100 instructions, 32-bit division some 20.
__device__ __forceinline__ long long divide(long long n, int d, int& rest) {
    if ((unsigned long long)n >> 32 == 0) {
        const unsigned quotient = (unsigned)n / (unsigned)d;
        rest = (int)((unsigned)n - quotient * (unsigned)d);
        return quotient;
    }
    rest = (int)(n % d);
    return n / d;
}
