// Every interleaving of the doorbell: no wake-up is lost.

#include <array>
#include <cstdint>

#include "check.h"
#include "explorer.h"

namespace fkat {
namespace {

enum class DoorbellMistake {
  kNone,
  kConditionBeforeRings,  // the waiter looks at the condition, then reads the bell
  kWaitersBeforeRing,     // the ringer reads waiters, then adds to rings
  kSleepWithoutCompare,   // the waiter sleeps whatever the bell says
  kRingBeforeCondition,   // the ringer rings, then makes the condition true
  kWakeOneOnly,           // of several sleepers
};

// One ringer makes the condition true `kTarget` times; waiters wait for each value in turn. No wait
// ever times out here, so that a lost wake-up is a deadlock. Waiter 1 may be killed at any step.
struct DoorbellModel {
  static constexpr int kTarget = 2;
  static constexpr int kWaiters = 2;

  enum RingerAt : std::uint8_t { kSet, kRing, kReadWaiters, kWake, kRingerDone };
  enum WaiterAt : std::uint8_t {
    kReadRings,
    kCheck,
    kAddWaiter,
    kCompare,
    kAsleep,
    kSubWaiter,
    kWaiterDone,
    kKilled
  };

  struct Waiter {
    std::uint8_t at;
    std::uint8_t seen;    // rings, when it looked
    std::uint8_t wanted;  // the value it waits for
  };
  struct State {
    std::uint8_t condition;
    std::uint8_t rings;
    std::uint8_t waiters;
    std::uint8_t ringer_at;
    std::uint8_t ringer_saw_waiters;
    std::array<Waiter, kWaiters> waiter;
  };

  DoorbellMistake mistake = DoorbellMistake::kNone;

  State initial() const {
    State state{};
    state.ringer_at = first_of_ringer();
    for (Waiter& waiter : state.waiter) waiter = {first_of_waiter(), 0, 1};
    return state;
  }

  RingerAt first_of_ringer() const {
    return mistake == DoorbellMistake::kRingBeforeCondition ? kRing : kSet;
  }
  WaiterAt first_of_waiter() const {
    return mistake == DoorbellMistake::kConditionBeforeRings ? kCheck : kReadRings;
  }

  template <typename Emit>
  bool expand(const State& state, const Emit& emit) const {
    step_ringer(state, emit);
    bool all_done = state.ringer_at == kRingerDone;
    for (int i = 0; i < kWaiters; ++i) {
      step_waiter(state, i, emit);
      all_done &= state.waiter[i].at == kWaiterDone || state.waiter[i].at == kKilled;
    }
    return all_done;
  }

  template <typename Emit>
  void step_ringer(State s, const Emit& emit) const {
    const bool swapped = mistake == DoorbellMistake::kWaitersBeforeRing;
    const bool rings_first = mistake == DoorbellMistake::kRingBeforeCondition;
    switch (s.ringer_at) {
      case kSet:
        ++s.condition;
        s.ringer_at = rings_first ? finished(s) : swapped ? kReadWaiters : kRing;
        return emit(s);
      case kRing:
        ++s.rings;
        s.ringer_at = swapped ? kWake : kReadWaiters;
        return emit(s);
      case kReadWaiters:
        s.ringer_saw_waiters = s.waiters;
        s.ringer_at = swapped ? kRing : kWake;
        return emit(s);
      case kWake:
        if (s.ringer_saw_waiters != 0) wake(s);
        s.ringer_at = rings_first ? kSet : finished(s);
        return emit(s);
      default:
        return;
    }
  }
  RingerAt finished(const State& s) const {
    return s.condition == kTarget ? kRingerDone : first_of_ringer();
  }
  void wake(State& s) const {
    for (Waiter& waiter : s.waiter) {
      if (waiter.at != kAsleep) continue;
      waiter.at = kSubWaiter;
      if (mistake == DoorbellMistake::kWakeOneOnly) return;
    }
  }

  template <typename Emit>
  void step_waiter(State s, int i, const Emit& emit) const {
    const bool swapped = mistake == DoorbellMistake::kConditionBeforeRings;
    Waiter& waiter = s.waiter[i];
    // Not once the ringer is done: a kill must not be the way out of a deadlock.
    if (i == 1 && waiter.at < kWaiterDone && s.ringer_at != kRingerDone) {
      State killed = s;
      killed.waiter[i].at = kKilled;  // `waiters` stays too high if it was killed in its sleep
      emit(killed);
    }
    switch (waiter.at) {
      case kReadRings:
        waiter.seen = s.rings;
        waiter.at = swapped ? kAddWaiter : kCheck;
        return emit(s);
      case kCheck:
        if (s.condition >= waiter.wanted) {
          ++waiter.wanted;
          waiter.at = waiter.wanted > kTarget ? kWaiterDone : first_of_waiter();
        } else {
          waiter.at = swapped ? kReadRings : kAddWaiter;
        }
        return emit(s);
      case kAddWaiter:
        ++s.waiters;
        waiter.at = kCompare;
        return emit(s);
      case kCompare: {  // FUTEX_WAIT: compares and sleeps in one step
        const bool rang = s.rings != waiter.seen;
        const bool sleeps = !rang || mistake == DoorbellMistake::kSleepWithoutCompare;
        waiter.at = sleeps ? kAsleep : kSubWaiter;
        return emit(s);
      }
      case kSubWaiter:
        --s.waiters;
        waiter.at = first_of_waiter();
        return emit(s);
      default:  // asleep, done, killed: no step of its own
        return;
    }
  }
};

TEST(the_doorbell_loses_no_wake_up) {
  check_correct("doorbell", DoorbellModel{});
}

TEST(every_mistake_in_the_doorbell_is_found) {
  using enum DoorbellMistake;
  check_caught("doorbell: condition before rings", DoorbellModel{kConditionBeforeRings},
               "deadlock");
  check_caught("doorbell: waiters before ring", DoorbellModel{kWaitersBeforeRing}, "deadlock");
  check_caught("doorbell: no compare", DoorbellModel{kSleepWithoutCompare}, "deadlock");
  check_caught("doorbell: ring before condition", DoorbellModel{kRingBeforeCondition}, "deadlock");
  check_caught("doorbell: wakes one only", DoorbellModel{kWakeOneOnly}, "deadlock");
}

}  // namespace
}  // namespace fkat
