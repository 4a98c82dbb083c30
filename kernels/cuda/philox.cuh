// Philox4x32-10: four random words as a pure function of (seed, block, plane). There is no state:
// every thread computes its part of a draw alone, and the CPU the same numbers.
// The definition is in `reference/random.py`. Source: Salmon, Moraes, Dror and Shaw 2011.
#pragma once

#include "vector.cuh"

using Words = Vector<unsigned, 4>;

__device__ __forceinline__ Words philox(unsigned long long seed, unsigned long long block,
                                        unsigned plane) {
    unsigned c0 = static_cast<unsigned>(block), c1 = static_cast<unsigned>(block >> 32);
    unsigned c2 = plane, c3 = 0;
    unsigned k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;  // of the golden ratio
        k1 += 0xBB67AE85u;  // of √3
    }
    return {{c0, c1, c2, c3}};
}
