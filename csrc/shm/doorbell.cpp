#include "shm/doorbell.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <vector>

namespace fkat {
namespace {

bool has_one_cpu() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < 2;
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Without FUTEX_PRIVATE_FLAG: the word is shared between processes.
void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value,
           const timespec* timeout) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr,
          0);
}

}  // namespace

bool Doorbell::add_ring() {
  rings_.fetch_add(1, std::memory_order_seq_cst);  // SYNC POINT W, ringer
  return waiters_.load(std::memory_order_seq_cst) != 0;
}

void Doorbell::ring() {
  if (add_ring()) futex(rings_, FUTEX_WAKE, INT_MAX, nullptr);
}

void Doorbell::ring(const WakeFd& wake_fd) {
  if (add_ring()) wake_fd.wake();
}

bool Doorbell::rings_within(std::uint32_t seen, int spins) const {
  static const bool spinning_is_vain = has_one_cpu();
  for (int i = 0; i < spins && !spinning_is_vain; ++i) {
    if (rings() != seen) return true;
    pause();
  }
  return false;
}

bool Doorbell::wait(std::uint32_t seen, std::chrono::nanoseconds slice, int spins) {
  if (rings_within(seen, spins)) return false;
  waiters_.fetch_add(1, std::memory_order_seq_cst);  // SYNC POINT W, waiter
  const timespec timeout{static_cast<time_t>(slice.count() / 1'000'000'000),
                         static_cast<long>(slice.count() % 1'000'000'000)};
  // EAGAIN (it rang meanwhile), EINTR and ETIMEDOUT all mean: look at the condition again.
  futex(rings_, FUTEX_WAIT, seen, &timeout);
  waiters_.fetch_sub(1, std::memory_order_seq_cst);
  return true;
}

std::optional<std::size_t> wait_any(std::span<const Awaited> awaited,
                                    std::chrono::nanoseconds slice) {
  std::vector<WakeFd::Bed> beds;
  for (const Awaited& each : awaited) beds.push_back({each.wake_fd, each.ringer});
  for (const Awaited& each : awaited) each.bell->add_waiter();
  // Here nobody compares but us. A ring from now on has seen the waiter, and wakes it: an eventfd
  // stays set, be it before the sleep has begun.
  const bool has_rung = std::ranges::any_of(
      awaited, [](const Awaited& each) { return each.bell->rings() != each.seen; });
  const auto exited = has_rung ? std::nullopt : WakeFd::sleep(beds, slice);
  for (const Awaited& each : awaited) each.bell->remove_waiter();
  return exited;
}

}  // namespace fkat
