// Calls of a warp: barriers, shuffles and votes.
#include "warp.h"

#include "fiber.h"
#include "shadow.h"

namespace emulator {

std::vector<Warp> warps;

namespace {

Thread& thread_of(const Meeting& meeting, unsigned lane) {
    return threads[meeting.warp * warp_size + lane];
}

bool all_arrived(const Warp& warp, const Meeting& meeting) {
    const uint32_t expected = meeting.all_lanes ? meeting.mask : meeting.mask & warp.alive;
    return meeting.arrived == expected;
}

// All lanes of the meeting go on.
void finish(Warp& warp, size_t which) {
    Meeting meeting = warp.meetings[which];
    warp.meetings.erase(warp.meetings.begin() + which);
    meeting.complete(meeting);
    for (unsigned lane = 0; lane < warp_size; ++lane)
        if (meeting.arrived >> lane & 1) thread_of(meeting, lane).state = State::ready;
}

}  // namespace

void meet(const char* what, const Site& site, uint32_t mask, void* slot,
          void (*complete)(Meeting&), bool all_lanes) {
    Warp& warp = warps[current->warp];
    const uint32_t lane = 1u << current->lane;
    if (!(mask & lane))
        fault(site, "%s: lane %u is not in its own mask 0x%08x", what, current->lane, mask);
    if (all_lanes && (mask & warp.alive) != mask)
        fault(site, "%s needs all 32 lanes, only 0x%08x run", what, warp.alive);
    size_t which = 0;
    while (which < warp.meetings.size() && warp.meetings[which].mask != mask) ++which;
    if (which == warp.meetings.size())
        warp.meetings.push_back({what, site, current->warp, mask, 0, all_lanes, complete, {}});
    Meeting& meeting = warp.meetings[which];
    if (meeting.complete != complete || !meeting.site.same_line(site))
        fault(site, "divergent warp: this lane calls %s while others wait in the %s of %s:%u",
              what, meeting.what, meeting.site.file, meeting.site.line);
    meeting.arrived |= lane;
    meeting.slots[current->lane] = slot;
    current->state = State::at_warp_call;
    if (all_arrived(warp, meeting))
        finish(warp, which);
    else
        yield();
}

void thread_ended(const Thread& thread) {
    Warp& warp = warps[thread.warp];
    warp.alive &= ~(1u << thread.lane);
    for (size_t i = warp.meetings.size(); i-- > 0;)
        if (all_arrived(warp, warp.meetings[i])) finish(warp, i);
}

namespace {

struct Shuffle {
    uint64_t value, result;
    unsigned source;
};

void complete_shuffle(Meeting& meeting) {
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(meeting.arrived >> lane & 1)) continue;
        auto& own = *static_cast<Shuffle*>(meeting.slots[lane]);
        if (!(meeting.arrived >> own.source & 1)) {
            current = &thread_of(meeting, lane);
            fault(meeting.site, "%s: lane %u reads from lane %u, which takes no part",
                  meeting.what, lane, own.source);
        }
        own.result = static_cast<Shuffle*>(meeting.slots[own.source])->value;
    }
}

struct Ballot {
    bool predicate;
    uint32_t result, lanes;
};

void complete_ballot(Meeting& meeting) {
    uint32_t result = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane)
        if (meeting.arrived >> lane & 1)
            result |= uint32_t(static_cast<Ballot*>(meeting.slots[lane])->predicate) << lane;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(meeting.arrived >> lane & 1)) continue;
        static_cast<Ballot*>(meeting.slots[lane])->result = result;
        static_cast<Ballot*>(meeting.slots[lane])->lanes = meeting.arrived;
    }
}

void complete_barrier(Meeting& meeting) { advance_warp(meeting.warp, meeting.arrived); }

}  // namespace

}  // namespace emulator

using namespace emulator;

EMULATOR_API unsigned emulator_lane() { return current->lane; }

// The value of lane `source`. Orders no memory: only __syncwarp does.
EMULATOR_API uint64_t emulator_shuffle(uint32_t mask, uint64_t value, unsigned source,
                                       const char* what, const char* file, unsigned line) {
    Shuffle slot{value, 0, source};
    meet(what, {__builtin_return_address(0), file, line}, mask, &slot, complete_shuffle);
    return slot.result;
}

// The lanes whose predicate holds; `lanes` receives those that took part.
EMULATOR_API uint32_t emulator_ballot(uint32_t mask, bool predicate, uint32_t* lanes,
                                      const char* file, unsigned line) {
    Ballot slot{predicate, 0, 0};
    meet("vote", {__builtin_return_address(0), file, line}, mask, &slot, complete_ballot);
    *lanes = slot.lanes;
    return slot.result;
}

EMULATOR_API void emulator_warp_barrier(uint32_t mask, const char* file, unsigned line) {
    meet("__syncwarp", {__builtin_return_address(0), file, line}, mask, nullptr, complete_barrier);
}
