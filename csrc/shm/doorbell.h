// Doorbell: how one process wakes another, in 8 bytes of shared memory.
//
// An event count: `rings` grows with every ring, `waiters` says whether anybody sleeps, so that
// ringing without a sleeper makes no system call. To wait for a condition:
//
//     for (;;) {
//       const std::uint32_t seen = bell.rings();      // first read the bell,
//       if (condition()) break;                       // then the condition,
//       bell.wait(seen, slice);                       // then sleep unless it rang since
//     }
//
// Any thread of any process that maps the segment may call either side. A ringer that dies leaves
// nothing locked. A waiter killed in its sleep leaves `waiters` too high: later rings then make a
// needless system call, nothing worse.
//
// Waiters sleep at a futex, any number of them; or one of them sleeps at a WakeFd, where the death
// of the ringer wakes it, too. All of one bell in the same way.
//
// Not std::atomic::wait: libstdc++ makes it private to a process, and a peer would sleep forever.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "shm/wake_fd.h"

namespace fkat {

class Doorbell {
 public:
  std::uint32_t rings() const { return rings_.load(std::memory_order_seq_cst); }

  // Wakes every waiter. Call after the store that made the condition true.
  void ring();
  void ring(const WakeFd& wake_fd);

  // Some 3 us (33 ns a PAUSE on Zen 4). Longer ones are for those who know: see spin.h.
  static constexpr int kSpins = 100;

  // Sleeps until the bell has rung since `seen` was read, a signal arrives, or `slice` has passed;
  // may return early. Spins first where there is a second CPU to ring it; says whether it slept.
  bool wait(std::uint32_t seen, std::chrono::nanoseconds slice, int spins = kSpins);

  // How a wait at a WakeFd went.
  struct Wait {
    bool has_slept;
    bool peer_has_exited;  // as seen in its sleep
  };
  Wait wait(std::uint32_t seen, const WakeFd& wake_fd, const ProcessHandle& peer,
            std::chrono::nanoseconds slice, int spins = kSpins);

 private:
  bool add_ring();  // whether anybody sleeps
  bool rings_within(std::uint32_t seen, int spins) const;

  // SYNC POINT W (store-load, both sides sequentially consistent): the ringer adds to rings_, then
  // reads waiters_; the waiter adds to waiters_, then (at a futex, in the kernel) reads rings_. At
  // least one of them sees the other, so a ring is never lost. Acquire-release order would not be
  // enough.
  std::atomic<std::uint32_t> rings_;
  std::atomic<std::uint32_t> waiters_;
};

static_assert(sizeof(Doorbell) == 8);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace fkat
