// __syncthreads and its reducing forms, and the report of a block that can't go on.
#include "fiber.h"
#include "shadow.h"
#include "warp.h"

namespace emulator {

namespace {

struct Barrier {
    Site site;
    unsigned arrived;
    int count;  // of the threads that brought a value other than 0
};

Barrier barrier;

struct Vote {
    int predicate, count;
};

int block_barrier(int predicate, const Site& site) {
    if (barrier.arrived == 0) {
        barrier.site = site;
        barrier.count = 0;
    } else if (!barrier.site.same_line(site)) {
        fault(site, "divergent barrier: other threads of the block wait at the __syncthreads() of "
              "%s:%u", barrier.site.file, barrier.site.line);
    }
    Vote vote{predicate, 0};
    current->slot = &vote;
    barrier.count += predicate != 0;
    if (++barrier.arrived < threads.size()) {
        current->state = State::at_block_barrier;
        yield();
        return vote.count;
    }
    for (Thread& thread : threads) {
        static_cast<Vote*>(thread.slot)->count = barrier.count;
        thread.state = State::ready;
    }
    barrier.arrived = 0;
    advance_block();
    return vote.count;
}

unsigned count(State state) {
    unsigned n = 0;
    for (const Thread& thread : threads) n += thread.state == state;
    return n;
}

}  // namespace

void begin_block_meetings() {
    barrier.arrived = 0;
    warps.resize((threads.size() + warp_size - 1) / warp_size);
    for (size_t w = 0; w < warps.size(); ++w) {
        const size_t lanes = threads.size() - w * warp_size;
        warps[w].alive = lanes >= warp_size ? ~0u : (1u << lanes) - 1;
        warps[w].meetings.clear();
    }
}

void report_deadlock() {
    const unsigned ended = count(State::done);
    for (const Warp& warp : warps) {
        if (warp.meetings.empty()) continue;
        const Meeting& meeting = warp.meetings.front();
        const unsigned first = (&warp - warps.data()) * warp_size;
        for (unsigned lane = 0; lane < warp_size; ++lane) {
            if (!(meeting.arrived >> lane & 1)) continue;
            current = &threads[first + lane];
            break;
        }
        fault(meeting.site, "%s not reached by all lanes of its mask: lanes 0x%08x wait, 0x%08x "
              "are missing", meeting.what, meeting.arrived,
              meeting.mask & warp.alive & ~meeting.arrived);
    }
    for (Thread& thread : threads) {
        if (thread.state != State::at_block_barrier) continue;
        current = &thread;
        break;
    }
    fault(barrier.site, "barrier not reached by all threads: %u of %zu wait at __syncthreads(), "
          "%u have ended", barrier.arrived, threads.size(), ended);
}

}  // namespace emulator

// How many threads of the block brought a predicate other than 0.
EMULATOR_API int emulator_block_barrier(int predicate, const char* file, unsigned line) {
    return emulator::block_barrier(predicate, {__builtin_return_address(0), file, line});
}
