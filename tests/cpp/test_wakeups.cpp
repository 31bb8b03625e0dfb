// Whoever waits on a ring hears everything that could end the wait.

#include <thread>

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "ring_pair.h"

namespace fkat {
namespace {

bool somebody_sleeps(const Doorbell& bell) {
  return reinterpret_cast<const std::atomic<std::uint32_t>*>(&bell)[1].load() != 0;
}

// Runs `wait` in a thread, wakes it by `wake` once it sleeps; its last turn.
template <typename Wait, typename Wake>
Turn woken(const Doorbell& bell, const Wait& wait, const Wake& wake) {
  Turn turn = Turn::kWait;
  std::thread thread([&] {
    while (turn == Turn::kWait) turn = wait();
  });
  while (!somebody_sleeps(bell)) std::this_thread::yield();
  wake();
  thread.join();
  return turn;
}

TEST(a_producer_that_waits_for_a_grant_hears_a_new_pass_and_a_stop) {
  RingPair p({.num_prefetches = 0});
  p.begin_pass();
  const auto wait = [&] { return p.producer.await_grant(p.pass, kForever); };
  const Doorbell& bell = p.ring->trainer_line().demand;
  CHECK(woken(bell, wait, [&] { p.consumer.begin_pass(1, 0); }) == Turn::kSuperseded);
  CHECK(p.producer.await_pass(p.pass.id, p.pass, kNoWait) == Turn::kGo);
  CHECK(woken(bell, wait, [&] { p.consumer.wait(kNoWait); }) == Turn::kGo);
  RingPair other({.num_prefetches = 0});
  other.begin_pass();
  CHECK(woken(
            other.ring->trainer_line().demand,
            [&] { return other.producer.await_grant(other.pass, kForever); },
            [&] { other.ring->stop(); }) == Turn::kStopped);
}

template <typename Wake>
Turn woken_from_claim(RingPair& p, std::uint64_t nbytes, const Wake& wake) {
  std::uint32_t slot = 0;
  return woken(
      p.ring->trainer_line().freed,
      [&] { return p.producer.claim(p.pass, nbytes, slot, kForever); }, wake);
}

TEST(a_producer_that_waits_for_a_slot_hears_everything_that_matters) {
  RingPair p({.num_slots = 1});
  p.begin_pass();
  p.publish(0);
  CHECK(woken_from_claim(p, 8, [&] { p.acquire(0); }) == Turn::kGo);
  p.producer.abandon(0);
  p.publish(1);
  CHECK(woken_from_claim(p, 8, [&] { p.consumer.begin_pass(1, 0); }) == Turn::kSuperseded);
  CHECK(p.producer.await_pass(p.pass.id, p.pass, kNoWait) == Turn::kGo);
  CHECK(!p.consumer.try_acquire());
  p.publish(0);
  CHECK(woken_from_claim(p, 8, [&] { p.ring->stop(); }) == Turn::kStopped);
}

TEST(a_producer_that_waits_for_its_budget_hears_of_a_lease) {
  RingPair p({.num_slots = 2, .budget_nbytes = MiB});
  p.begin_pass();
  p.publish(0, MiB);
  std::optional<Record> lease;
  CHECK(woken_from_claim(p, MiB, [&] { lease = p.acquire(0); }) == Turn::kGo);
}

TEST(a_producer_that_waits_for_a_pass_hears_it_and_a_stop) {
  RingPair p;
  const auto wait = [&] { return p.producer.await_pass(p.pass.id, p.pass, kForever); };
  const Doorbell& bell = p.ring->trainer_line().demand;
  CHECK(woken(bell, wait, [&] { p.consumer.begin_pass(4, 2); }) == Turn::kGo);
  CHECK_EQ(p.pass.epoch, 4);
  CHECK(woken(bell, wait, [&] { p.ring->stop(); }) == Turn::kStopped);
}

TEST(a_waiting_reader_hears_records_and_the_length) {
  RingPair p;
  p.begin_pass();
  std::thread reader([&] {
    while (p.consumer.length() < 0) p.consumer.wait(kForever);
    while (!p.consumer.has_record()) p.consumer.wait(kForever);
  });
  const Doorbell& bell = p.ring->reader_line(0).published;
  while (!somebody_sleeps(bell)) std::this_thread::yield();
  p.producer.announce_length(9);
  p.producer.publish_end(p.pass, 0);
  reader.join();
  CHECK(p.consumer.try_acquire()->kind == RecordKind::kEnd);
  CHECK(p.consumer.stats().stall.count() > 0);
}

}  // namespace
}  // namespace fkat
