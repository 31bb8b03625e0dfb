// Every interleaving of a doorbell at which one sleeps by a WakeFd: no wake-up is lost, what was
// published before a death is delivered, and no wake ends two sleeps.
//
// Other than at a futex, the waiter compares before it sleeps, not the kernel; the eventfd stays
// set until the waiter clears it; and the death of the ringer, at any step, wakes it, too.

#include <cstdint>

#include "check.h"
#include "explorer.h"

namespace fkat {
namespace {

enum class WakeFdMistake {
  kNone,
  kConditionBeforeRings,  // the waiter looks at the condition, then reads the bell
  kSleepWithoutCompare,   // the waiter sleeps whatever the bell says
  kClearBeforeSleep,      // the waiter clears the eventfd behind the compare, not behind its sleep
  kClearAfterLook,        // woken, the waiter looks, clears the eventfd, and sleeps on
  kNeverClear,
  kSleepAtWakeFdAlone,  // not at the ringer's pidfd
  kExitIsTheEnd,        // the waiter does not look again after it saw the ringer's exit
  kWaitersBeforeRing,   // the ringer reads waiters, then adds to rings
  kRingBeforeCondition,
};

// The ringer publishes kTarget records. The waiter takes all that there are until it has seen the
// ringer's exit; no slice ends, so that a lost wake-up is a deadlock.
struct WakeFdModel {
  static constexpr int kTarget = 3;

  enum RingerAt : std::uint8_t { kPublish, kRing, kReadWaiters, kWake, kRests, kDead };
  enum WaiterAt : std::uint8_t {
    // Reader::wait_until.
    kLook,
    // Consumer::wait.
    kReadRings,
    kLookAgain,
    // wait_any.
    kAddWaiter,
    kCompare,
    kSubWaiter,
    // WakeFd::sleep: one descriptor after the other, again when one of them has become ready.
    kClearEarly,
    kPollEventfd,
    kPollPidfd,
    kAsleep,
    kLookInSleep,
    kClear,
    // The end.
    kSawExit,
  };
  struct State {
    std::uint8_t published;
    std::uint8_t rings;
    std::uint8_t waiters;
    std::uint8_t is_set;  // the eventfd
    std::uint8_t num_wakes;
    std::uint8_t ringer_at;
    std::uint8_t ringer_saw_waiters;
    std::uint8_t waiter_at;
    std::uint8_t seen;  // rings, when it looked
    std::uint8_t taken;
    std::uint8_t is_woken;  // as poll found the eventfd
    std::uint8_t saw_exit;  // as poll found the pidfd
    std::uint8_t num_woken;
  };

  WakeFdMistake mistake = WakeFdMistake::kNone;

  bool has(WakeFdMistake other) const { return mistake == other; }
  State initial() const {
    State state{};
    state.ringer_at = first_of_ringer();
    return state;
  }
  RingerAt first_of_ringer() const {
    return has(WakeFdMistake::kRingBeforeCondition) ? kRing : kPublish;
  }
  WaiterAt first_of_wait() const {
    return has(WakeFdMistake::kConditionBeforeRings) ? kLookAgain : kReadRings;
  }

  template <typename Emit>
  bool expand(const State& state, const Emit& emit) const {
    bool is_stuck = true;
    const auto emit_step = [&](const State& next) {
      is_stuck = false;
      emit(next);
    };
    step_ringer(state, emit_step);
    step_waiter(state, emit_step);
    // A death and a signal may come at any time, and so must not be what the waiter needs.
    if (state.ringer_at != kDead) {
      State dead = state;
      dead.ringer_at = kDead;
      emit(dead);
    }
    if (state.waiter_at == kAsleep) {
      State interrupted = state;
      interrupted.waiter_at = kSubWaiter;
      emit(interrupted);
    }
    const bool waits_for_more = state.ringer_at == kRests && state.taken == kTarget;
    if (is_stuck && state.waiter_at != kSawExit && !waits_for_more) throw Violation{"deadlock"};
    return true;
  }

  template <typename Emit>
  void step_ringer(State s, const Emit& emit) const {
    const bool rings_first = has(WakeFdMistake::kRingBeforeCondition);
    const bool reads_first = has(WakeFdMistake::kWaitersBeforeRing);
    switch (s.ringer_at) {
      case kPublish:
        ++s.published;
        s.ringer_at = rings_first ? next_of_ringer(s) : reads_first ? kReadWaiters : kRing;
        return emit(s);
      case kRing:
        ++s.rings;
        s.ringer_at = reads_first ? kWake : kReadWaiters;
        return emit(s);
      case kReadWaiters:
        s.ringer_saw_waiters = s.waiters;
        s.ringer_at = reads_first ? kRing : kWake;
        return emit(s);
      case kWake:
        if (s.ringer_saw_waiters != 0) {
          s.is_set = 1;
          ++s.num_wakes;
        }
        s.ringer_saw_waiters = 0;
        s.ringer_at = rings_first ? kPublish : next_of_ringer(s);
        return emit(s);
      default:
        return;
    }
  }
  RingerAt next_of_ringer(const State& s) const {
    return s.published == kTarget ? kRests : first_of_ringer();
  }

