// The producer of explore_ring: Producer, SlotPool without a budget, and what producer.py does with
// them. One shared access a step.

#pragma once

#include "ring_model_publication.h"

namespace fkat::ring_model {

inline bool is_over(const Producer& producer) {
  return producer.thread.at == kExited || producer.thread.at == kKilled;
}

struct ProducerModel : PublicationModel {
  static Thread& thread_of(State& s) { return s.producer.thread; }

  // `emit_kill` takes what may happen, but is nobody's way out.
  template <typename Emit, typename EmitKill>
  void expand(const State& s, const Emit& emit, const EmitKill& emit_kill) const {
    memory.step(s, thread_of, emit);
    if (is_over(s.producer)) return;
    if (scenario.kills) {
      State killed = s;
      killed.producer = {};
      killed.producer.thread.at = kKilled;
      killed.producer.thread.stores = s.producer.thread.stores;
      for (const Byte bell : {kDemand, kFreed}) Memory::forget(killed.bell[bell]);
      emit_kill(killed);
    }
    if (Memory::is_idle(s.producer.thread) && s.producer.thread.at != kAsleep) {
      State next = stepped(s);
      while (is_alone(next)) next = stepped(next);
      emit(next);
    }
  }

  // Steps that no other one could tell from later ones: on what is the producer's own until it is
  // published, or never changes. Who looked there nevertheless would be found whenever it did.
  bool is_alone(const State& s) const {
    const At at = s.producer.thread.at;
    if (at == kReadStop) return !scenario.stops;
    return scenario.has(Mistake::kNone) &&
           (at == kWriteBytes || at == kSetReady || at == kWriteEntry);
  }

  State stepped(State s) const {
    Producer& p = s.producer;
    Bell& bell = s.bell[Memory::bell_of(p.loop)];
    if (Memory::is_waiting(p.thread)) {
      memory.step_wait(s, p.thread, Memory::bell_of(p.loop), first_of(p.loop));
      return s;
    }
    switch (p.thread.at) {
      case kReadBell:
        Memory::read(bell);
        p.thread.at = first_of(p.loop) == kReadBell ? kReadStop : kJoin;
        break;
      case kReadStop:
        p.thread.at = kReadVersion;
        if (s.stop != 0) exit(s);
        break;
      case kReadVersion:
        read_version(s);
        break;
      case kReadEpoch:
        p.epoch = s.epoch;
        p.thread.at = kReadStart;
        break;
      case kReadStart:
        p.position = s.start;
        p.thread.at = kReadVersionAgain;
        break;
      case kReadVersionAgain:
        begin(s);
        break;
      case kReadGranted:
        read_granted(s);
        break;
      case kReadState:
        read_state(s);
        break;
      default:
        append(s);
    }
    return s;
  }

  void wait(Producer& p) const { p.thread.at = first_of(p.loop) == kReadBell ? kJoin : kReadBell; }
  static void exit(State& s) {
    const Thread thread = s.producer.thread;
    for (const Byte bell : {kDemand, kFreed}) Memory::forget(s.bell[bell]);
    s.producer = {};
    s.producer.thread = thread;
    s.producer.thread.at = kExited;
  }

  void read_version(State& s) const {
    Producer& p = s.producer;
    if (p.loop != kAwaitPass) {
      const bool is_current = s.version == 2 * p.pass;
      p.thread.at = p.loop == kClaim ? kReadState : kReadGranted;
      if (is_current) return;
      p.position = 0;
      go_to(s, kAwaitPass);
    } else if (s.version % 2 == 0 && s.version / 2 > p.pass) {
      p.version = s.version;
      p.thread.at = kReadEpoch;
    } else {
      wait(p);
    }
  }

  void begin(State& s) const {
    Producer& p = s.producer;
    if (s.version != p.version && !scenario.has(Mistake::kPassNotReadAgain)) {
      p.epoch = p.position = p.version = 0;
      return wait(p);
    }
    const Byte pass = p.version / 2;
    if (p.epoch != pass || p.position != pass) throw Violation{"a pass is part of another"};
    p.pass = pass;
    p.epoch = p.position = p.version = 0;  // what `start` is does not matter any more
    go_to(s, kAwaitGrant);
  }

  void read_granted(State& s) const {
    Producer& p = s.producer;
    if (p.published_seq >= s.granted[p.looks_at]) {
      p.looks_at = 0;
      return wait(p);
    }
    if (++p.looks_at < scenario.num_readers) return;
    const bool ends = p.position == scenario.lengths[p.pass - 1];
    go_to(s, ends ? kAwaitGrant : kClaim);
    if (ends) p.thread.at = kWriteEntry;
  }

  // Looks no further than at the first slot that is free, the one that best_free takes of equal
  // ones: what other looks would show is looked at again before it is needed.
  void read_state(State& s) const {
    Producer& p = s.producer;
    Slot& slot = s.slot[p.looks_at];
    const bool is_free =
        slot.state == kFree || (slot.state == kLeased && scenario.has(Mistake::kReuseLeased));
    if (!is_free) {
      if (++p.looks_at < scenario.num_slots) return;
      p.looks_at = 0;
      return wait(p);
    }
    if (!scenario.has(Mistake::kStateReadRelaxed)) {  // SYNC POINT F
      p.shown_seq = std::max(p.shown_seq, slot.next_seq);
      for (Byte& shown : slot.shown) shown = shown == kByFree ? Byte{kToProducer} : shown;
    }
    slot.next_seq = 0;
    p.claimed = p.looks_at;
    slot.state = kWriting;  // nobody else looks at a slot that is FREE or WRITING
    go_to(s, kClaim);
    p.thread.at = after(kReadState);
  }
};

}  // namespace fkat::ring_model
