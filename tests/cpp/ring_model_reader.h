// The readers of explore_ring: Consumer, and Reader::wait_until of bind_consumer.cpp around it. One
// shared access a step. Only the first reader begins passes; the second is told of one at any time
// after that, as the trainer would have to, since both are in one process.

#pragma once

#include "ring_model_consumer.h"
#include "ring_model_producer.h"

namespace fkat::ring_model {

struct ReaderModel : ConsumerModel {
  // `emit_wish` takes what the trainer may do or leave.
  template <typename Emit, typename EmitWish>
  void expand(const State& s, const Emit& emit, const EmitWish& emit_wish) const {
    const Reader& reader = self(s);
    memory.step(s, [this](State& t) -> Thread& { return self(t).thread; }, emit);
    if (!Memory::is_idle(reader.thread)) return;
    if (reader.thread.at == kAsleep) {
      const bool is_to_be_told = number != 0 && reader.pass < s.version / 2;
      if (sees_exit(s) || is_to_be_told) return emit(woken(s));
      return emit_wish(woken(s));
    }
    if (may_begin(s)) {
      State next = s;
      begin(next);
      if (number == 0) emit_wish(next);
      if (number != 0) emit(next);
    }
    if (!has_step(s)) return;
    State next = stepped(s);
    while (is_alone(next)) next = stepped(next);
    if (may_leave(s)) emit_wish(next);
    if (!may_leave(s)) emit(next);
  }

  // Who has stopped the producer need not read on.
  bool may_leave(const State& s) const { return s.stop != 0 && self(s).thread.at == kLook; }

  // See ProducerModel.
  bool is_alone(const State& s) const {
    const At at = self(s).thread.at;
    return at == kCopy && scenario.has(Mistake::kNone);
  }

  // Exited, as a pidfd tells it: what it stored is in memory.
  static bool is_gone(const State& s) {
    return is_over(s.producer) && s.producer.thread.stores[0] == kNoStore;
  }
  bool sees_exit(const State& s) const {
    return is_gone(s) && !scenario.has(Mistake::kDeathWakesNobody);
  }
  // WakeFd::sleep ends by itself. An eventfd that is set while its reader does not sleep stays set,
  // and so ends the next sleep at once: as a signal may end any sleep, at any time, and a slice. A
  // wake-up that is lost shall be seen, so all of these may come, but need not.
  State woken(State s) const {
    if (sees_exit(s)) self(s).attempt = kLast;
    self(s).thread.at = kLeave;
    return s;
  }

  bool may_begin(const State& s) const {
    const Reader& reader = self(s);
    const bool is_between_calls =
        reader.thread.at == kEnded ||
        (reader.thread.at == kLook && (reader.attempt == kFirst || number != 0));
    if (!is_between_calls) return false;
    if (number == 0) return reader.pass < scenario.num_passes && reader.pass != 0;
    return s.version % 2 == 0 && reader.pass < s.version / 2;
  }
  void begin(State& s) const {
    Reader& reader = self(s);
    reader.attempt = kDrain;
    reader.delivered = 0;
    reader.thread.at = number == 0 ? kBeginOdd : kLook;
    if (number != 0) reader.pass = s.version / 2;
  }

  bool has_step(const State& s) const {
    const Reader& reader = self(s);
    const At at = reader.thread.at;
    if (at == kEnded || at == kSawExit) return false;
    // Not told yet: where the first pass begins, and where it would read of one that it knows not.
    if (reader.pass == 0 && number != 0) return false;
    const bool is_ahead = s.published != reader.acquired_seq && entry_of(s).pass > reader.pass;
    return !(at == kLook && number != 0 && is_ahead);
  }

  State stepped(State s) const {
    Reader& reader = self(s);
    Thread& thread = reader.thread;
    if (Memory::is_waiting(thread)) {
      memory.step_wait(s, thread, own_bell(), kLook);
      const bool is_last = thread.at == kLook && reader.attempt == kLast;
      if (is_last && scenario.has(Mistake::kDeathWithoutAnotherLook)) see_exit(s);
      return s;
    }
    Slot& slot = s.slot[entry_of(s).slot];
    switch (thread.at) {
      case kLook:
        look(s);
        break;
      case kCopy:
        read_bytes(slot, number, microbatch(reader.pass, reader.delivered));
        thread.at = kMarkLeased;
        break;
      case kMarkLeased:
        mark_leased(slot, thread);
        thread.at = reader.is_copy != 0 ? kReleaseShare : kAdvance;
        break;
      case kReleaseShare:
        LeaseModel{scenario, number}.release_share(s, thread, entry_of(s).slot);
        thread.at = kAdvance;
        break;
      case kAdvance:
        advance(s);
        break;
      case kReadOwnBell:
        Memory::read(s.bell[own_bell()]);
        thread.at = scenario.has(Mistake::kReaderReadsBellLate)    ? kJoin
                    : scenario.has(Mistake::kReaderSleepsUnlooked) ? kGrantForWait
                                                                   : kLookOnceMore;
        break;
      case kLookOnceMore:
        look_once_more(s);
        break;
      case kGrantForWait:
        thread.at = kJoin;
        grant(s, std::max<Byte>(scenario.num_prefetches, 1));
        if (scenario.has(Mistake::kReaderReadsBellLate)) thread.at = kReadOwnBell;
        break;
      default:
        step_begin(s);
    }
    return s;
  }

  void look_once_more(State& s) const {
    Reader& reader = self(s);
    reader.thread.at = kGrantForWait;
    if (s.published == reader.acquired_seq) return;
    Memory::forget(s.bell[own_bell()]);
    reader.thread.at = kLook;
  }

  void step_begin(State& s) const {
    Reader& reader = self(s);
    Thread& thread = reader.thread;
    if (thread.at != kAllow) memory.commit_all(s, thread);
    switch (thread.at) {
      case kBeginOdd:
        ++s.version;
        thread.at = kWriteEpoch;
        return;
      case kWriteEpoch:
        ++s.epoch;
        thread.at = kWriteStart;
        return;
      case kWriteStart:
        ++s.start;
        thread.at = kBeginEven;
        return;
      case kBeginEven:
        ++s.version;
        reader.pass = s.version / 2;
        thread.at = kLook;
        return;
      default:  // kAllow
        allow(s, static_cast<Byte>(reader.acquired_seq + scenario.num_prefetches));
        Memory::ring(thread, kDemand);
        Memory::ring(thread, kFreed);
        reader.attempt = kFirst;
        thread.at = kLook;
    }
  }
};

}  // namespace fkat::ring_model
