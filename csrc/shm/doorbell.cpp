#include "shm/doorbell.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

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

void Doorbell::ring() {
  rings_.fetch_add(1, std::memory_order_seq_cst);  // SYNC POINT W, ringer
  if (waiters_.load(std::memory_order_seq_cst) != 0) futex(rings_, FUTEX_WAKE, INT_MAX, nullptr);
}

bool Doorbell::wait(std::uint32_t seen, std::chrono::nanoseconds slice, int spins) {
  static const bool spinning_is_vain = has_one_cpu();
  for (int i = 0; i < spins && !spinning_is_vain; ++i) {
    if (rings() != seen) return false;
    pause();
  }
  waiters_.fetch_add(1, std::memory_order_seq_cst);  // SYNC POINT W, waiter
  const timespec timeout{static_cast<time_t>(slice.count() / 1'000'000'000),
                         static_cast<long>(slice.count() % 1'000'000'000)};
  // EAGAIN (it rang meanwhile), EINTR and ETIMEDOUT all mean: look at the condition again.
  futex(rings_, FUTEX_WAIT, seen, &timeout);
  waiters_.fetch_sub(1, std::memory_order_seq_cst);
  return true;
}

}  // namespace fkat
