// AdaptiveSpin: spins long only while that pays.

#include "check.h"
#include "shm/spin.h"

namespace fkat {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

bool is_long(const AdaptiveSpin& spin) {
  return spin.spins() > Doorbell::kSpins;
}

TEST(it_begins_short) {
  CHECK(!is_long(AdaptiveSpin()));
}

TEST(a_short_sleep_is_worth_spinning_next_time) {
  AdaptiveSpin spin;
  spin.learn(true, microseconds(50));
  CHECK(is_long(spin));
  spin.learn(false, microseconds(50));
  CHECK(is_long(spin));
}

TEST(a_long_sleep_is_not) {
  AdaptiveSpin spin;
  spin.learn(true, milliseconds(5));
  CHECK(!is_long(spin));
}

TEST(a_short_spin_that_sufficed_changes_nothing) {
  AdaptiveSpin spin;
  spin.learn(false, microseconds(1));
  CHECK(!is_long(spin));
}

// Two processes on one CPU: each long spin keeps the other from ringing, so it must become rare.
TEST(spins_in_vain_become_rare) {
  AdaptiveSpin spin;
  int num_long = 0;
  for (int i = 0; i < 10'000; ++i) {
    num_long += is_long(spin) ? 1 : 0;
    spin.learn(true, microseconds(70));
  }
  CHECK(num_long > 1);
  CHECK(num_long < 30);
}

TEST(success_forgives) {
  AdaptiveSpin spin;
  for (int i = 0; i < 10'000; ++i) spin.learn(true, microseconds(70));
  while (!is_long(spin)) spin.learn(true, microseconds(70));
  spin.learn(false, microseconds(50));
  spin.learn(true, microseconds(70));  // in vain
  int waits = 0;
  for (; !is_long(spin); ++waits) spin.learn(true, microseconds(70));
  CHECK(waits <= 8);
}

}  // namespace
}  // namespace fkat
