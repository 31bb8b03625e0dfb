// Records in explore_ring, as a reader finds, takes and drops them, and what it grants for them:
// Consumer.

#pragma once

#include "ring_model_lease.h"

namespace fkat::ring_model {

// Which look at the ring this is.
enum Attempt : Byte {
  kFirst,  // try_acquire
  kLast,   // after the producer's exit was seen
  kDrain,  // begin_pass
};

struct ConsumerModel {
  Scenario scenario;
  Byte number;
  Memory memory{scenario};

  Reader& self(State& s) const { return s.reader[number]; }
  const Reader& self(const State& s) const { return s.reader[number]; }
  Byte own_bell() const { return static_cast<Byte>(kPublished + number); }

  const Entry& entry_of(const State& s) const {
    return s.index[self(s).acquired_seq % scenario.index_capacity()];
  }

  void look(State& s) const {
    Reader& reader = self(s);
    Thread& thread = reader.thread;
    if (s.published == reader.acquired_seq) {
      if (reader.attempt == kLast) return see_exit(s);
      const bool is_late = scenario.has(Mistake::kReaderReadsBellLate);
      thread.at = reader.attempt == kDrain ? kAllow : is_late ? kLookOnceMore : kReadOwnBell;
      return;
    }
    // SYNC POINT A: shows all that was written before this value of published_seq.
    const bool shows =
        !scenario.has(Mistake::kPublishRelaxed) && !scenario.has(Mistake::kPublishedReadRelaxed);
    const Entry& entry = entry_of(s);
    const bool stands = entry.covered_by != 0 && entry.covered_by <= s.published && shows;
    if (!stands || entry.seq != reader.acquired_seq) {
      throw Violation{"an entry was read before it stood"};
    }
    if (entry.pass > reader.pass) throw Violation{"a record of a pass that nobody began"};
    if (entry.pass < reader.pass) {
      const bool skips = scenario.has(Mistake::kPassReleasesNothing);
      thread.at = entry.position == kEnd || skips ? kAdvance : kReleaseShare;
    } else if (reader.attempt == kDrain) {
      thread.at = kAllow;
    } else if (entry.position == kEnd) {
      if (reader.delivered != scenario.lengths[reader.pass - 1]) {
        throw Violation{"a microbatch is missing"};
      }
      thread.at = kAdvance;
    } else {
      if (entry.position != reader.delivered) throw Violation{"microbatches are out of order"};
      reader.is_copy = LeaseModel{scenario, number}.num_outstanding(s) >= max_leases() ? 1 : 0;
      thread.at = reader.is_copy != 0 ? kCopy : kMarkLeased;
    }
  }
  std::size_t max_leases() const {
    return scenario.has(Mistake::kLeaseEverySlot) ? scenario.num_slots
                                                  : scenario.max_leases[number];
  }

  void mark_leased(Slot& slot, Thread& thread) const {
    if (slot.state == kLeased && scenario.num_readers > 1) return;  // another reader was first
    if (slot.state != kReady) throw Violation{"a published slot was not READY"};
    slot.state = kLeased;
    Memory::ring(thread, kFreed);
  }

  void advance(State& s) const {
    Reader& reader = self(s);
    const Entry entry = entry_of(s);
    reader.thread.at = kLook;
    if (entry.pass == reader.pass) {
      reader.attempt = kFirst;
      if (entry.position == kEnd) {
        reader.thread.at = kEnded;
      } else {
        if (reader.is_copy == 0) LeaseModel{scenario, number}.lease(s, entry.slot);
        ++reader.delivered;
      }
      reader.is_copy = 0;
    }
    ++reader.acquired_seq;
    forget_if_read_by_all(s, entry.seq);
    grant(s, scenario.num_prefetches);
  }

  // Equal states shall be equal.
  void forget_if_read_by_all(State& s, Byte seq) const {
    for (Byte r = 0; r < scenario.num_readers; ++r) {
      if (s.reader[r].acquired_seq <= seq) return;
    }
    Entry& entry = s.index[seq % scenario.index_capacity()];
    entry.slot = entry.pass = entry.position = 0;
  }

  void grant(State& s, int num_ahead) const {
    const int twice = scenario.has(Mistake::kGrantTwice) ? 2 : 1;
    const auto granted = static_cast<Byte>(self(s).acquired_seq + twice * num_ahead);
    if (granted > self(s).granted_seq) allow(s, granted);
  }
  void allow(State& s, Byte granted) const {
    Reader& reader = self(s);
    reader.granted_seq = granted;
    memory.store(s, reader.thread, kStoreGranted, number);
    if (!scenario.has(Mistake::kNoRingOnGrant)) Memory::ring(reader.thread, kDemand);
  }

  void see_exit(State& s) const {
    if (self(s).acquired_seq != s.published) {
      throw Violation{"a published microbatch was not delivered"};
    }
    self(s).thread.at = kSawExit;
  }
};

}  // namespace fkat::ring_model
