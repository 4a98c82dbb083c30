// Loads, stores, fences and atomics.
#pragma once

#pragma GCC visibility push(default)
extern "C" {
unsigned long long emulator_atomic_load(const volatile void* address, size_t bytes);
void emulator_atomic_store(volatile void* address, unsigned long long value, size_t bytes);
}
#pragma GCC visibility pop

// Explicit copies go byte by byte, so that every access is checked.
inline void* emulator_memcpy(void* destination, const void* source, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) ((char*)destination)[i] = ((const char*)source)[i];
    return destination;
}
inline void* emulator_memset(void* destination, int value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) ((char*)destination)[i] = (char)value;
    return destination;
}
#define memcpy emulator_memcpy
#define memset emulator_memset

// Loads and stores with a cache hint.
#define EMULATOR_LOAD(name)                   \
    template <typename T>                     \
    __forceinline__ T name(const T* address) { \
        return *address;                      \
    }
#define EMULATOR_STORE(name)                           \
    template <typename T>                              \
    __forceinline__ void name(T* address, T value) {   \
        *address = value;                              \
    }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)

// Nothing is reordered here, except by the compiler.
__forceinline__ void __threadfence() { asm volatile("" ::: "memory"); }
__forceinline__ void __threadfence_block() { asm volatile("" ::: "memory"); }
__forceinline__ void __threadfence_system() { asm volatile("" ::: "memory"); }

namespace emulator {

template <typename T>
__forceinline__ T atomic_load(const volatile T* address) {
    const unsigned long long bits = emulator_atomic_load(address, sizeof(T));
    T value;
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

template <typename T>
__forceinline__ void atomic_store(volatile T* address, T value) {
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    emulator_atomic_store(address, bits, sizeof(T));
}

// Integer sums wrap around.
inline int add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
inline unsigned add(unsigned a, unsigned b) { return a + b; }
inline unsigned long long add(unsigned long long a, unsigned long long b) { return a + b; }
inline float add(float a, float b) { return a + b; }
inline double add(double a, double b) { return a + b; }

}  // namespace emulator

// Sets *address to `result`, an expression of the `old` value and `value`; returns the old one.
#define EMULATOR_ATOMIC(name, T, result)                                  \
    __forceinline__ T name(volatile T* address, T value) {                \
        const T old = emulator::atomic_load(address);                     \
        emulator::atomic_store<T>(address, result);                       \
        return old;                                                       \
    }
#define EMULATOR_INTEGER_ATOMICS(T)                              \
    EMULATOR_ATOMIC(atomicMax, T, old > value ? old : value)     \
    EMULATOR_ATOMIC(atomicMin, T, old < value ? old : value)     \
    EMULATOR_ATOMIC(atomicExch, T, value)                        \
    EMULATOR_ATOMIC(atomicAnd, T, old & value)                   \
    EMULATOR_ATOMIC(atomicOr, T, old | value)                    \
    EMULATOR_ATOMIC(atomicXor, T, old ^ value)                   \
    __forceinline__ T atomicCAS(volatile T* address, T compare, T value) { \
        const T old = emulator::atomic_load(address);            \
        emulator::atomic_store<T>(address, old == compare ? value : old); \
        return old;                                              \
    }
EMULATOR_INTEGER_ATOMICS(int)
EMULATOR_INTEGER_ATOMICS(unsigned)
EMULATOR_INTEGER_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(atomicMax, long long, old > value ? old : value)
EMULATOR_ATOMIC(atomicMin, long long, old < value ? old : value)
EMULATOR_ATOMIC(atomicExch, float, value)
EMULATOR_ATOMIC(atomicAdd, int, emulator::add(old, value))
EMULATOR_ATOMIC(atomicAdd, unsigned, emulator::add(old, value))
EMULATOR_ATOMIC(atomicAdd, unsigned long long, emulator::add(old, value))
EMULATOR_ATOMIC(atomicAdd, float, emulator::add(old, value))
EMULATOR_ATOMIC(atomicAdd, double, emulator::add(old, value))
EMULATOR_ATOMIC(atomicSub, int, emulator::add(old, emulator::add(~value, 1)))
EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
EMULATOR_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
