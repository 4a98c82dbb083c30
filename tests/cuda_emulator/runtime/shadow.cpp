#include "shadow.h"

#include <algorithm>
#include <cstring>

namespace emulator {

Region static_shared{"static", 0, 0, {}};
Region dynamic_shared{"dynamic", 0, 0, {}};

namespace {

// The dynamic shared memory of a launch begins in the middle, with room on both sides for the
// addresses of overruns.
constexpr size_t margin = 64 * 1024;
alignas(1024) char dynamic_memory[margin + dynamic_capacity + margin];

uint32_t clock_now = 1;
uint32_t block_begin = 1;   // when this block began
uint32_t last_barrier = 1;  // when all threads of the block met last
uint32_t met[max_block / warp_size][warp_size][warp_size];  // when two lanes of a warp met last

std::vector<const Symbol*> owner;  // of each byte of the static region; null for padding

// Whether the current thread comes after an access at that time by that thread.
bool after(uint32_t time, unsigned thread) {
    if (time < last_barrier) return true;
    return thread / warp_size == current->warp &&
           met[current->warp][thread % warp_size][current->lane] > time;
}

const char* name(Access access) {
    constexpr const char* names[] = {"reads", "writes", "atomically updates"};
    return names[static_cast<int>(access)];
}

[[noreturn]] void race(const Region& region, size_t offset, Access access, const char* earlier,
                       int thread, const Site& site) {
    const Symbol* symbol = &region == &static_shared ? owner[offset] : nullptr;
    const char* where = symbol ? symbol->name : "dynamic shared memory";
    if (symbol) offset -= symbol->address - region.begin;
    if (thread < 0)
        fault(site, "race in shared memory: this thread %s byte %zu of %s, which several %s, "
              "without a barrier between", name(access), offset, where, earlier);
    const Index& other = threads[thread].index;
    fault(site, "race in shared memory: this thread %s byte %zu of %s, which thread (%u, %u, %u) "
          "%s, without a barrier between", name(access), offset, where, other.x, other.y, other.z,
          earlier);
}

void check_after_write(const Region& region, size_t offset, const Cell& cell, Access access,
                       const Site& site) {
    if (cell.write_time < last_barrier) return;
    const bool atomic = cell.writer & atomic_writer;
    if (atomic && access == Access::atomic) return;
    if (cell.writer == atomic_writers) race(region, offset, access, "updated", -1, site);
    const unsigned writer = cell.writer & ~atomic_writer;
    if (writer != current->id && !after(cell.write_time, writer))
        race(region, offset, access, atomic ? "updated" : "wrote", writer, site);
}

void check_after_reads(const Region& region, size_t offset, const Cell& cell, Access access,
                       const Site& site) {
    if (cell.read_time < last_barrier) return;
    if (cell.read_warp == many_warps) race(region, offset, access, "read", -1, site);
    for (uint32_t lanes = cell.readers; lanes; lanes &= lanes - 1) {
        const unsigned reader = cell.read_warp * warp_size + __builtin_ctz(lanes);
        if (reader != current->id && !after(cell.read_time, reader))
            race(region, offset, access, "read", reader, site);
    }
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
    cell.read_time = clock_now;
}

void note_write(Cell& cell, Access access) {
    uint16_t writer = current->id;
    if (access == Access::atomic) {
        const bool others = cell.write_time >= last_barrier && (cell.writer & atomic_writer) &&
                            (cell.writer & ~atomic_writer) / warp_size != current->warp;
        writer = others ? atomic_writers : writer | atomic_writer;
    }
    cell.writer = writer;
    cell.write_time = clock_now;
    cell.read_time = 0;  // who comes after this write comes after those reads
}

}  // namespace

void Region::check(uintptr_t address, size_t bytes, Access access, const Site& site) {
    const size_t first = address - begin;
    if (first + bytes > size)
        fault(site, "shared memory out of bounds: %s %zu bytes at byte %zu of %zu (%s)",
              name(access), bytes, first, size, kind);
    if (this == &static_shared && (!owner[first] || owner[first] != owner[first + bytes - 1]))
        fault(site, "shared memory out of bounds: %s %zu bytes between two __shared__ variables",
              name(access), bytes);
    for (size_t i = first; i < first + bytes; ++i) {
        Cell& cell = cells[i];
        if (cell.write_time < block_begin) {
            if (access != Access::write)
                fault(site, "unwritten shared memory: %s byte %zu of %zu (%s)%s", name(access), i,
                      size, kind, cell.writer == pending_writer && cell.write_time == 0
                      ? ", to which a cp.async is on its way that was not waited for" : "");
        } else {
            check_after_write(*this, i, cell, access, site);
        }
        if (access == Access::read) {
            note_read(cell);
        } else {
            check_after_reads(*this, i, cell, access, site);
            note_write(cell, access);
        }
    }
}

void begin_launch_shared() {
    const uint32_t wrap = 1u << 31;
    if (clock_now > wrap) {
        for (Region* region : {&static_shared, &dynamic_shared}) region->cells.clear();
        memset(met, 0, sizeof met);
        clock_now = 1;
    }
    uintptr_t end = 0;
    static_shared.begin = launch.shared_count ? UINTPTR_MAX : 0;
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        static_shared.begin = std::min(static_shared.begin, symbol.address);
        end = std::max(end, symbol.address + symbol.size);
    }
    static_shared.size = end - static_shared.begin;
    owner.assign(static_shared.size, nullptr);
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        std::fill_n(owner.begin() + (symbol.address - static_shared.begin), symbol.size, &symbol);
    }
    dynamic_shared.begin = reinterpret_cast<uintptr_t>(dynamic_memory) + margin;
    dynamic_shared.size = launch.shared_bytes;
    for (Region* region : {&static_shared, &dynamic_shared})
        if (region->cells.size() < region->size) region->cells.resize(region->size);
}

