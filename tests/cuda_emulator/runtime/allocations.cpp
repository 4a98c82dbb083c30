#include "allocations.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>

namespace emulator {

namespace {

struct Allocation {
    uintptr_t begin;
    size_t size;
    Shadow shadow;  // made at the first access by a kernel
};

// Every allocation gets pages that no earlier one had, with a gap behind: an address that was
// valid once stays recognisable, and a kernel that runs far past an end is in nobody's memory.
constexpr size_t gap = 1 << 20;
constexpr size_t largest_with_shadow = 4 << 20;  // races in larger ones go unseen
constexpr size_t remembered = 1024;  // freed allocations that an error can still name

std::map<uintptr_t, Allocation> live;
std::deque<Allocation> freed;
uintptr_t next_address = uintptr_t(1) << 44;
size_t live_bytes = 0;

Allocation* recent[4];  // the last ones found, latest first: most accesses hit one of them

size_t mapped_bytes(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page) / page * page;  // at least one page, for empty allocations too
}

bool holds(const Allocation* a, uintptr_t address, size_t bytes) {
    return a && address - a->begin < a->size && a->size - (address - a->begin) >= bytes;
}

// The live allocation that begins last before this address, or null.
Allocation* below(uintptr_t address) {
    auto after = live.upper_bound(address);
    return after == live.begin() ? nullptr : &std::prev(after)->second;
}

Allocation* find(uintptr_t address, size_t bytes) {
    for (Allocation* a : recent)
        if (holds(a, address, bytes)) return a;
    Allocation* found = below(address);
    if (!holds(found, address, bytes)) return nullptr;
    memmove(recent + 1, recent, sizeof recent - sizeof *recent);
    return recent[0] = found;
}

std::string describe(uintptr_t address) {
    const Allocation* a = find(address, 1);
    return "byte " + std::to_string(address - a->begin) + " of an allocation of " +
           std::to_string(a->size) + " bytes";
}

}  // namespace

bool check_global(uintptr_t address, size_t bytes, Access access, const Site& site) {
    Allocation* a = find(address, bytes);
    if (!a) return false;
    if (a->size > largest_with_shadow) return true;
    if (a->shadow.size() == 0) a->shadow.resize(a->size);
    check_global_order(a->shadow, address - a->begin, {address, bytes, access, site, describe});
    return true;
}

std::string explain(uintptr_t address, size_t bytes) {
    const auto text = [](size_t n, const char* what, const Allocation& a) {
        return std::to_string(n) + what + std::to_string(a.size) + " bytes";
    };
    if (address < 65536) return "null pointer + " + std::to_string(address);
    for (auto a = freed.rbegin(); a != freed.rend(); ++a)
        if (address - a->begin < a->size)
            return text(address - a->begin, " bytes into a freed allocation of ", *a);
    if (const Allocation* a = below(address)) {
        const size_t offset = address - a->begin;
        if (offset < a->size)
            return text(offset + bytes - a->size, " of them past the end of an allocation of ",
                        *a);
        if (offset - a->size < gap)
            return text(offset - a->size, " bytes past the end of an allocation of ", *a);
    }
    const auto next = live.upper_bound(address);
    if (next != live.end() && next->first - address < gap)
        return text(next->first - address, " bytes before an allocation of ", next->second);
    return "no allocation is near";
}

void clear_global_shadows() {
    for (auto& [begin, allocation] : live) allocation.shadow.clear();
}

}  // namespace emulator

using namespace emulator;

// Memory for kernels and the host, filled with 0xFF bytes, NaN in every floating-point type; null
// where the system has none.
EMULATOR_API void* emulator_allocate(size_t bytes) {
    const size_t mapped = mapped_bytes(bytes);
    void* memory = mmap(reinterpret_cast<void*>(next_address), mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    next_address += (mapped + 2 * gap) / gap * gap;
    memset(memory, 0xff, bytes);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
    live[begin] = {begin, bytes, {}};
    live_bytes += bytes;
    return memory;
}

// Kernels may touch it no more; the host still may.
EMULATOR_API void emulator_free(void* memory) {
    auto found = live.find(reinterpret_cast<uintptr_t>(memory));
    if (found == live.end()) return;
    memset(recent, 0, sizeof recent);
    found->second.shadow.clear();
    live_bytes -= found->second.size;
    freed.push_back(found->second);
    if (freed.size() > remembered) freed.pop_front();
    live.erase(found);
}

EMULATOR_API void emulator_unmap(void* memory, size_t bytes) {
    munmap(memory, mapped_bytes(bytes));
}

EMULATOR_API size_t emulator_allocated() { return live_bytes; }
