// What several kernel files share: reductions over a warp and over a block, and vector loads.
// No headers of the toolkit are needed; NVRTC has none.
#pragma once

#ifndef INFINITY  // NVRTC has no math.h
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

template <typename T>
struct Sum {
    static __device__ __forceinline__ T identity() { return T(0); }
    __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

// The larger value; NaN wins over every number, as in NumPy.
template <typename T>
struct Max {
    static __device__ __forceinline__ T identity() { return T(-INFINITY); }
    __device__ __forceinline__ T operator()(T a, T b) const { return a > b || a != a ? a : b; }
};

// All 32 lanes must call; every lane gets the result.
template <typename Op, typename T>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = op(value, __shfl_xor_sync(FULL_WARP, value, distance));
    return value;
}

// All threads of a one-dimensional block of whole warps must call; every thread gets the result.
// `scratch` holds one value per warp; it may be used again at once.
template <typename Op, typename T>
__device__ __forceinline__ T block_reduce(T value, Op op, T* scratch) {
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    const int warps = blockDim.x / WARP;
    value = warp_reduce(value, op);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = lane < warps ? scratch[lane] : Op::identity();
    value = warp_reduce(value, op);
    __syncthreads();  // nobody writes the scratch before everybody has read it
    return value;
}