void begin_block_shared() {
    advance_block();
    block_begin = clock_now;
    for (Region* region : {&static_shared, &dynamic_shared})
        memset(reinterpret_cast<void*>(region->begin), 0xff, region->size);
}

void check_shared_limit() {
    // A library holds the __shared__ variables of all its kernels: those count that were written.
    size_t used = 0;
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        const Cell* cells = &static_shared.cells[symbol.address - static_shared.begin];
        if (std::any_of(cells, cells + symbol.size,
                        [](const Cell& cell) { return cell.write_time >= block_begin; }))
            used += symbol.size;
    }
    constexpr size_t without_asking = 48 * 1024, most = 227 * 1024;
    const size_t limit = launch.max_dynamic_shared > without_asking ? most : without_asking;
    if (used + launch.shared_bytes > limit)
        fault({}, "too much shared memory: %zu bytes static and %zu dynamic, at most %zu together",
              used, launch.shared_bytes, limit);
}

void advance_block() { last_barrier = ++clock_now; }

void advance_warp(unsigned warp, uint32_t lanes) {
    ++clock_now;
    for (unsigned i = 0; i < warp_size; ++i)
        for (unsigned j = 0; j < warp_size; ++j)
            if (lanes >> i & lanes >> j & 1) met[warp][i][j] = clock_now;
}

void mark_pending(uintptr_t address, size_t bytes) {
    Region& region = static_shared.has(address) ? static_shared : dynamic_shared;
    for (size_t i = address - region.begin; i < address - region.begin + bytes; ++i) {
        region.cells[i].write_time = 0;
        region.cells[i].writer = pending_writer;
    }
}

Region* find_shared(uintptr_t address, size_t bytes, const Site& site) {
    if (static_shared.has(address)) return &static_shared;
    if (dynamic_shared.has(address)) return &dynamic_shared;
    const uintptr_t memory = reinterpret_cast<uintptr_t>(dynamic_memory);
    if (address - memory < sizeof dynamic_memory)
        fault(site, "shared memory out of bounds: %zu bytes at byte %td of %zu (dynamic)", bytes,
              static_cast<ptrdiff_t>(address - dynamic_shared.begin), dynamic_shared.size);
    return nullptr;
}

}  // namespace emulator

EMULATOR_API void* emulator_dynamic_shared() {
    return reinterpret_cast<void*>(emulator::dynamic_shared.begin);
}
