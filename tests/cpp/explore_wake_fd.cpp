// Every interleaving of doorbells at which one sleeps by their WakeFds: no wake-up is lost, what
// was published before a death is delivered, and no wake ends two sleeps.
//
// Other than at a futex, the waiter compares before it sleeps, not the kernel; an eventfd stays set
// until the waiter clears it; and the death of a ringer, at any step, wakes it, too.

#include <algorithm>
#include <array>
#include <cstdint>

#include "check.h"
#include "explorer.h"

namespace fkat {
namespace {

enum class WakeFdMistake {
  kNone,
  kConditionBeforeRings,  // the waiter looks at the condition, then reads the bell
  kSleepWithoutCompare,   // the waiter sleeps whatever the bells say
  kCompareFirstOnly,
  kClearBeforeSleep,  // the waiter clears eventfds behind the compare, not behind its sleep
  kClearAfterLook,    // woken, the waiter looks, clears eventfds, and sleeps on
  kClearFirstOnly,
  kNeverClear,
  kSleepAtWakeFdsAlone,  // not at pidfds
  kSleepAtOnePidfd,      // the first
  kExitIsTheEnd,         // the waiter does not look again after it saw an exit
  kWaitersBeforeRing,    // a ringer reads waiters, then adds to rings
  kRingBeforeCondition,
};

// Each ringer publishes `num_records`. The waiter takes all that there are until it has seen an
// exit; no slice ends, so that a lost wake-up is a deadlock.
struct WakeFdModel {
  static constexpr int kMaxBells = 2;

  enum RingerAt : std::uint8_t { kPublish, kRing, kReadWaiters, kWake, kRests, kDead };
  // Each step is of one bell, and behind it that of the next bell.
  enum WaiterAt : std::uint8_t {
    // Reader::wait_until, or WorkerFeed._first_ready.
    kLook,
    // Consumer::begin_wait.
    kReadRings,
    kLookAgain,
    // wait_any.
    kAddWaiter,
    kCompare,
    kSubWaiter,
    // WakeFd::sleep: looks at all descriptors again when one has become ready.
    kClearEarly,
    kPollEventfd,
    kPollPidfd,
    kAsleep,
    kLookInSleep,
    kClear,
    // The end.
    kSawExit,
  };
  struct Bell {
    std::uint8_t published;
    std::uint8_t rings;
    std::uint8_t waiters;
    std::uint8_t is_set;  // the eventfd
    std::uint8_t num_wakes;
    std::uint8_t ringer_at;
    std::uint8_t ringer_saw_waiters;
    // The waiter's.
    std::uint8_t seen;  // rings, when it looked
    std::uint8_t taken;
    std::uint8_t is_woken;  // as poll found the eventfd
    std::uint8_t num_woken;

    bool has_record() const { return published != taken; }
  };
  struct State {
    std::array<Bell, kMaxBells> bell;
    std::uint8_t waiter_at;
    std::uint8_t which;   // bell
    std::uint8_t exited;  // as poll found the pidfds: the number of a bell and 1
  };

  WakeFdMistake mistake = WakeFdMistake::kNone;
  int num_bells = 2;
  int num_records = 2;

  bool has(WakeFdMistake other) const { return mistake == other; }
  State initial() const {
    State state{};
    for (Bell& bell : state.bell) bell.ringer_at = first_of_ringer();
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
    bool waits_for_more = true;
    for (int i = 0; i < num_bells; ++i) {
      const Bell& bell = state.bell[i];
      step_ringer(state, i, emit_step);
      waits_for_more &= bell.ringer_at == kRests && bell.taken == num_records;
      // A death and a signal may come at any time, and so must not be what the waiter needs.
      if (bell.ringer_at == kDead) continue;
      State dead = state;
      dead.bell[i].ringer_at = kDead;
      emit(dead);
    }
    if (state.waiter_at == kAsleep) {
      State interrupted = state;
      interrupted.waiter_at = kSubWaiter;
      emit(interrupted);
    }
    if (state.waiter_at != kSawExit && has_step(state)) emit_step(stepped(state));
    if (is_stuck && state.waiter_at != kSawExit && !waits_for_more) throw Violation{"deadlock"};
    return true;
  }

