// Vectors: W numbers that lie next to each other in memory and move with one instruction.
#pragma once

constexpr int VECTOR_BYTES = 16;  // the widest load and store of a thread

template <typename T>
constexpr int WIDTH = VECTOR_BYTES / sizeof(T);

template <typename T, int W>
struct alignas(W * sizeof(T)) Vector {
    T at[W];
};

// Addresses must be multiples of the vector's size.
template <int W, typename T>
__device__ __forceinline__ Vector<T, W> load(const T* from) {
    return *reinterpret_cast<const Vector<T, W>*>(from);
}

template <int W, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, W>& vector) {
    *reinterpret_cast<Vector<T, W>*>(to) = vector;
}
