// The compiler's thread-sanitizer instrumentation calls these functions before every access to
// memory that is not a plain local variable. Nothing of that sanitizer's own runtime is linked.
#include "access.h"

#include "allocations.h"
#include "fiber.h"
#include "shared.h"

namespace emulator {

namespace {

bool on_stack(const Thread& thread, uintptr_t address) {
    return thread.stack_low && address - thread.stack_low < stack_bytes;
}

bool in_image(uintptr_t address) {
    return launch.image_begin <= address && address < launch.image_end;
}

// Beyond a thread's own stack.
__attribute__((noinline)) void check_elsewhere(uintptr_t address, size_t bytes, Access access,
                                               const Site& site) {
    if (++current->accesses > most_accesses) fault(site, "endless loop: 2^30 accesses to memory");
    if (is_shared(address)) return check_shared(address, bytes, access, site);
    if (in_image(address)) return;  // constants and __device__ variables
    if (check_global(address, bytes, access, site)) return;
    for (const Thread& thread : threads)
        if (on_stack(thread, address))
            fault(site, "%s of another thread's local memory", verb(access));
    fault(site, "global memory out of bounds: %s of %zu bytes, %s", verb(access), bytes,
          explain(address, bytes).c_str());
}

}  // namespace

void check_access(uintptr_t address, size_t bytes, Access access, const Site& site) {
    if (current && !on_stack(*current, address)) check_elsewhere(address, bytes, access, site);
}

}  // namespace emulator

using emulator::Access;
using emulator::check_access;

#define HOOK(name, bytes, access)                                                     \
    EMULATOR_API void name(uintptr_t address) {                                       \
        check_access(address, bytes, access, {__builtin_return_address(0), nullptr}); \
    }
#define HOOKS(bytes)                                             \
    HOOK(__tsan_read##bytes, bytes, Access::read)                \
    HOOK(__tsan_write##bytes, bytes, Access::write)              \
    HOOK(__tsan_unaligned_read##bytes, bytes, Access::read)      \
    HOOK(__tsan_unaligned_write##bytes, bytes, Access::write)

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

EMULATOR_API void __tsan_read_range(uintptr_t address, size_t bytes) {
    check_access(address, bytes, Access::read, {__builtin_return_address(0), nullptr});
}

EMULATOR_API void __tsan_write_range(uintptr_t address, size_t bytes) {
    check_access(address, bytes, Access::write, {__builtin_return_address(0), nullptr});
}

EMULATOR_API void __tsan_init() {}

// Atomics of kernels: other threads run only where this one waits, so a load and a store do.
EMULATOR_API uint64_t emulator_atomic_load(uintptr_t address, size_t bytes) {
    const emulator::Site site{__builtin_return_address(0), nullptr};
    if (address % bytes) emulator::fault(site, "misaligned atomic: %zu bytes", bytes);
    check_access(address, bytes, Access::atomic, site);
    uint64_t value = 0;
    __builtin_memcpy(&value, reinterpret_cast<void*>(address), bytes);
    return value;
}

EMULATOR_API void emulator_atomic_store(uintptr_t address, uint64_t value, size_t bytes) {
    __builtin_memcpy(reinterpret_cast<void*>(address), &value, bytes);
}
