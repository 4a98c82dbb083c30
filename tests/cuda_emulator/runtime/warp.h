// Where threads meet: barriers of the block and calls that the lanes of a warp make together.
#pragma once

#include "state.h"

namespace emulator {

// A call that all lanes of a mask make together. Each brings a slot on its own stack; the last to
// arrive completes the call for all of them.
struct Meeting {
    const char* what;
    Site site;
    unsigned warp;
    uint32_t mask, arrived;
    bool all_lanes;  // no lane may be missing, not even one that has ended
    void (*complete)(Meeting& meeting);
    void* slots[warp_size];
};

struct Warp {
    uint32_t alive;                 // lanes that exist and have not ended
    std::vector<Meeting> meetings;  // with masks that don't overlap, if the kernel is right
};

extern std::vector<Warp> warps;

// The current lane arrives and waits; `slot` is its own.
void meet(const char* what, const Site& site, uint32_t mask, void* slot,
          void (*complete)(Meeting&), bool all_lanes = false);

void begin_block_meetings();
void thread_ended(const Thread& thread);  // a meeting may have waited for it
[[noreturn]] void report_deadlock();      // no thread can run, not all have ended

}  // namespace emulator