  template <typename Emit>
  void step_waiter(State s, const Emit& emit) const {
    switch (s.waiter_at) {
      case kLook:
        if (s.published != s.taken) {
          ++s.taken;
          s.saw_exit = 0;
        } else {
          s.waiter_at = s.saw_exit != 0 ? kSawExit : first_of_wait();
        }
        return emit(s);
      case kReadRings:
        s.seen = s.rings;
        s.waiter_at = has(WakeFdMistake::kConditionBeforeRings) ? kAddWaiter : kLookAgain;
        return emit(s);
      case kLookAgain:
        s.waiter_at = s.published != s.taken                      ? kLook
                      : has(WakeFdMistake::kConditionBeforeRings) ? kReadRings
                                                                  : kAddWaiter;
        return emit(s);
      case kAddWaiter:
        ++s.waiters;
        s.waiter_at = kCompare;
        return emit(s);
      case kCompare: {
        const bool sleeps = s.rings == s.seen || has(WakeFdMistake::kSleepWithoutCompare);
        s.waiter_at = !sleeps                                 ? kSubWaiter
                      : has(WakeFdMistake::kClearBeforeSleep) ? kClearEarly
                                                              : kPollEventfd;
        return emit(s);
      }
      case kSubWaiter:
        --s.waiters;
        s.waiter_at = kLook;
        s.seen = 0;
        if (s.saw_exit != 0 && has(WakeFdMistake::kExitIsTheEnd)) s.waiter_at = kSawExit;
        if (s.waiter_at == kSawExit && s.published != s.taken) {
          throw Violation{"a record was not delivered"};
        }
        return emit(s);
      default:
        return step_sleep(s, emit);
    }
  }

  template <typename Emit>
  void step_sleep(State s, const Emit& emit) const {
    switch (s.waiter_at) {
      case kClearEarly:
        s.is_set = 0;
        s.waiter_at = kPollEventfd;
        return emit(s);
      case kPollEventfd:
        s.is_woken = s.is_set;
        s.waiter_at = kPollPidfd;
        return emit(s);
      case kPollPidfd:
        s.saw_exit = s.ringer_at == kDead && !has(WakeFdMistake::kSleepAtWakeFdAlone) ? 1 : 0;
        s.waiter_at = after_poll(s);
        if (s.is_woken != 0 && ++s.num_woken > s.num_wakes) {
          throw Violation{"a wake ended two sleeps"};
        }
        s.is_woken = 0;
        return emit(s);
      case kAsleep:
        if (s.is_set == 0 && (s.ringer_at != kDead || has(WakeFdMistake::kSleepAtWakeFdAlone))) {
          return;
        }
        s.waiter_at = kPollEventfd;
        return emit(s);
      case kLookInSleep:
        s.waiter_at = s.published != s.taken ? kSubWaiter : kClear;
        if (s.waiter_at == kSubWaiter) s.is_set = 0;
        return emit(s);
      case kClear:
        s.is_set = 0;
        s.waiter_at = has(WakeFdMistake::kClearAfterLook) ? kPollEventfd : kSubWaiter;
        return emit(s);
      default:  // at its end
        return;
    }
  }
  WaiterAt after_poll(const State& s) const {
    if (s.is_woken == 0) return s.saw_exit != 0 ? kSubWaiter : kAsleep;
    if (has(WakeFdMistake::kClearAfterLook)) return kLookInSleep;
    const bool is_cleared =
        !has(WakeFdMistake::kNeverClear) && !has(WakeFdMistake::kClearBeforeSleep);
    return is_cleared ? kClear : kSubWaiter;
  }
};

TEST(a_wake_fd_loses_no_wake_up_and_no_death) {
  check_correct("wake fd", WakeFdModel{});
}

TEST(every_mistake_with_a_wake_fd_is_found) {
  using enum WakeFdMistake;
  const auto check_found = [](const char* name, WakeFdMistake mistake,
                              const char* expected = "deadlock") {
    check_caught(name, WakeFdModel{mistake}, expected);
  };
  check_found("wake fd: condition before rings", kConditionBeforeRings);
  // doorbell.cpp, wait_any: without has_rung.
  check_found("wake fd: no compare", kSleepWithoutCompare);
  // wake_fd.cpp, sleep: eventfd_read before ppoll.
  check_found("wake fd: cleared before the sleep", kClearBeforeSleep);
  // wake_fd.cpp, sleep: a loop that ends when the condition holds.
  check_found("wake fd: cleared after a look", kClearAfterLook);
  // wake_fd.cpp, sleep: without eventfd_read.
  check_found("wake fd: never cleared", kNeverClear, "a wake ended two sleeps");
  // wake_fd.cpp, sleep: without the entries of pidfds.
  check_found("wake fd: no look at the pidfd", kSleepAtWakeFdAlone);
  // bind_consumer.cpp, wait_until: throws PeerExited as soon as wait() tells of the exit.
  check_found("wake fd: an exit is the end", kExitIsTheEnd, "a record was not delivered");
  check_found("wake fd: waiters before ring", kWaitersBeforeRing);
  check_found("wake fd: ring before condition", kRingBeforeCondition);
}

}  // namespace
}  // namespace fkat
