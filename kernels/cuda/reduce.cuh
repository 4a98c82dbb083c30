// The larger and the smaller of two values, as NumPy has them: NaN is larger and smaller than
// every number. REAL is float, double, or long long for all integers.
#pragma once

template <typename T>
struct Limits {
    static __device__ T lowest() { return -T(INFINITY); }
    static __device__ T highest() { return T(INFINITY); }
};

template <>
struct Limits<long long> {
    static __device__ long long lowest() { return -0x7fffffffffffffffLL - 1; }
    static __device__ long long highest() { return 0x7fffffffffffffffLL; }
};

struct Largest {
    static __device__ __forceinline__ REAL identity() { return Limits<REAL>::lowest(); }
    __device__ __forceinline__ REAL operator()(REAL a, REAL b) const {
        return a > b || a != a ? a : b;
    }
};

struct Smallest {
    static __device__ __forceinline__ REAL identity() { return Limits<REAL>::highest(); }
    __device__ __forceinline__ REAL operator()(REAL a, REAL b) const {
        return a < b || a != a ? a : b;
    }
};
