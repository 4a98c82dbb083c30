// Barriers, shuffles and votes.
#pragma once

#pragma GCC visibility push(default)
extern "C" {
int emulator_block_barrier(int predicate, const char* file, unsigned line);
unsigned emulator_lane();
unsigned long long emulator_shuffle(unsigned mask, unsigned long long value, unsigned source,
                                    const char* what, const char* file, unsigned line);
unsigned emulator_ballot(unsigned mask, bool predicate, unsigned* lanes, const char* file,
                         unsigned line);
void emulator_warp_barrier(unsigned mask, const char* file, unsigned line);
}
#pragma GCC visibility pop

__forceinline__ void __syncthreads(EMULATOR_HERE) { emulator_block_barrier(0, file, line); }
__forceinline__ int __syncthreads_count(int predicate, EMULATOR_HERE) {
    return emulator_block_barrier(predicate, file, line);
}
__forceinline__ int __syncthreads_or(int predicate, EMULATOR_HERE) {
    return emulator_block_barrier(predicate, file, line) != 0;
}
__forceinline__ int __syncthreads_and(int predicate, EMULATOR_HERE) {
    return emulator_block_barrier(!predicate, file, line) == 0;
}
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_HERE) {
    emulator_warp_barrier(mask, file, line);
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_HERE) {
    unsigned lanes;
    return emulator_ballot(mask, predicate != 0, &lanes, file, line);
}
__forceinline__ int __any_sync(unsigned mask, int predicate, EMULATOR_HERE) {
    unsigned lanes;
    return emulator_ballot(mask, predicate != 0, &lanes, file, line) != 0;
}
__forceinline__ int __all_sync(unsigned mask, int predicate, EMULATOR_HERE) {
    unsigned lanes;
    return emulator_ballot(mask, predicate != 0, &lanes, file, line) == lanes;
}

namespace emulator {

template <typename T>
__forceinline__ T shuffle(unsigned mask, T value, unsigned source, const char* what,
                          const char* file, unsigned line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    static_assert(!__is_class(T), "shuffles move numbers");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = emulator_shuffle(mask, bits, source, what, file, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emulator

// A warp is cut into segments of `width` lanes, a power of two. A lane whose source would lie
// outside its segment gets its own value back.
template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_HERE) {
    const unsigned lane = emulator_lane(), last = width - 1;
    const unsigned from = (lane & ~last) | ((unsigned)source & last);
    return emulator::shuffle(mask, value, from, "__shfl_sync", file, line);
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 EMULATOR_HERE) {
    const unsigned lane = emulator_lane(), last = width - 1;
    const unsigned from = (lane & last) >= delta ? lane - delta : lane;
    return emulator::shuffle(mask, value, from, "__shfl_up_sync", file, line);
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                   EMULATOR_HERE) {
    const unsigned lane = emulator_lane(), last = width - 1;
    const unsigned from = (lane & last) + delta <= last ? lane + delta : lane;
    return emulator::shuffle(mask, value, from, "__shfl_down_sync", file, line);
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                                  EMULATOR_HERE) {
    const unsigned lane = emulator_lane(), last = width - 1;
    const unsigned other = lane ^ (unsigned)lane_mask;
    const unsigned from = other <= (lane | last) ? other : lane;
    return emulator::shuffle(mask, value, from, "__shfl_xor_sync", file, line);
}
