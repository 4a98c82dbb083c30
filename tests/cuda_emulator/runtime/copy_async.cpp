// cp.async. Its bytes arrive as late as CUDA allows: when the thread that issued it waits for its
// group. Until then its destination counts as unwritten, so a missing wait is found; after that it
// was written by this thread, so a missing barrier before others read is found too.
#include <cstring>

#include "access.h"
#include "shared.h"

using namespace emulator;

namespace {

void arrive(const CopyAsync& copy) {
    check_access(copy.destination, copy.bytes, Access::write, copy.site);
    void* destination = reinterpret_cast<void*>(copy.destination);
    if (copy.valid)
        memcpy(destination, reinterpret_cast<const void*>(copy.source), copy.bytes);
    else
        memset(destination, 0, copy.bytes);
}

}  // namespace

EMULATOR_API void emulator_copy_async(uintptr_t shared, uintptr_t global, unsigned bytes,
                                      bool valid, const char* file, unsigned line) {
    const Site site{nullptr, file, line};
    if (shared % bytes || (valid && global % bytes))
        fault(site, "misaligned access: cp.async of %u bytes, the addresses are %u (shared) and "
              "%u (global) bytes off", bytes, static_cast<unsigned>(shared % bytes),
              static_cast<unsigned>(global % bytes));
    if (!is_shared(shared))
        fault(site, "cp.async to an address outside shared memory");
    if (valid) {
        if (is_shared(global)) fault(site, "cp.async from shared memory");
        check_access(global, bytes, Access::read, site);
    }
    check_access(shared, bytes, Access::write, site);
    mark_pending(shared, bytes);
    current->in_flight.copies.push_back({shared, global, bytes, valid, site});
}

EMULATOR_API void emulator_copy_commit() {
    auto& [copies, groups] = current->in_flight;
    groups.push_back(copies.size());
}

EMULATOR_API void emulator_copy_wait(unsigned allowed) {
    auto& [copies, groups] = current->in_flight;
    if (groups.size() <= allowed) return;
    const size_t finished = groups.size() - allowed;
    const size_t arrived = groups[finished - 1];
    for (size_t i = 0; i < arrived; ++i) arrive(copies[i]);
    copies.erase(copies.begin(), copies.begin() + arrived);
    groups.erase(groups.begin(), groups.begin() + finished);
    for (size_t& end : groups) end -= arrived;
}
