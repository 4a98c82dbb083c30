// Global memory: the allocations that kernels may touch.
#pragma once

#include <string>

#include "state.h"

namespace emulator {

struct Allocation {
    uintptr_t begin;
    size_t size;
};

// The live allocation that holds all of these bytes, or null.
const Allocation* find_allocation(uintptr_t address, size_t bytes);

// Where an address lies that is in no allocation, in words.
std::string explain(uintptr_t address, size_t bytes);

}  // namespace emulator
