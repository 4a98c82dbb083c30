// Included before every kernel source: CUDA's language and built-in functions as plain C++.
// `__global__`, `__launch_bounds__` and `__shared__` are no macros: build.py replaces them after
// preprocessing, since it has to know the kernels and their dynamic shared memory.
#pragma once

#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

// Parameters that name the line of the caller: default arguments are evaluated there.
#define EMULATOR_HERE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

using size_t = decltype(sizeof 0);
using ptrdiff_t = decltype((char*)0 - (char*)0);

constexpr int warpSize = 32;

#include "vector_types.h"

#pragma GCC visibility push(default)
extern "C" {
// These are constant while a thread lives, so the compiler may keep their values.
__attribute__((const)) uint3 emulator_thread_index();
__attribute__((const)) uint3 emulator_block_index();
__attribute__((const)) dim3 emulator_block_dim();
__attribute__((const)) dim3 emulator_grid_dim();
__attribute__((const)) void* emulator_dynamic_shared();
[[noreturn]] void emulator_trap(const char* text, const char* file, unsigned line);
int printf(const char* format, ...);
}
#pragma GCC visibility pop

// Not variables: reading one would be checked as an access to global memory.
#define threadIdx (emulator_thread_index())
#define blockIdx (emulator_block_index())
#define blockDim (emulator_block_dim())
#define gridDim (emulator_grid_dim())

#define assert(condition) \
    ((condition) ? (void)0 : emulator_trap("assertion failed: " #condition, __FILE__, __LINE__))
#define __builtin_assume(condition)                                                            \
    ((condition) ? (void)0 : emulator_trap("assumption wrong: " #condition, __FILE__, __LINE__))

[[noreturn]] inline void __trap(EMULATOR_HERE) { emulator_trap("__trap()", file, line); }

#include "memory.h"
#include "warp.h"
#include "integers.h"
#include "math.h"
#include "ptx.cuh"
#include "entry.h"
