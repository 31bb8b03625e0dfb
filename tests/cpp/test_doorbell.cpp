// Waking across processes. Slices are minutes long: a lost wake-up hangs, and the watchdog of the
// test run reports it.

#include <chrono>

#include "check.h"
#include "child.h"
#include "shm/doorbell.h"

namespace fkat {
namespace {

constexpr std::chrono::minutes kForever{10};

struct PingPong {
  Doorbell ping_bell;
  Doorbell pong_bell;
  std::atomic<std::uint32_t> ping;
  std::atomic<std::uint32_t> pong;
};

void await(Doorbell& bell, const std::atomic<std::uint32_t>& value, std::uint32_t wanted) {
  for (;;) {
    const std::uint32_t seen = bell.rings();
    // Relaxed: the doorbell orders it, which is part of what is tested.
    if (value.load(std::memory_order_relaxed) == wanted) return;
    bell.wait(seen, kForever);
  }
}

TEST(a_ring_before_the_wait_is_not_lost) {
  Shared<Doorbell> bell;
  const std::uint32_t seen = bell->rings();
  bell->ring();
  bell->wait(seen, kForever);
  CHECK_EQ(bell->rings(), seen + 1);
}

TEST(a_wait_ends_with_its_slice) {
  Shared<Doorbell> bell;
  bell->wait(bell->rings(), std::chrono::nanoseconds(0));
  bell->wait(bell->rings(), std::chrono::milliseconds(1));
  CHECK_EQ(bell->rings(), 0);
}

TEST(a_ring_wakes_every_sleeper) {
  Shared<Doorbell> bell;
  const auto sleep_once = [&] { bell->wait(0, kForever); };
  Child first(sleep_once), second(sleep_once);
  usleep(20'000);  // so that both most likely sleep; correct without
  bell->ring();
  CHECK_EQ(first.wait(), 0);
  CHECK_EQ(second.wait(), 0);
}

TEST(a_sleeper_that_was_killed_leaves_the_bell_usable) {
  Shared<PingPong> shared;
  {
    Child sleeper([&] { shared->ping_bell.wait(0, kForever); });
    usleep(20'000);
  }
  Child peer([&] { await(shared->ping_bell, shared->ping, 1); });
  shared->ping.store(1, std::memory_order_relaxed);
  shared->ping_bell.ring();
  CHECK_EQ(peer.wait(), 0);
}

TEST(no_wake_up_is_lost_between_two_processes) {
  Shared<PingPong> shared;
  const auto rounds = static_cast<std::uint32_t>(check::rounds(50'000));
  Child peer([&] {
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      await(shared->ping_bell, shared->ping, i);
      shared->pong.store(i, std::memory_order_relaxed);
      shared->pong_bell.ring();
    }
  });
  for (std::uint32_t i = 1; i <= rounds; ++i) {
    shared->ping.store(i, std::memory_order_relaxed);
    shared->ping_bell.ring();
    await(shared->pong_bell, shared->pong, i);
  }
  CHECK_EQ(peer.wait(), 0);
}

}  // namespace
}  // namespace fkat
