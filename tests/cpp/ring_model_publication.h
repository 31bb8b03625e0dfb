// What the producer of explore_ring does with a slot that it has claimed: write, and append.

#pragma once

#include "ring_model_memory.h"

namespace fkat::ring_model {

struct PublicationModel {
  Scenario scenario;
  Memory memory{scenario};

  At first_of(Byte loop) const {
    const bool late = loop == kAwaitGrant && scenario.has(Mistake::kProducerReadsBellLate);
    return late ? kReadStop : kReadBell;
  }
  void go_to(State& s, Byte loop) const {
    Producer& p = s.producer;
    Memory::forget(s.bell[Memory::bell_of(p.loop)]);
    p.loop = loop;
    p.looks_at = 0;
    p.thread.at = first_of(loop);
  }

  // The order of csrc, or a mistaken one.
  At after(At at) const {
    const At done = kReadBell;
    switch (at) {
      case kReadState:
        return scenario.has(Mistake::kBytesAfterPublish) ? kSetReady : kWriteBytes;
      case kWriteBytes:
        if (scenario.has(Mistake::kBytesAfterPublish)) return done;
        return scenario.has(Mistake::kReadyAfterPublish) ? kWriteEntry : kSetReady;
      case kSetReady:
        if (scenario.has(Mistake::kReadyAfterPublish)) return done;
        return scenario.has(Mistake::kEntryAfterPublish) ? kPublish : kWriteEntry;
      case kWriteEntry:
        return scenario.has(Mistake::kEntryAfterPublish) ? done : kPublish;
      default:  // kPublish
        return scenario.has(Mistake::kBytesAfterPublish)   ? kWriteBytes
               : scenario.has(Mistake::kReadyAfterPublish) ? kSetReady
               : scenario.has(Mistake::kEntryAfterPublish) ? kWriteEntry
                                                           : done;
    }
  }

  void append(State& s) const {
    Producer& p = s.producer;
    Slot& slot = s.slot[p.claimed];
    const bool is_end = p.position == scenario.lengths[p.pass - 1];
    const auto covered_by = static_cast<Byte>(p.published_seq + 1);
    const At at = p.thread.at;
    if (at == kWriteBytes) {
      const auto is_unshown = [](Byte shown) { return shown != kToProducer; };
      if (slot.holders != 0 || std::any_of(slot.shown.begin(), slot.shown.end(), is_unshown)) {
        throw Violation{"a slot was written under a reader"};
      }
      slot.content = microbatch(p.pass, p.position);
      slot.covered_by = covered_by;
    } else if (at == kSetReady) {
      slot.next_seq = covered_by;
      slot.holders = static_cast<Byte>((1 << scenario.num_readers) - 1);
      slot.readers_left = scenario.has(Mistake::kOneShare) ? 1 : scenario.num_readers;
      slot.state = kReady;
    } else if (at == kWriteEntry) {
      write_entry(s, is_end, covered_by);
    } else {
      ++p.published_seq;
      memory.store(s, p.thread, kStorePublished);
      check_window(s);
      for (Byte r = 0; r < scenario.num_readers; ++r) {
        const bool forgets =
            scenario.has(Mistake::kNoRingOnPublish) && r + 1 == scenario.num_readers;
        if (!forgets) Memory::ring(p.thread, kPublished + r);
      }
    }
    p.thread.at = !is_end ? after(at) : at == kPublish ? kReadBell : kPublish;
    if (p.thread.at != kReadBell) return;
    p.claimed = 0;
    p.position = is_end ? Byte{0} : static_cast<Byte>(p.position + 1);
    go_to(s, is_end ? kAwaitPass : kAwaitGrant);
  }

  void write_entry(State& s, bool is_end, Byte covered_by) const {
    const Producer& p = s.producer;
    const bool is_late = !is_end && scenario.has(Mistake::kEntryAfterPublish);
    const auto seq = static_cast<Byte>(p.published_seq - (is_late ? 1 : 0));
    Entry& entry = s.index[seq % scenario.index_capacity()];
    if (entry.covered_by != 0 && entry.seq >= p.shown_seq) {
      throw Violation{"an entry was overwritten that a reader may not have read"};
    }
    entry = {is_end ? Byte{0} : p.claimed, p.pass, is_end ? kEnd : p.position, seq, covered_by};
  }

  void check_window(const State& s) const {
    for (Byte r = 0; r < scenario.num_readers; ++r) {
      const int num_ahead = s.producer.published_seq - s.reader[r].acquired_seq;
      if (num_ahead > std::max<Byte>(scenario.num_prefetches, 1)) {
        throw Violation{"more was published than the window admits"};
      }
    }
  }
};

}  // namespace fkat::ring_model
