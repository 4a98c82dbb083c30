// The loop over blocks, the scheduler of a block's threads, and the end of a launch by a fault.
#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "allocations.h"
#include "fiber.h"
#include "shared.h"
#include "warp.h"

namespace emulator {

Launch launch;
Index block_index;
Thread* current = nullptr;
std::vector<Thread> threads;

namespace {

Report report;
sigjmp_buf end_of_launch;                       // where a fault jumps to, from whatever stack
std::vector<unsigned> block_order, warp_order;  // not local: the jump runs no destructors

std::vector<unsigned> permutation(size_t n, Order order) {
    std::vector<unsigned> p(n);
    std::iota(p.begin(), p.end(), 0u);
    if (order == Order::reversed) std::reverse(p.begin(), p.end());
    if (order == Order::shuffled) {
        uint64_t state = 0x9e3779b97f4a7c15;  // fixed: a failure comes again
        for (size_t i = n; i > 1; --i) {
            state = state * 6364136223846793005 + 1442695040888963407;
            std::swap(p[i - 1], p[(state >> 33) % i]);
        }
    }
    return p;
}

void begin_block(unsigned number) {
    const Index& grid = launch.grid;
    block_index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    for (Thread& thread : threads) {
        thread.state = State::ready;
        thread.accesses = 0;
        thread.in_flight.copies.clear();
        thread.in_flight.groups.clear();
    }
    begin_block_order();
    begin_block_shared();
    begin_block_meetings();
}

// Runs the lanes of a warp until all have ended or wait at a barrier of the block.
bool run_warp(unsigned warp, bool backwards) {
    const unsigned first = warp * warp_size;
    const unsigned lanes = std::min<unsigned>(warp_size, threads.size() - first);
    bool ran = false;
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < lanes; ++i) {
            Thread& thread = threads[first + (backwards ? lanes - 1 - i : i)];
            if (thread.state != State::ready) continue;
            resume(thread);
            if (thread.state == State::done) thread_ended(thread);
            again = ran = true;
        }
    }
    return ran;
}

void run_block(unsigned number) {
    begin_block(number);
    for (bool ran = true; ran;) {
        ran = false;
        for (unsigned warp : warp_order) ran |= run_warp(warp, launch.order == Order::reversed);
    }
    const auto done = [](const Thread& thread) { return thread.state == State::done; };
    if (!std::all_of(threads.begin(), threads.end(), done)) report_deadlock();
}

void make_threads() {
    const Index& block = launch.block;
    threads.resize(block.x * block.y * block.z);
    for (unsigned i = 0; i < threads.size(); ++i) {
        Thread& thread = threads[i];
        thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        thread.id = i;
        thread.warp = i / warp_size;
        thread.lane = i % warp_size;
    }
}

// What no check sees beforehand: a full stack, or a local array's index far out of bounds.
void on_signal(int, siginfo_t* info, void*) {
    fault({}, "segmentation fault at address %p: too many local variables, or an index of a local "
          "array out of bounds", info->si_addr);
}

// Handles segmentation faults while a grid runs, on a stack of its own since the thread's may be
// the one that is full.
class SignalHandler {
public:
    SignalHandler() {
        static char stack[64 * 1024];
        const stack_t own{stack, 0, sizeof stack};
        sigaltstack(&own, &old_stack_);
        struct sigaction action {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &old_action_);
    }
    ~SignalHandler() {
        sigaction(SIGSEGV, &old_action_, nullptr);
        sigaltstack(&old_stack_, nullptr);
    }

private:
    stack_t old_stack_;
    struct sigaction old_action_;
};

void run_grid() {
    make_threads();
    if (clock_is_old()) {
        clear_shared_shadows();
        clear_global_shadows();
        reset_clock();
    }
    begin_launch_order();
    begin_launch_shared();
    const Index& grid = launch.grid;
    block_order = permutation(size_t(grid.x) * grid.y * grid.z, launch.order);
    warp_order = permutation((threads.size() + warp_size - 1) / warp_size, launch.order);
    run_block(block_order.front());
    end_first_block_shared();
    for (size_t i = 1; i < block_order.size(); ++i) run_block(block_order[i]);
}

}  // namespace

bool Site::same_line(const Site& other) const {
    return line == other.line && (file == other.file || strcmp(file, other.file) == 0);
}

void fault(const Site& site, const char* text, ...) {
    va_list values;
    va_start(values, text);
    vsnprintf(report.text, sizeof report.text, text, values);
    va_end(values);
    snprintf(report.file, sizeof report.file, "%s", site.file ? site.file : "");
    report.line = site.line;
    report.pc = reinterpret_cast<uintptr_t>(site.pc);
    report.block = block_index;
    report.thread = current ? current->index : Index{};
    siglongjmp(end_of_launch, 1);
}

}  // namespace emulator

using namespace emulator;

// 0, or 1 with the fault in `result`.
EMULATOR_API int emulator_launch(const Launch* request, Report* result) {
    launch = *request;
    const SignalHandler handler;
    const bool faulted = sigsetjmp(end_of_launch, 1);
    if (!faulted) run_grid();
    current = nullptr;
    for (Thread& thread : threads) release_stack(thread);
    if (faulted) *result = report;
    return faulted;
}

EMULATOR_API Index emulator_thread_index() { return current->index; }
EMULATOR_API Index emulator_block_index() { return block_index; }
EMULATOR_API Index emulator_block_dim() { return launch.block; }
EMULATOR_API Index emulator_grid_dim() { return launch.grid; }

EMULATOR_API void emulator_trap(const char* text, const char* file, unsigned line) {
    fault({nullptr, file, line}, "%s", text);
}
