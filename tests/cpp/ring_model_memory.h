// Stores and doorbells of explore_ring.
//
// A store that is not sequentially consistent waits in its thread's buffer, and reaches memory at
// any later time, also after later loads and after the death of its process; sequentially
// consistent and read-modify-write steps wait for it. So store buffering is seen. What acquire and
// release are for is seen by happens-before: `covered_by`, `shown` and `shown_seq` say what one
// side has been shown of the other's accesses to bytes and entries, and an access that conflicts
// with one not shown breaks a promise, whatever value it would find. Doorbells and the version
// count for nothing there: SYNC POINTs A and F and the shares of a slot have to suffice.

#pragma once

#include "explorer.h"
#include "ring_model_state.h"

namespace fkat::ring_model {

struct Memory {
  Scenario scenario;

  // Whether the thread has nothing to ring before it goes on.
  static bool is_idle(const Thread& thread) { return thread.bells[0] == kNoBell; }
  static bool is_at_rest(const Thread& thread) { return is_idle(thread) && thread.stores[0] == 0; }

  static void push(std::array<Byte, 3>& queue, int value) {
    Byte* place = std::find(queue.data(), queue.data() + queue.size(), 0);
    if (place == queue.data() + queue.size()) throw Violation{"a queue of the model is too small"};
    *place = static_cast<Byte>(value);
  }
  static Byte pop(std::array<Byte, 3>& queue) {
    const Byte first = queue[0];
    queue = {queue[1], queue[2], 0};
    return first;
  }

  void store(State& s, Thread& thread, Store what, int argument = 0) const {
    if (what != kAddRing) commit_all(s, thread);  // nothing waits yet, but by mistake
    push(thread.stores, 16 * argument + what);
  }
  static void ring(Thread& thread, int bell) { push(thread.bells, bell); }

  // One store reaches memory.
  void commit(State& s, Thread& thread) const {
    const Byte store = pop(thread.stores);
    const int argument = store / 16;
    switch (store % 16) {
      case kStorePublished:
        ++s.published;
        return;
      case kStoreGranted:
        s.granted[argument] = s.reader[argument].granted_seq;
        return;
      case kStoreFree:
        return free_slot(s.slot[argument]);
      case kAddRing:
        return add_ring(s.bell[argument]);
      default:
        ++s.bell[argument].waiters;
        return;
    }
  }
  void commit_all(State& s, Thread& thread) const {
    while (thread.stores[0] != kNoStore) commit(s, thread);
  }

  // SYNC POINT F, reading side of a slot: what its shares have shown, FREE shows.
  void free_slot(Slot& slot) const {
    if (slot.state == kFree || slot.state == kWriting) throw Violation{"a slot was freed twice"};
    slot.state = kFree;
    if (slot.holders == 0) slot.content = slot.covered_by = 0;  // nobody asks for them any more
    if (scenario.has(Mistake::kFreeRelaxed)) return;
    for (Byte& shown : slot.shown) shown = shown == kByShare ? Byte{kByFree} : shown;
  }

  // A store on its way to memory; Doorbell::ring.
  template <typename Of, typename Emit>
  void step(State s, const Of& thread_of, const Emit& emit) const {
    Thread& thread = thread_of(s);
    if (thread.stores[0] != kNoStore) {
      State stored = s;
      commit(stored, thread_of(stored));
      emit(stored);
    }
    if (is_idle(thread)) return;
    const Byte bell = thread.bells[0];
    switch (thread.ring_at) {
      case kAdd:
        if (scenario.has(Mistake::kRingRelease)) {
          if (thread.stores.back() != kNoStore) commit_all(s, thread);
          store(s, thread, kAddRing, bell);
        } else {
          commit_all(s, thread);
          add_ring(s.bell[bell]);
        }
        thread.ring_at = kLookForWaiters;
        return emit(s);
      case kLookForWaiters:
        thread.ring_at = s.bell[bell].waiters != 0 ? kWake : kAdd;
        if (thread.ring_at == kAdd) pop(thread.bells);
        return emit(s);
      default:
        if (Thread& waiter = waiter_at(s, bell); is_asleep(s, bell)) waiter.at = kLeave;
        thread.ring_at = kAdd;
        pop(thread.bells);
        return emit(s);
    }
  }

  static Thread& waiter_at(State& s, Byte bell) {
    return bell < kPublished ? s.producer.thread : s.reader[bell - kPublished].thread;
  }
  static bool is_asleep(State& s, Byte bell) {
    const bool waits_here = bell >= kPublished || bell == bell_of(s.producer.loop);
    return waits_here && waiter_at(s, bell).at == kAsleep;
  }
  static Byte bell_of(Byte loop) { return loop == kClaim ? kFreed : kDemand; }

  static void add_ring(Bell& bell) {
    if (bell.seen == kSame) bell.seen = kRang;
  }
  // Doorbell::rings.
  static void read(Bell& bell) { bell.seen = kSame; }
  // What was read is not needed any more: equal states shall be equal.
  static void forget(Bell& bell) { bell.seen = kNotLooked; }

  // Doorbell::wait, from its first step to its last, which leads to `back`.
  void step_wait(State& s, Thread& thread, Byte number, At back) const {
    Bell& bell = s.bell[number];
    switch (thread.at) {
      case kJoin:
        thread.at = kCompare;
        if (scenario.has(Mistake::kWaiterRelaxed)) return store(s, thread, kAddWaiter, number);
        commit_all(s, thread);
        ++bell.waiters;
        return;
      case kCompare:  // and sleeps in one step, also where a reader does so itself: see woken()
        thread.at = bell.seen == kSame || is_uncompared(number) ? kAsleep : kLeave;
        return;
      default:  // kLeave
        commit_all(s, thread);
        --bell.waiters;
        forget(bell);
        thread.at = back;
    }
  }
  bool is_uncompared(Byte number) const {
    return number >= kPublished && scenario.has(Mistake::kReaderSleepsUncompared);
  }
  static bool is_waiting(const Thread& thread) { return thread.at <= kLeave; }
};

}  // namespace fkat::ring_model
