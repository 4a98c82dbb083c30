#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#if !defined(__x86_64__)
#define EMULATOR_UCONTEXT
#endif
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

namespace {

std::vector<uintptr_t> free_stacks;  // last out, first in: a warm stack is used again

// A page without access below each stack turns an overflow into a segmentation fault.
uintptr_t new_stack() {
    const size_t guard = sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    mprotect(memory, guard, PROT_NONE);
    return reinterpret_cast<uintptr_t>(memory) + guard;
}

void run_kernel() {
    launch.entry(launch.arguments);
    current->state = State::done;
    yield();
    abort();  // nobody resumes a thread that has ended
}

}  // namespace

#ifdef EMULATOR_UCONTEXT

static ucontext_t scheduler;

static ucontext_t* context(Thread& thread) {
    return static_cast<ucontext_t*>(thread.stack_pointer);
}

static void prepare(Thread& thread) {
    // The context lives at the low end of the stack it describes.
    thread.stack_pointer = reinterpret_cast<void*>(thread.stack_low);
    getcontext(context(thread));
    context(thread)->uc_stack.ss_sp = context(thread) + 1;
    context(thread)->uc_stack.ss_size = stack_bytes - sizeof(ucontext_t);
    makecontext(context(thread), run_kernel, 0);
}

static void switch_to(Thread& thread) { swapcontext(&scheduler, context(thread)); }
static void switch_back() { swapcontext(context(*current), &scheduler); }

#else

// Saves the registers that a call must preserve on the old stack, takes those of the new stack.
extern "C" void emulator_switch(void** save_stack_pointer, void* new_stack_pointer);
asm(R"(
    .text
    .hidden emulator_switch
    .globl emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

static void* scheduler;

static void prepare(Thread& thread) {
    // As if `emulator_switch` had been called by run_kernel's (non-existing) caller: six
    // registers, the address to return to, and a word that keeps the stack's alignment.
    void** top = reinterpret_cast<void**>(thread.stack_low + stack_bytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&run_kernel);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    thread.stack_pointer = top;
}

static void switch_to(Thread& thread) { emulator_switch(&scheduler, thread.stack_pointer); }
static void switch_back() { emulator_switch(&current->stack_pointer, scheduler); }

#endif

void resume(Thread& thread) {
    if (thread.stack_low == 0) {
        if (free_stacks.empty()) free_stacks.push_back(new_stack());
        thread.stack_low = free_stacks.back();
        free_stacks.pop_back();
        prepare(thread);
    }
    current = &thread;
    switch_to(thread);
    current = nullptr;
    if (thread.state == State::done) release_stack(thread);
}

void release_stack(Thread& thread) {
    if (thread.stack_low != 0) free_stacks.push_back(thread.stack_low);
    thread.stack_low = 0;
}

void yield() { switch_back(); }

}  // namespace emulator