  template <typename Emit>
  void step_ringer(State s, int i, const Emit& emit) const {
    const bool rings_first = has(WakeFdMistake::kRingBeforeCondition);
    const bool reads_first = has(WakeFdMistake::kWaitersBeforeRing);
    Bell& bell = s.bell[i];
    switch (bell.ringer_at) {
      case kPublish:
        ++bell.published;
        bell.ringer_at = rings_first ? next_of_ringer(bell) : reads_first ? kReadWaiters : kRing;
        return emit(s);
      case kRing:
        ++bell.rings;
        bell.ringer_at = reads_first ? kWake : kReadWaiters;
        return emit(s);
      case kReadWaiters:
        bell.ringer_saw_waiters = bell.waiters;
        bell.ringer_at = reads_first ? kRing : kWake;
        return emit(s);
      case kWake:
        if (bell.ringer_saw_waiters != 0) {
          bell.is_set = 1;
          ++bell.num_wakes;
        }
        bell.ringer_saw_waiters = 0;
        bell.ringer_at = rings_first ? kPublish : next_of_ringer(bell);
        return emit(s);
      default:
        return;
    }
  }
  RingerAt next_of_ringer(const Bell& bell) const {
    return bell.published == num_records ? kRests : first_of_ringer();
  }

  bool can_tell_death(int i) const {
    if (has(WakeFdMistake::kSleepAtOnePidfd)) return i == 0;
    return !has(WakeFdMistake::kSleepAtWakeFdsAlone);
  }
  bool has_step(const State& s) const {
    if (s.waiter_at != kAsleep) return true;
    for (int i = 0; i < num_bells; ++i) {
      if (s.bell[i].is_set != 0) return true;
      if (s.bell[i].ringer_at == kDead && can_tell_death(i)) return true;
    }
    return false;
  }

  // The same step of the next bell, or behind the last one the step `then` of the first.
  void advance(State& s, WaiterAt same, WaiterAt then) const {
    s.which = s.which + 1 == num_bells ? std::uint8_t{0} : static_cast<std::uint8_t>(s.which + 1);
    s.waiter_at = s.which == 0 ? then : same;
  }
  static void go_to(State& s, WaiterAt at) {
    s.waiter_at = at;
    s.which = 0;
  }

  State stepped(State s) const {
    Bell& bell = s.bell[s.which];
    switch (s.waiter_at) {
      case kLook:
        if (bell.has_record()) {
          ++bell.taken;
          s.exited = 0;
          go_to(s, kLook);
        } else {
          advance(s, kLook, s.exited != 0 ? kSawExit : first_of_wait());
        }
        break;
      case kReadRings:
        bell.seen = bell.rings;
        s.waiter_at = kLookAgain;
        if (has(WakeFdMistake::kConditionBeforeRings)) advance(s, kLookAgain, kAddWaiter);
        break;
      case kLookAgain:
        if (bell.has_record()) {
          go_to(s, kLook);
        } else if (has(WakeFdMistake::kConditionBeforeRings)) {
          s.waiter_at = kReadRings;
        } else {
          advance(s, kReadRings, kAddWaiter);
        }
        break;
      case kAddWaiter:
        ++bell.waiters;
        advance(s, kAddWaiter, kCompare);
        break;
      case kCompare: {
        const bool is_left_out = has(WakeFdMistake::kSleepWithoutCompare) ||
                                 (has(WakeFdMistake::kCompareFirstOnly) && s.which != 0);
        const bool clears = has(WakeFdMistake::kClearBeforeSleep);
        const bool has_rung = bell.rings != bell.seen && !is_left_out;
        if (has_rung) go_to(s, kSubWaiter);
        if (!has_rung) advance(s, kCompare, clears ? kClearEarly : kPollEventfd);
        break;
      }
      case kSubWaiter:
        --bell.waiters;
        bell.seen = 0;
        advance(s, kSubWaiter, kLook);
        if (s.waiter_at == kLook && has(WakeFdMistake::kExitIsTheEnd)) end_if_exited(s);
        break;
      default:
        step_sleep(s, bell);
    }
    return s;
  }
  void end_if_exited(State& s) const {
    if (s.exited == 0) return;
    if (s.bell[s.exited - 1].has_record()) throw Violation{"a record was not delivered"};
    s.waiter_at = kSawExit;
  }

