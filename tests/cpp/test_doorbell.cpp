// Waking across processes. Slices are minutes long: a lost wake-up hangs, and the watchdog of the
// test run reports it.

#include <chrono>
#include <vector>

#include "check.h"
#include "child.h"
#include "shm/doorbell.h"

namespace fkat {
namespace {

constexpr std::chrono::minutes kForever{10};

const ProcessHandle kNobody;

struct PingPong {
  Doorbell ping_bell;
  Doorbell pong_bell;
  std::atomic<std::uint32_t> ping;
  std::atomic<std::uint32_t> pong;
};

// Whether the ringer has exited.
bool wait_at(Doorbell& bell, std::uint32_t seen, const WakeFd& wake_fd,
             const ProcessHandle& ringer) {
  const Awaited awaited{&bell, seen, &wake_fd, &ringer};
  return wait_any({&awaited, 1}, kForever).has_value();
}

template <typename Sleep>
void await(const Doorbell& bell, const std::atomic<std::uint32_t>& value, std::uint32_t wanted,
           const Sleep& sleep) {
  for (;;) {
    const std::uint32_t seen = bell.rings();
    // Relaxed: the doorbell orders it, which is part of what is tested.
    if (value.load(std::memory_order_relaxed) == wanted) return;
    sleep(seen);
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
  Child peer([&] {
    await(shared->ping_bell, shared->ping, 1,
          [&](std::uint32_t seen) { shared->ping_bell.wait(seen, kForever); });
  });
  shared->ping.store(1, std::memory_order_relaxed);
  shared->ping_bell.ring();
  CHECK_EQ(peer.wait(), 0);
}

// The parent sleeps at a futex, the child at a WakeFd.
TEST(no_wake_up_is_lost_between_two_processes) {
  Shared<PingPong> shared;
  const WakeFd wake_fd = WakeFd::create();
  const auto rounds = static_cast<std::uint32_t>(check::rounds(50'000));
  Child peer([&] {
    const auto sleep = [&](std::uint32_t seen) {
      wait_at(shared->ping_bell, seen, wake_fd, kNobody);
    };
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      await(shared->ping_bell, shared->ping, i, sleep);
      shared->pong.store(i, std::memory_order_relaxed);
      shared->pong_bell.ring();
    }
  });
  const auto sleep = [&](std::uint32_t seen) { shared->pong_bell.wait(seen, kForever); };
  for (std::uint32_t i = 1; i <= rounds; ++i) {
    shared->ping.store(i, std::memory_order_relaxed);
    shared->ping_bell.ring(wake_fd);
    await(shared->pong_bell, shared->pong, i, sleep);
  }
  CHECK_EQ(peer.wait(), 0);
}

TEST(a_ring_before_a_wait_at_a_wake_fd_is_not_lost) {
  Shared<Doorbell> bell;
  const WakeFd wake_fd = WakeFd::create();
  const std::uint32_t seen = bell->rings();
  bell->ring(wake_fd);
  CHECK(!wait_at(*bell, seen, wake_fd, kNobody));
}

TEST(of_several_bells_any_ends_the_wait) {
  struct Bells {
    Doorbell bell[3];
  };
  Shared<Bells> shared;
  const WakeFd wake_fds[] = {WakeFd::create(), WakeFd::create(), WakeFd::create()};
  const auto rounds = static_cast<std::uint32_t>(check::rounds(3'000));
  const auto number_of = [](std::uint32_t round) { return round * 2654435761u % 3; };
  Child ringer([&] {
    for (std::uint32_t round = 0; round < rounds; ++round) {
      shared->bell[number_of(round)].ring(wake_fds[number_of(round)]);
    }
  });
  std::uint32_t sum = 0;
  while (sum < rounds) {
    std::vector<Awaited> awaited;
    sum = 0;
    for (int i = 0; i < 3; ++i) {
      awaited.push_back({&shared->bell[i], shared->bell[i].rings(), &wake_fds[i], &kNobody});
      sum += awaited.back().seen;
    }
    if (sum < rounds) wait_any(awaited, kForever);
  }
  CHECK_EQ(ringer.wait(), 0);
}

TEST(a_death_ends_a_wait_at_a_wake_fd) {
  Shared<Doorbell> bell;
  const WakeFd wake_fd = WakeFd::create();
  Child peer([] {
    for (;;) ::pause();
  });
  const ProcessHandle process(peer.pidfd());
  Child killer([&] {
    usleep(20'000);  // so that the wait has most likely begun; correct without
    peer.kill();
  });
  CHECK(wait_at(*bell, bell->rings(), wake_fd, process));
  CHECK(wait_at(*bell, bell->rings(), wake_fd, process));
}

}  // namespace
}  // namespace fkat
