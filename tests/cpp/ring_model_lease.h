// A reader's leases in explore_ring: held for as long as the user likes, read at any moment of it,
// and dropped by a thread of their own, also after the reader has gone on (Lease::~Lease).

#pragma once

#include "ring_model_memory.h"

namespace fkat::ring_model {

// A reader's access to the bytes of a slot: the first of a lease when it is taken, the last when it
// is dropped. Whether the producer may write in between is seen by what it was shown.
inline void read_bytes(Slot& slot, Byte reader, Byte expected) {
  if (slot.content != expected) throw Violation{"a torn microbatch was read"};
  slot.shown[reader] = kToNobody;
}

struct LeaseModel {
  Scenario scenario;
  Byte reader;
  Memory memory{scenario};

  std::size_t num_outstanding(const State& s) const {
    const auto& leases = s.reader[reader].lease;
    return static_cast<std::size_t>(std::count_if(
        leases.begin(), leases.end(), [](const Lease& l) { return l.thread.at != kNoLease; }));
  }

  void lease(State& s, Byte slot) const {
    for (Lease& lease : s.reader[reader].lease) {
      if (lease.thread.at != kNoLease) continue;
      lease.thread.at = scenario.has(Mistake::kReleaseBeforeLastRead) ? kDrop : kHeld;
      lease.slot = slot;
      lease.content = s.slot[slot].content;
      return read_bytes(s.slot[slot], reader, lease.content);
    }
  }

  // Ring::release_share.
  void release_share(State& s, Thread& thread, Byte number) const {
    Slot& slot = s.slot[number];
    const auto bit = static_cast<Byte>(1 << reader);
    if ((slot.holders & bit) == 0 || slot.readers_left == 0) {
      throw Violation{"a slot was released twice"};
    }
    slot.holders = static_cast<Byte>(slot.holders & ~bit);
    memory.commit_all(s, thread);
    const bool is_last = --slot.readers_left == 0;
    // Acquire-release: who comes later is shown the reads of who came before.
    Byte& own = slot.shown[reader];
    if (own == kToNobody && (is_last || !scenario.has(Mistake::kShareRelaxed))) own = kByShare;
    if (is_last && scenario.has(Mistake::kShareRelease)) {
      for (Byte r = 0; r < kMaxReaders; ++r) {
        if (r != reader && slot.shown[r] == kByShare) slot.shown[r] = kToNobody;
      }
    }
    if (!is_last && !scenario.has(Mistake::kFirstReaderFrees)) return;
    memory.store(s, thread, kStoreFree, number);
    if (!scenario.has(Mistake::kNoRingOnFree)) Memory::ring(thread, kFreed);
  }

  template <typename Emit, typename EmitWish>
  void expand(const State& s, std::size_t i, const Emit& emit, const EmitWish& emit_wish) const {
    const auto lease_of = [this, i](State& t) -> Lease& { return t.reader[reader].lease[i]; };
    const Thread& thread = s.reader[reader].lease[i].thread;
    memory.step(s, [&](State& t) -> Thread& { return lease_of(t).thread; }, emit);
    if (thread.at == kNoLease || !Memory::is_idle(thread)) return;
    State next = s;
    Lease& lease = lease_of(next);
    Slot& slot = next.slot[lease.slot];
    switch (thread.at) {
      case kHeld:
        if (scenario.keeps && reader + 1 == scenario.num_readers) return;
        // A child that the trainer forks drops its copy: nothing, in lease.cpp.
        if (scenario.has(Mistake::kForkedChildReleases)) {
          State forked = s;
          release_share(forked, lease_of(forked).thread, lease.slot);
          lease_of(forked).thread.at = kHeld;
          emit_wish(forked);
        }
        read_bytes(slot, reader, lease.content);
        release_share(next, lease.thread, lease.slot);
        lease.thread.at = scenario.has(Mistake::kFreeTwice) ? kDropAgain : kDropped;
        if (lease.thread.at == kDropped) lease.slot = lease.content = 0;
        return emit_wish(next);
      case kDrop:
        release_share(next, lease.thread, lease.slot);
        lease.thread.at = kReadLate;
        return emit_wish(next);
      case kReadLate:
        read_bytes(slot, reader, lease.content);
        lease.thread.at = kDropped;
        return emit(next);
      case kDropAgain:
        release_share(next, lease.thread, lease.slot);
        lease.thread.at = kDropped;
        return emit(next);
      default:  // kDropped
        if (thread.stores[0] != kNoStore) return;
        lease = {};
        lease.thread.at = kNoLease;
        return emit(next);
    }
  }
};

}  // namespace fkat::ring_model
