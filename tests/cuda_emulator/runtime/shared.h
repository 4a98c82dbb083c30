// Shared memory: the __shared__ variables of the kernel's library, and the dynamic part.
#pragma once

#include "shadow.h"

namespace emulator {

void begin_launch_shared();
void begin_block_shared();      // poisons it
void end_first_block_shared();  // faults where static and dynamic parts together are too large
void clear_shared_shadows();

bool is_shared(uintptr_t address);  // also just beside the dynamic part
void check_shared(uintptr_t address, size_t bytes, Access access, const Site& site);
void mark_pending(uintptr_t address, size_t bytes);  // unwritten until a cp.async arrives

}  // namespace emulator
