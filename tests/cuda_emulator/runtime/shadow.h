// Who touched which byte of shared memory last: unwritten bytes and races.
#pragma once

#include "state.h"

namespace emulator {

// What is known about one byte. Times are values of one clock that every barrier advances, so a
// byte that was written before the block began counts as unwritten and nothing is ever cleared.
struct Cell {
    uint32_t write_time;
    uint32_t read_time;
    uint32_t readers;      // lanes of `read_warp` that read since the last barrier of the block
    uint16_t writer;       // thread; one of the values below
    uint16_t read_warp;    // many_warps where several read
};

constexpr uint16_t many_warps = 0xffff;
constexpr uint16_t atomic_writer = 0x8000;      // added to the thread
constexpr uint16_t atomic_writers = 0xffff;     // atomics of several warps
constexpr uint16_t pending_writer = 0x7fff;     // a cp.async that nobody waited for

enum class Access : uint8_t { read, write, atomic };

// A region of shared memory with the cells of its bytes.
struct Region {
    const char* kind;
    uintptr_t begin;
    size_t size;
    std::vector<Cell> cells;

    bool has(uintptr_t address) const { return address - begin < size; }
    void check(uintptr_t address, size_t bytes, Access access, const Site& site);
};

extern Region static_shared, dynamic_shared;

constexpr size_t dynamic_capacity = 232 * 1024;

void begin_launch_shared();          // finds the regions of this launch
void begin_block_shared();           // poisons them
void check_shared_limit();           // after the first block: static and dynamic together
void advance_block();                // a barrier of the block was passed
void advance_warp(unsigned warp, uint32_t lanes);  // a barrier of these lanes was passed
void mark_pending(uintptr_t address, size_t bytes);

// The region an address belongs to, or null; faults where it lies beside the dynamic one.
Region* find_shared(uintptr_t address, size_t bytes, const Site& site);

}  // namespace emulator
