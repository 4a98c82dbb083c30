#include "allocations.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>

namespace emulator {

namespace {

// Every allocation gets pages that no earlier one had, with a gap behind them: an address that was
// valid once stays recognisable, and a kernel that runs far past an end lands in nobody's memory.
constexpr size_t gap = 1 << 20;
constexpr size_t remembered = 1024;  // freed allocations that an error can still name

std::map<uintptr_t, Allocation> live;
std::deque<Allocation> freed;
uintptr_t next_address = uintptr_t(1) << 44;
size_t live_bytes = 0;

const Allocation* recent[4];  // the last ones found, latest first: most accesses hit one of them

size_t mapped_bytes(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page) / page * page;  // at least one page, for empty allocations too
}

const Allocation* search(uintptr_t address) {
    auto after = live.upper_bound(address);
    if (after == live.begin()) return nullptr;
    const Allocation& candidate = std::prev(after)->second;
    return address - candidate.begin < candidate.size ? &candidate : nullptr;
}

bool holds(const Allocation* a, uintptr_t address, size_t bytes) {
    return address - a->begin < a->size && a->size - (address - a->begin) >= bytes;
}

}  // namespace

const Allocation* find_allocation(uintptr_t address, size_t bytes) {
    for (const Allocation* a : recent)
        if (a && holds(a, address, bytes)) return a;
    const Allocation* found = search(address);
    if (!found || !holds(found, address, bytes)) return nullptr;
    memmove(recent + 1, recent, sizeof recent - sizeof *recent);
    return recent[0] = found;
}

std::string explain(uintptr_t address, size_t bytes) {
    auto text = [](size_t n, const char* what, const Allocation& a) {
        return std::to_string(n) + what + std::to_string(a.size) + " bytes";
    };
    if (address < 65536) return "a null pointer" + (address ? " + " + std::to_string(address) : "");
    for (auto a = freed.rbegin(); a != freed.rend(); ++a)
        if (address - a->begin < a->size || address == a->begin)
            return text(address - a->begin, " bytes into an allocation, freed since, of ", *a);
    auto after = live.upper_bound(address);
    if (after != live.begin()) {
        const Allocation& a = std::prev(after)->second;
        const size_t offset = address - a.begin;
        if (offset < a.size)
            return text(offset + bytes - a.size, " bytes across the end of an allocation of ", a);
        if (offset - a.size < gap)
            return text(offset - a.size, " bytes past the end of an allocation of ", a);
    }
    if (after != live.end() && after->first - address < gap)
        return text(after->first - address, " bytes before an allocation of ", after->second);
    return "an address that no allocation is near";
}

}  // namespace emulator

using namespace emulator;

// Memory for kernels and the host, filled with 0xFF bytes, NaN in every floating-point type; null where the system has none.
EMULATOR_API void* emulator_allocate(size_t bytes) {
    const size_t mapped = mapped_bytes(bytes);
    void* memory = mmap(reinterpret_cast<void*>(next_address), mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    next_address += (mapped + 2 * gap) / gap * gap;
    memset(memory, 0xff, bytes);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
    live[begin] = {begin, bytes};
    live_bytes += bytes;
    return memory;
}

// Kernels may touch it no more; the host still may.
EMULATOR_API void emulator_free(void* memory) {
    auto found = live.find(reinterpret_cast<uintptr_t>(memory));
    if (found == live.end()) return;
    memset(recent, 0, sizeof recent);
    live_bytes -= found->second.size;
    freed.push_back(found->second);
    if (freed.size() > remembered) freed.pop_front();
    live.erase(found);
}

EMULATOR_API void emulator_unmap(void* memory, size_t bytes) {
    munmap(memory, mapped_bytes(bytes));
}

EMULATOR_API size_t emulator_allocated() { return live_bytes; }
