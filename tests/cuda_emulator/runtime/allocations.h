// Global memory: the allocations that kernels may touch.
#pragma once

#include "shadow.h"

namespace emulator {

// Whether all of these bytes lie in one live allocation. Faults if the access is a race.
bool check_global(uintptr_t address, size_t bytes, Access access, const Site& site);

// Where bytes lie that are in no allocation, in words.
std::string explain(uintptr_t address, size_t bytes);

void clear_global_shadows();

}  // namespace emulator
