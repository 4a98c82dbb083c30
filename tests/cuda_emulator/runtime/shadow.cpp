#include "shadow.h"

#include <cstdlib>
#include <cstring>

namespace emulator {

namespace {

uint32_t now = 1;
uint32_t launch_begin = 1;
uint32_t block_begin = 1;
uint32_t last_barrier = 1;  // when all threads of the block met last
uint32_t met[max_block / warp_size][warp_size][warp_size];  // when two lanes of a warp met last
bool block_used_atomics = false;  // in global memory: it may have waited for other blocks

// Whether the current thread comes after what that thread of its block did at that time.
bool is_after(uint32_t time, unsigned thread) {
    if (time < last_barrier || thread == current->id) return true;
    return thread / warp_size == current->warp &&
           met[current->warp][thread % warp_size][current->lane] > time;
}

[[noreturn]] void race(const Span& span, size_t i, const char* earlier, const std::string& who) {
    fault(span.site, "race: %s of %s, which %s %s, with nothing that orders the two",
          verb(span.access), span.describe(span.address + i).c_str(), who.c_str(), earlier);
}

std::string thread_name(unsigned thread) {
    const Index& index = threads[thread].index;
    return "thread (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
           std::to_string(index.z) + ")";
}

void check_after_write(const Cell& cell, const Span& span, size_t i) {
    if (cell.write_time < last_barrier) return;
    const bool atomic = cell.writer & atomic_writer;
    if (atomic && span.access == Access::atomic) return;
    const char* earlier = atomic ? "updated" : "wrote";
    if (cell.writer == atomic_writers) race(span, i, earlier, "several warps");
    const unsigned writer = cell.writer & ~atomic_writer;
    if (!is_after(cell.write_time, writer)) race(span, i, earlier, thread_name(writer));
}

void check_after_reads(const Cell& cell, const Span& span, size_t i) {
    if (cell.read_time < last_barrier) return;
    if (cell.read_warp == many_warps) race(span, i, "read", "several warps");
    for (uint32_t lanes = cell.readers; lanes; lanes &= lanes - 1) {
        const unsigned reader = cell.read_warp * warp_size + __builtin_ctz(lanes);
        if (!is_after(cell.read_time, reader)) race(span, i, "read", thread_name(reader));
    }
}

void check_after_other_blocks(const Cell& cell, const Span& span, size_t i) {
    const auto earlier_block = [](uint32_t time) {
        return launch_begin <= time && time < block_begin;
    };
    const bool both_atomic = span.access == Access::atomic && (cell.writer & atomic_writer);
    if (earlier_block(cell.write_time) && !both_atomic) race(span, i, "wrote", "another block");
    if (earlier_block(cell.read_time) && span.access != Access::read)
        race(span, i, "read", "another block");
}

[[noreturn]] void unwritten(const Cell& cell, const Span& span, size_t i) {
    fault(span.site, "unwritten shared memory: %s of %s%s", verb(span.access),
          span.describe(span.address + i).c_str(),
          cell.writer == pending_writer
              ? ", to which a cp.async is on its way that was not waited for" : "");
}

void note_read(Cell& cell) {
    const uint32_t lane = 1u << current->lane;
    if (cell.read_time < last_barrier) {
        cell.read_warp = current->warp;
        cell.readers = lane;
    } else if (cell.read_warp == current->warp) {
        cell.readers |= lane;
    } else {
        cell.read_warp = many_warps;
    }
    cell.read_time = now;
}

void note_write(Cell& cell, Access access) {
    uint16_t writer = current->id;
    if (access == Access::atomic) {
        const bool others = cell.write_time >= last_barrier && (cell.writer & atomic_writer) &&
                            (cell.writer & ~atomic_writer) / warp_size != current->warp;
        writer = others ? atomic_writers : writer | atomic_writer;
    }
    cell.writer = writer;
    cell.write_time = now;
    cell.read_time = 0;  // who comes after this write comes after those reads
}

void check_order_in_block(Cell& cell, const Span& span, size_t i) {
    check_after_write(cell, span, i);
    if (span.access == Access::read) return note_read(cell);
    check_after_reads(cell, span, i);
    note_write(cell, span.access);
}

}  // namespace

const char* verb(Access access) {
    constexpr const char* verbs[] = {"read", "write", "atomic update"};
    return verbs[static_cast<int>(access)];
}

void Shadow::clear() {
    free(words_);
    free(bytes_);
    words_ = bytes_ = nullptr;
    size_ = 0;
}

void Shadow::resize(size_t bytes) {
    clear();
    // Untouched pages of large arrays of zeros take no memory; few words are ever split.
    words_ = static_cast<Cell*>(calloc(bytes / word + 1, sizeof(Cell)));
    bytes_ = static_cast<Cell*>(calloc(bytes + word, sizeof(Cell)));
    size_ = bytes;
}

void Shadow::split(size_t which) {
    for (size_t i = 0; i < word; ++i) bytes_[which * word + i] = words_[which];
    words_[which].split = true;
}

bool written_by_this_block(const Cell& cell) { return cell.write_time >= block_begin; }

void check_shared_order(Shadow& shadow, size_t first, const Span& span) {
    shadow.visit(first, span.bytes, [&](Cell& cell, size_t i) {
        if (span.access != Access::write && !written_by_this_block(cell))
            unwritten(cell, span, i - first);
        check_order_in_block(cell, span, i - first);
    });
}

void check_global_order(Shadow& shadow, size_t first, const Span& span) {
    shadow.visit(first, span.bytes, [&](Cell& cell, size_t i) {
        if (!block_used_atomics) check_after_other_blocks(cell, span, i - first);
        check_order_in_block(cell, span, i - first);
    });
    block_used_atomics |= span.access == Access::atomic;
}

void mark_pending(Cell& cell) {
    cell.write_time = 0;
    cell.writer = pending_writer;
}

void begin_launch_order() { launch_begin = last_barrier = ++now; }

void begin_block_order() {
    block_begin = last_barrier = ++now;
    block_used_atomics = false;
}

void advance_block() { last_barrier = ++now; }

void advance_warp(unsigned warp, uint32_t lanes) {
    ++now;
    for (unsigned i = 0; i < warp_size; ++i)
        for (unsigned j = 0; j < warp_size; ++j)
            if (lanes >> i & lanes >> j & 1) met[warp][i][j] = now;
}

bool clock_is_old() { return now > 1u << 31; }

void reset_clock() {
    memset(met, 0, sizeof met);
    now = 1;
}

}  // namespace emulator
