// What the parts of the emulator share: the launch in progress, its threads and the fault report.
// One grid runs at a time, on the host thread that launched it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Called by kernels and by the compiler's instrumentation.
#define EMULATOR_API extern "C" __attribute__((visibility("default")))

namespace emulator {

constexpr unsigned warp_size = 32;
constexpr unsigned max_block = 1024;
constexpr uint32_t most_accesses = 1u << 30;  // of one thread: it must be in an endless loop

struct Index {
    unsigned x, y, z;
};

// A place in a kernel: a return address (Python finds its line in the debug information), or a
// file and a line where the compiler handed them over.
struct Site {
    const void* pc = nullptr;
    const char* file = nullptr;
    unsigned line = 0;

    bool same_line(const Site& other) const;
};

// A __shared__ variable of the kernel's library.
struct Symbol {
    uintptr_t address;
    size_t size;
    const char* name;
};

enum class Order : int { forward, reversed, shuffled };

// What Python hands over; the fields mirror `_Launch` in build.py.
struct Launch {
    void (*entry)(void**);
    void** arguments;
    Index grid, block;
    size_t shared_bytes, max_dynamic_shared;
    Order order;
    const Symbol* shared;
    size_t shared_count;
    uintptr_t image_begin, image_end;  // the library's constants and __device__ variables
};

// What Python gets back after a fault; the fields mirror `_Report` in build.py.
struct Report {
    char text[1024];
    char file[512];
    uint64_t pc;
    unsigned line;
    Index block, thread;
};

enum class State : uint8_t { ready, at_block_barrier, at_warp_call, done };

struct CopyAsync {  // one cp.async on its way
    uintptr_t destination, source;
    unsigned bytes;
    bool valid;  // else zeros
    Site site;
};

struct InFlight {
    std::vector<CopyAsync> copies;  // in order of issue
    std::vector<size_t> groups;     // copies.size() at each commit
};

struct Thread {
    void* stack_pointer;
    uintptr_t stack_low;  // its stack's lowest address; 0 before it starts
    Index index;
    uint16_t id, warp, lane;
    State state;
    uint32_t accesses;    // in this block so far; see `most_accesses`
    void* slot;           // what it brings to a block barrier that reduces
    InFlight in_flight;
};

extern Launch launch;
extern Index block_index;
extern Thread* current;  // null while no kernel code runs
extern std::vector<Thread> threads;

// Ends the launch: reports the fault at the current thread and abandons all fibers.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fault(const Site& site, const char* text,
                                                             ...);

}  // namespace emulator
