// Leases: how long a slot is held, by whom, and what happens when everything is kept.

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "ring_pair.h"

namespace fkat {
namespace {

TEST(keeping_everything_gives_copies_and_never_blocks) {
  RingPair p({.num_slots = 3, .num_prefetches = 1, .max_leases = 2});
  p.begin_pass();
  std::vector<Record> kept;
  for (std::uint64_t i = 0; i < 30; ++i) {
    p.publish(i, 8 * i);
    kept.push_back(p.acquire(i));
    CHECK_EQ(kept.back().is_copy, i >= 2);
  }
  CHECK_EQ(p.consumer.outstanding_leases(), 2);
  CHECK_EQ(p.consumer.stats().num_copies, 28);
  CHECK_EQ(p.consumer.stats().num_microbatches, 30);
  for (const Record& record : kept) check_words(record.bytes, record.position);
  kept.clear();
  CHECK_EQ(p.consumer.outstanding_leases(), 0);
  p.publish(30);
  CHECK(!p.acquire(30).is_copy);
}

TEST(more_leases_than_slots_are_not_given) {
  RingPair p({.num_slots = 2, .max_leases = 100});
  p.begin_pass();
  p.publish(0);
  const Record first = p.acquire(0);
  p.publish(1);
  CHECK(p.acquire(1).is_copy);
  RingPair single({.num_slots = 1, .max_leases = 1});
  single.begin_pass();
  single.publish(0);
  CHECK(single.acquire(0).is_copy);
}

TEST(a_lease_outlives_consumer_and_ring) {
  Record record;
  {
    RingPair p;
    p.begin_pass();
    p.publish(5, MiB);
    record = p.acquire(5);
  }
  check_words(record.bytes, 5);
  CHECK_EQ(record.bytes.size(), MiB);
}

TEST(a_lease_dropped_in_a_forked_child_frees_nothing) {
  RingPair p;
  p.begin_pass();
  p.publish(0);
  Record record = p.acquire(0);
  Child child([&] { record.owner.reset(); });
  CHECK_EQ(child.wait(), 0);
  CHECK(p.state(0) == SlotState::kLeased);
  check_words(record.bytes, 0);
  record.owner.reset();
  CHECK(p.state(0) == SlotState::kFree);
}

// The second reader is played by hand: a Consumer is the one that begins passes.
TEST(a_slot_is_free_when_both_readers_have_released_it) {
  RingPair p({.num_readers = 2});
  p.begin_pass();
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);  // the other has no room yet
  p.ring->reader_line(1).granted_seq.store(100);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
  p.publish(0);
  p.publish(1);
  p.acquire(0);  // and releases
  CHECK(p.state(0) == SlotState::kLeased);
  p.ring->release_share(0);
  CHECK(p.state(0) == SlotState::kFree);
  p.ring->release_share(1);  // the slower reader may also be the faster one
  CHECK(p.state(1) == SlotState::kReady);
  p.acquire(1);
  CHECK(p.state(1) == SlotState::kFree);
}

}  // namespace
}  // namespace fkat
