// ldmatrix and mma.sync with the fragment layouts of the PTX manual. All 32 lanes take part.
#include <cstring>
#include <utility>

#include "access.h"
#include "shared.h"
#include "warp.h"

using namespace emulator;

namespace {

constexpr uint32_t all = 0xffffffff;

struct Row {
    uint16_t elements[8];
    unsigned* out;
    bool transposed;
};

// Row i of matrix m came from lane 8 m + i.
void complete_ldmatrix(Meeting& meeting) {
    const auto slot = [&](unsigned lane) { return static_cast<Row*>(meeting.slots[lane]); };
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        const unsigned i = lane / 4, j = 2 * (lane % 4);
        for (unsigned m = 0; m < 4; ++m) {
            const auto element = [&](unsigned row, unsigned column) {
                if (slot(lane)->transposed) std::swap(row, column);
                return uint32_t(slot(8 * m + row)->elements[column]);
            };
            slot(lane)->out[m] = element(i, j) | element(i, j + 1) << 16;
        }
    }
}

struct Fragments {
    float* d;
    const uint32_t *a, *b;
};

float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float tf32(uint32_t bits) { return as_float(bits & ~0x1fffu); }

// Element 0 or 1 of a register with two bf16.
float bf16(uint32_t bits, unsigned which) {
    return as_float(which ? bits & 0xffff0000u : bits << 16);
}

// D += A B with A (16, K) and B (K, 8): exact products of the inputs, added up in double precision
// and rounded once. The hardware's sums are less exact, by an amount that nobody documents.
template <unsigned K>
void multiply(Meeting& meeting, const float (&a)[16][K], const float (&b)[K][8]) {
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        float* d = static_cast<Fragments*>(meeting.slots[lane])->d;
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            double sum = d[i];
            for (unsigned k = 0; k < K; ++k) sum += double(a[row][k]) * b[k][column];
            d[i] = static_cast<float>(sum);
        }
    }
}

void complete_mma_tf32(Meeting& meeting) {
    float a[16][8], b[8][8];
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        const auto& own = *static_cast<Fragments*>(meeting.slots[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = tf32(own.a[i]);
        for (unsigned i = 0; i < 2; ++i) b[t + 4 * i][g] = tf32(own.b[i]);
    }
    multiply(meeting, a, b);
}

void complete_mma_bf16(Meeting& meeting) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        const auto& own = *static_cast<Fragments*>(meeting.slots[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned half = 0; half < 2; ++half) {
            for (unsigned i = 0; i < 4; ++i)
                a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = bf16(own.a[i], half);
            for (unsigned i = 0; i < 2; ++i) b[2 * t + 8 * i + half][g] = bf16(own.b[i], half);
        }
    }
    multiply(meeting, a, b);
}

}  // namespace

EMULATOR_API void emulator_ldmatrix(unsigned* r, uintptr_t row, bool transposed, const char* file,
                                    unsigned line) {
    const Site site{nullptr, file, line};
    if (row % 16) fault(site, "misaligned access: ldmatrix, %u bytes off", unsigned(row % 16));
    if (!is_shared(row)) fault(site, "ldmatrix from an address outside shared memory");
    check_access(row, 16, Access::read, site);
    Row slot{{}, r, transposed};
    memcpy(slot.elements, reinterpret_cast<const void*>(row), sizeof slot.elements);
    meet("ldmatrix", site, all, &slot, complete_ldmatrix, true);
}

EMULATOR_API void emulator_mma_tf32(float* d, const uint32_t* a, const uint32_t* b,
                                    const char* file, unsigned line) {
    Fragments slot{d, a, b};
    meet("mma.sync", {nullptr, file, line}, all, &slot, complete_mma_tf32, true);
}

EMULATOR_API void emulator_mma_bf16(float* d, const uint32_t* a, const uint32_t* b,
                                    const char* file, unsigned line) {
    Fragments slot{d, a, b};
    meet("mma.sync", {nullptr, file, line}, all, &slot, complete_mma_bf16, true);
}
