// The twin of kernels/cuda/ptx.cuh: the same functions, carried out by the emulator's runtime.
// It is read first, and both have the same include guard.
#ifndef TINYGEN_PTX_CUH
#define TINYGEN_PTX_CUH

#pragma GCC visibility push(default)
extern "C" {
void emulator_copy_async(void* shared, const void* global, unsigned bytes, bool valid,
                         const char* file, unsigned line);
void emulator_copy_commit();
void emulator_copy_wait(unsigned groups);
void emulator_ldmatrix(unsigned* r, const void* row, bool transposed, const char* file,
                       unsigned line);
void emulator_mma_tf32(float* d, const unsigned* a, const unsigned* b, const char* file,
                       unsigned line);
void emulator_mma_bf16(float* d, const unsigned* a, const unsigned* b, const char* file,
                       unsigned line);
}
#pragma GCC visibility pop

#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1

__forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true,
                                 EMULATOR_HERE) {
    emulator_copy_async(shared, global, 16, valid, file, line);
}
__forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true,
                                EMULATOR_HERE) {
    emulator_copy_async(shared, global, 4, valid, file, line);
}
__forceinline__ void cp_async_commit() { emulator_copy_commit(); }
template <int N>
__forceinline__ void cp_async_wait() {
    emulator_copy_wait(N);
}

__forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row, EMULATOR_HERE) {
    unsigned out[4];  // a copy, so that the caller's array may stay in registers
    emulator_ldmatrix(out, row, false, file, line);
    for (int i = 0; i < 4; ++i) r[i] = out[i];
}
__forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, EMULATOR_HERE) {
    unsigned out[4];
    emulator_ldmatrix(out, row, true, file, line);
    for (int i = 0; i < 4; ++i) r[i] = out[i];
}

#define EMULATOR_MMA(name, call)                                                       \
    __forceinline__ void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], \
                              EMULATOR_HERE) {                                         \
        float sums[4] = {d[0], d[1], d[2], d[3]};                                      \
        const unsigned left[4] = {a[0], a[1], a[2], a[3]}, right[2] = {b[0], b[1]};    \
        call(sums, left, right, file, line);                                           \
        for (int i = 0; i < 4; ++i) d[i] = sums[i];                                    \
    }
EMULATOR_MMA(mma_m16n8k8_tf32, emulator_mma_tf32)
EMULATOR_MMA(mma_m16n8k16_bf16, emulator_mma_bf16)

// Half a unit of the last kept bit is added to the magnitude, the rest is cut off.
inline unsigned to_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return isfinite(x) ? (bits + 0x1000u) & ~0x1fffu : bits;
}

inline unsigned pack_bf16(float low, float high) {
    const auto round = [](float x) {
        const unsigned bits = __float_as_uint(x);
        return isnan(x) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    };
    return round(low) | round(high) << 16;
}

#else
#define TENSOR_CORES 0

__forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
    *(uint4*)shared = valid ? *(const uint4*)global : make_uint4(0, 0, 0, 0);
}
__forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true) {
    *(unsigned*)shared = valid ? *(const unsigned*)global : 0;
}
__forceinline__ void cp_async_commit() {}
template <int N>
__forceinline__ void cp_async_wait() {}

#endif  // __CUDA_ARCH__ >= 800
#endif  // TINYGEN_PTX_CUH
