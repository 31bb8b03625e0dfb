// The whole of explore_ring: who has a step, and who may rest.

#pragma once

#include "ring_model_reader.h"

namespace fkat::ring_model {

struct RingModel {
  using State = ring_model::State;
  Scenario scenario;

  State initial() const {
    State s{};
    s.producer.thread.at = kReadBell;
    s.stopper.at = kDropped;
    for (Reader& reader : s.reader) {
      reader.thread.at = kLook;
      for (Lease& lease : reader.lease) lease.thread.at = kNoLease;
    }
    s.reader[0].thread.at = kBeginOdd;
    s.reader[0].attempt = kDrain;
    return s;
  }

  template <typename Emit>
  bool expand(const State& s, const Emit& emit) const {
    // Which of its leases is which is all the same to a reader.
    const auto emit_wish = [&](State next) {
      for (Reader& reader : next.reader) std::sort(reader.lease.begin(), reader.lease.end());
      emit(next);
    };
    bool others_stuck = true;
    const auto emit_other = [&](const State& next) {
      others_stuck = false;
      emit_wish(next);
    };
    ProducerModel{{scenario}}.expand(s, emit_other, emit_wish);
    for (Byte r = 0; r < scenario.num_readers; ++r) {
      ReaderModel{{scenario, r}}.expand(s, emit_other, emit_wish);
      for (std::size_t i = 0; i < s.reader[r].lease.size(); ++i) {
        LeaseModel{scenario, r}.expand(s, i, emit_other, emit_wish);
      }
    }
    step_stopper(s, emit_other, emit_wish);
    // What may be done or left must not be what everybody waits for.
    if (others_stuck) check_rest(s);
    return true;
  }

  // Ring::stop.
  template <typename Emit, typename EmitWish>
  void step_stopper(const State& s, const Emit& emit, const EmitWish& emit_wish) const {
    Memory{scenario}.step(s, [](State& t) -> Thread& { return t.stopper; }, emit);
    if (!scenario.stops || s.stop != 0) return;
    State stopped = s;
    stopped.stop = 1;
    Memory::ring(stopped.stopper, kDemand);
    if (!scenario.has(Mistake::kStopRingsDemandOnly)) Memory::ring(stopped.stopper, kFreed);
    emit_wish(stopped);
  }

  void check_rest(const State& s) const {
    if (!rests(s)) throw Violation{misses_a_ring(s) ? "a wake-up was lost" : "deadlock"};
    check_no_slot_is_lost(s);
  }

  bool rests(const State& s) const {
    const Producer& p = s.producer;
    const bool waits = p.thread.at == kAsleep && p.loop == kAwaitPass && s.stop == 0;
    if (!is_over(p) && !(waits && s.version == 2 * p.pass)) return false;
    for (Byte r = 0; r < scenario.num_readers; ++r) {
      const At at = s.reader[r].thread.at;
      const bool has_left = s.stop != 0 && at == kLook;
      if (at != kEnded && at != kSawExit && !has_left) return false;
    }
    return true;
  }

  // Whether somebody sleeps who has what it waits for.
  bool misses_a_ring(const State& s) const {
    for (const Reader& reader : s.reader) {
      if (reader.thread.at == kAsleep && s.published != reader.acquired_seq) return true;
    }
    const Producer& p = s.producer;
    if (p.thread.at != kAsleep) return false;
    if (s.stop != 0 || s.version != 2 * p.pass) return true;
    const auto is_free = [](const Slot& slot) { return slot.state == kFree; };
    const auto is_granted = [&](Byte granted) { return p.published_seq < granted; };
    if (p.loop == kClaim) {
      return std::any_of(s.slot.begin(), s.slot.begin() + scenario.num_slots, is_free);
    }
    return p.loop == kAwaitGrant &&
           std::all_of(s.granted.begin(), s.granted.begin() + scenario.num_readers, is_granted);
  }

  void check_no_slot_is_lost(const State& s) const {
    if (s.stop != 0 || s.producer.thread.at == kKilled) return;  // with the ring
    for (Byte i = 0; i < scenario.num_slots; ++i) {
      bool is_known = s.slot[i].state == kFree;
      for (const Reader& reader : s.reader) {
        for (const Lease& lease : reader.lease) {
          is_known |= lease.thread.at != kNoLease && lease.slot == i;
        }
      }
      if (!is_known) throw Violation{"a slot is lost"};
    }
  }
};

}  // namespace fkat::ring_model
