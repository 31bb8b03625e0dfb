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
// Waiters sleep at a futex, any number of them (Doorbell::wait); or one of them sleeps at a WakeFd,
// where the death of the ringer wakes it, too, and perhaps at several at once (wait_any). All of
// one bell in the same way.
//
// Not std::atomic::wait: libstdc++ makes it private to a process, and a peer would sleep forever.

#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

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

  // Whether it rings within so many spins.
  bool rings_within(std::uint32_t seen, int spins) const;

  // Around a sleep at a WakeFd: see wait_any.
  void add_waiter() { waiters_.fetch_add(1, std::memory_order_seq_cst); }  // SYNC POINT W, waiter
  void remove_waiter() { waiters_.fetch_sub(1, std::memory_order_seq_cst); }

 private:
  bool add_ring();  // whether anybody sleeps

  // SYNC POINT W (store-load, both sides sequentially consistent): the ringer adds to rings_, then
  // reads waiters_; the waiter adds to waiters_, then (at a futex, in the kernel) reads rings_. At
  // least one of them sees the other, so a ring is never lost. Acquire-release order would not be
  // enough.
  std::atomic<std::uint32_t> rings_;
  std::atomic<std::uint32_t> waiters_;
};

// A bell whose waiter sleeps at a WakeFd.
struct Awaited {
  Doorbell* bell;
  std::uint32_t seen;
  const WakeFd* wake_fd;
  const ProcessHandle* ringer;
};

// Sleeps until one of the bells has rung since it was seen, one of the ringers has exited, a signal
// arrives, or `slice` has passed; may return early. The number of one whose ringer has exited.
std::optional<std::size_t> wait_any(std::span<const Awaited> awaited,
                                    std::chrono::nanoseconds slice);

static_assert(sizeof(Doorbell) == 8);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace fkat
