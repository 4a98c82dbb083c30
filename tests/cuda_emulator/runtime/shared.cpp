#include "shared.h"

#include <algorithm>
#include <cstring>

namespace emulator {

namespace {

struct Region {
    uintptr_t begin;
    size_t size;
    Shadow shadow;

    bool has(uintptr_t address) const { return address - begin < size; }
};

Region fixed, dynamic;
std::vector<const Symbol*> owner;  // of each byte of the fixed region; null for padding

// The dynamic part begins behind a margin, so that an overrun at either end is recognised.
constexpr size_t margin = 64 * 1024, capacity = 227 * 1024;
alignas(1024) char memory[margin + capacity + margin];

std::string describe(uintptr_t address) {
    if (dynamic.has(address)) {
        return "byte " + std::to_string(address - dynamic.begin) + " of " +
               std::to_string(dynamic.size) + " of dynamic shared memory";
    }
    const Symbol* symbol = owner[address - fixed.begin];
    return "byte " + std::to_string(address - symbol->address) + " of " +
           std::to_string(symbol->size) + " of shared " + symbol->name;
}

void check_bounds(uintptr_t address, size_t bytes, Access access, const Site& site) {
    if (fixed.has(address)) {
        const Symbol* symbol = owner[address - fixed.begin];
        if (symbol && address + bytes <= symbol->address + symbol->size) return;
        if (!symbol) {
            fault(site, "shared memory out of bounds: %s of %zu bytes between two variables",
                  verb(access), bytes);
        }
        fault(site, "shared memory out of bounds: %s of %zu bytes at %s", verb(access), bytes,
              describe(address).c_str());
    }
    if (!dynamic.has(address) || address + bytes > dynamic.begin + dynamic.size) {
        fault(site, "shared memory out of bounds: %s of %zu bytes at byte %td of %zu of dynamic "
              "shared memory", verb(access), bytes,
              static_cast<ptrdiff_t>(address - dynamic.begin), dynamic.size);
    }
}

// A library holds the __shared__ variables of all its kernels: those count that were written.
size_t fixed_bytes_in_use() {
    size_t used = 0;
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        bool written = false;
        fixed.shadow.visit(
            symbol.address - fixed.begin, symbol.size,
            [&](const Cell& cell, size_t) { written |= written_by_this_block(cell); });
        if (written) used += symbol.size;
    }
    return used;
}

}  // namespace

bool is_shared(uintptr_t address) {
    return fixed.has(address) || address - reinterpret_cast<uintptr_t>(memory) < sizeof memory;
}

void check_shared(uintptr_t address, size_t bytes, Access access, const Site& site) {
    check_bounds(address, bytes, access, site);
    Region& region = fixed.has(address) ? fixed : dynamic;
    check_shared_order(region.shadow, address - region.begin,
                       {address, bytes, access, site, describe});
}

void mark_pending(uintptr_t address, size_t bytes) {
    Region& region = fixed.has(address) ? fixed : dynamic;
    region.shadow.visit(address - region.begin, bytes,
                        [](Cell& cell, size_t) { mark_pending(cell); });
}

void begin_launch_shared() {
    uintptr_t end = 0;
    fixed.begin = launch.shared_count ? UINTPTR_MAX : 0;
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        fixed.begin = std::min(fixed.begin, symbol.address);
        end = std::max(end, symbol.address + symbol.size);
    }
    fixed.begin -= fixed.begin % word;
    fixed.size = end - fixed.begin;
    owner.assign(fixed.size, nullptr);
    for (size_t i = 0; i < launch.shared_count; ++i) {
        const Symbol& symbol = launch.shared[i];
        std::fill_n(owner.begin() + (symbol.address - fixed.begin), symbol.size, &symbol);
    }
    dynamic.begin = reinterpret_cast<uintptr_t>(memory + margin);
    dynamic.size = launch.shared_bytes;
    for (Region* region : {&fixed, &dynamic})
        if (region->shadow.size() < region->size) region->shadow.resize(region->size);
}

void begin_block_shared() {
    for (const Region* region : {&fixed, &dynamic})
        memset(reinterpret_cast<void*>(region->begin), 0xff, region->size);
}

void end_first_block_shared() {
    constexpr size_t without_asking = 48 * 1024;
    const size_t limit = launch.max_dynamic_shared > without_asking ? capacity : without_asking;
    const size_t used = fixed_bytes_in_use();
    if (used + dynamic.size > limit) {
        fault({}, "too much shared memory: %zu bytes static and %zu dynamic, at most %zu together",
              used, dynamic.size, limit);
    }
}

void clear_shared_shadows() {
    for (Region* region : {&fixed, &dynamic}) region->shadow.clear();
}

}  // namespace emulator

// Always the same address: a library may ask for it when it is loaded.
EMULATOR_API void* emulator_dynamic_shared() {
    return emulator::memory + emulator::margin;
}