  void step_sleep(State& s, Bell& bell) const {
    switch (s.waiter_at) {
      case kClearEarly:
        bell.is_set = 0;
        return advance(s, kClearEarly, kPollEventfd);
      case kPollEventfd:
        bell.is_woken = bell.is_set;
        s.waiter_at = kPollPidfd;
        return;
      case kPollPidfd:
        if (bell.ringer_at == kDead && can_tell_death(s.which)) {
          s.exited = static_cast<std::uint8_t>(s.which + 1);
        }
        advance(s, kPollEventfd, kAsleep);
        if (s.which == 0) end_poll(s);
        return;
      case kAsleep:
        s.waiter_at = kPollEventfd;
        return;
      case kLookInSleep:
        if (!bell.has_record()) return advance(s, kLookInSleep, kClear);
        for (Bell& other : s.bell) other.is_set = other.is_woken = 0;
        return go_to(s, kSubWaiter);
      default:  // kClear
        const bool is_last = bell.is_woken != 0 && has(WakeFdMistake::kClearFirstOnly);
        if (bell.is_woken != 0) bell.is_set = bell.is_woken = 0;
        advance(s, kClear, has(WakeFdMistake::kClearAfterLook) ? kPollEventfd : kSubWaiter);
        if (!is_last) return;
        for (Bell& other : s.bell) other.is_woken = 0;
        return go_to(s, kSubWaiter);
    }
  }
  void end_poll(State& s) const {
    bool is_woken = false;
    for (Bell& bell : s.bell) {
      is_woken |= bell.is_woken != 0;
      bell.num_woken = static_cast<std::uint8_t>(bell.num_woken + bell.is_woken);
      if (bell.num_woken > bell.num_wakes) throw Violation{"a wake ended two sleeps"};
    }
    if (!is_woken && s.exited == 0) return;  // to sleep
    s.waiter_at = has(WakeFdMistake::kClearAfterLook) && is_woken ? kLookInSleep : kClear;
    if (!has(WakeFdMistake::kClearBeforeSleep) && !has(WakeFdMistake::kNeverClear)) return;
    for (Bell& bell : s.bell) bell.is_woken = 0;
    s.waiter_at = kSubWaiter;
  }
};

TEST(a_wake_fd_loses_no_wake_up_and_no_death) {
  check_correct("wake fd", WakeFdModel{.num_bells = 1, .num_records = 3});
  check_correct("wake fds", WakeFdModel{});
}

TEST(every_mistake_with_a_wake_fd_is_found) {
  using enum WakeFdMistake;
  const char* lost = "deadlock";
  const auto check_found = [](const char* name, WakeFdMistake mistake, const char* expected) {
    check_caught(name, WakeFdModel{mistake}, expected);
  };
  // consumer.cpp, begin_wait: `seen` is read behind has_record().
  check_found("wake fds: condition before rings", kConditionBeforeRings, lost);
  // doorbell.cpp, wait_any: without has_rung.
  check_found("wake fds: no compare", kSleepWithoutCompare, lost);
  check_found("wake fds: one compare", kCompareFirstOnly, lost);
  // wake_fd.cpp, sleep: eventfd_read before ppoll.
  check_found("wake fds: cleared before the sleep", kClearBeforeSleep, lost);
  // wake_fd.cpp, sleep: a loop that ends when the condition holds.
  check_found("wake fds: cleared after a look", kClearAfterLook, lost);
  // wake_fd.cpp, sleep: without eventfd_read, and with no more than one.
  check_found("wake fds: never cleared", kNeverClear, "a wake ended two sleeps");
  check_found("wake fds: one is cleared", kClearFirstOnly, "a wake ended two sleeps");
  // wake_fd.cpp, sleep: without the entries of pidfds, and with one of them.
  check_found("wake fds: no look at pidfds", kSleepAtWakeFdsAlone, lost);
  check_found("wake fds: a look at one pidfd", kSleepAtOnePidfd, lost);
  // bind_consumer.cpp, wait_until: throws PeerExited as soon as wait() tells of the exit.
  check_found("wake fds: an exit is the end", kExitIsTheEnd, "a record was not delivered");
  // doorbell.cpp, add_ring; producer.cpp, append.
  check_found("wake fds: waiters before ring", kWaitersBeforeRing, lost);
  check_found("wake fds: ring before condition", kRingBeforeCondition, lost);
}

}  // namespace
}  // namespace fkat
