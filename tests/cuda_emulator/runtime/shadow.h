// Who touched which byte last: races between threads, in shared and in global memory.
#pragma once

#include <string>

#include "state.h"

namespace emulator {

// What is known about a byte, or about an aligned word as long as its four bytes were only touched
// together. Times are values of one clock that every barrier advances and that never goes back, so
// that nothing has to be cleared between blocks or launches.
struct Cell {
    uint32_t write_time;
    uint32_t read_time;
    uint32_t readers;   // lanes of `read_warp` that read since the last barrier of the block
    uint16_t writer;    // a thread of the block, or one of the values below
    uint8_t read_warp;  // `many_warps` where several read
    bool split;         // this is a word whose bytes have cells of their own
};

constexpr size_t word = 4;
constexpr uint8_t many_warps = 0xff;
constexpr uint16_t atomic_writer = 0x8000;   // added to the thread
constexpr uint16_t atomic_writers = 0xffff;  // atomics by several warps
constexpr uint16_t pending_writer = 0x7fff;  // a cp.async that nobody has waited for

enum class Access : uint8_t { read, write, atomic };

const char* verb(Access access);

// Some bytes that the current thread touches now.
struct Span {
    uintptr_t address;
    size_t bytes;
    Access access;
    const Site& site;
    std::string (*describe)(uintptr_t address);  // where one of them lies, in words
};

// The cells of a piece of memory that begins at a word.
class Shadow {
public:
    void resize(size_t bytes);  // everything untouched
    void clear();
    size_t size() const { return size_; }

    // Calls f(cell, offset) for the cells of these bytes.
    template <typename F>
    void visit(size_t first, size_t bytes, F f) {
        for (size_t i = first; i < first + bytes;) {
            Cell& whole = words_[i / word];
            if (!whole.split && i % word == 0 && first + bytes - i >= word) {
                f(whole, i);
                i += word;
                continue;
            }
            if (!whole.split) split(i / word);
            f(bytes_[i], i);
            ++i;
        }
    }

private:
    void split(size_t which);

    size_t size_ = 0;
    Cell* words_ = nullptr;
    Cell* bytes_ = nullptr;
};

// Faults where an access by another thread is not ordered before this one by a barrier, then notes
// the access. Shared memory must have been written by this block before. Blocks of a grid share
// global memory: without an atomic operation in between, none may touch what another one of the
// same launch wrote.
void check_shared_order(Shadow& shadow, size_t first, const Span& span);
void check_global_order(Shadow& shadow, size_t first, const Span& span);

bool written_by_this_block(const Cell& cell);
void mark_pending(Cell& cell);  // unwritten until a cp.async arrives

void begin_launch_order();
void begin_block_order();
void advance_block();                              // a barrier of the block was passed
void advance_warp(unsigned warp, uint32_t lanes);  // a barrier of these lanes was passed
bool clock_is_old();                               // all cells should be cleared
void reset_clock();                                // they were

}  // namespace emulator
