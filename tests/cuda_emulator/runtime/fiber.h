// Threads of a block as fibers: each has a small stack and gives up the processor only where it
// waits for others.
#pragma once

#include "state.h"

namespace emulator {

constexpr size_t stack_bytes = 64 * 1024;

void resume(Thread& thread);  // from the scheduler: runs the thread until it waits or ends
void yield();                 // from a thread: back to the scheduler
void release_stack(Thread& thread);

}  // namespace emulator
