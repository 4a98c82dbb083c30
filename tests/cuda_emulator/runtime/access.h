// The check of one memory access of a kernel.
#pragma once

#include "shadow.h"

namespace emulator {

// Faults unless the current thread may touch these bytes now.
void check_access(uintptr_t address, size_t bytes, Access access, const Site& site);

}  // namespace emulator
