// How long it pays to spin before sleeping on a doorbell, learnt from how the last waits went.
//
// Sleeping and being woken costs the sleeper some 20 us of CPU and the ringer some 7 (measured on a
// virtual machine, where waking another CPU is an exit). Spinning through a wait that is shorter
// than that is cheaper for both sides; longer than sleeping costs, nobody should spin. But a spin
// that does not see the ring is worse than lost: if both processes share a CPU, it keeps the very
// process that should ring from running. So: a short spin always, a long one only while the last
// waits were short, and after a long spin in vain none for a while, twice as long each time.
//
// Process-local, one for each waiting role.

#pragma once

#include <algorithm>
#include <chrono>

#include "shm/doorbell.h"

namespace fkat {

class AdaptiveSpin {
 public:
  // For Doorbell::wait.
  int spins() const { return is_long_ ? kLongSpins : Doorbell::kSpins; }

  // How the wait went that followed spins(): whether it slept after all, and how long it took.
  void learn(bool slept, std::chrono::nanoseconds waited) {
    if (skip_ > 0) --skip_;
    if (!slept) {
      if (is_long_) penalty_ = kMinPenalty;
      return;
    }
    if (is_long_) {
      skip_ = penalty_;
      penalty_ = std::min(2 * penalty_, kMaxPenalty);
    }
    is_long_ = skip_ == 0 && waited < kWorthSpinning;
  }

 private:
  static constexpr int kLongSpins = 600;  // some 20 us at 33 ns a PAUSE (Zen 4)
  // A wait of kLongSpins, and what being woken from sleep can take.
  static constexpr std::chrono::microseconds kWorthSpinning{100};
  static constexpr int kMinPenalty = 8;  // waits
  static constexpr int kMaxPenalty = 1024;

  bool is_long_ = false;
  int skip_ = 0;
  int penalty_ = kMinPenalty;
};

}  // namespace fkat
