// What a producer is said to do, and a ring as seen from outside.

#include <thread>

#include "check.h"
#include "ring_pair.h"

namespace fkat {
namespace {

Activity activity(const RingPair& p) {
  return p.ring->look().activity;
}

TEST(a_producer_starts_when_its_ring_is_made) {
  RingPair p;
  const auto first = p.ring->look();
  CHECK(first.activity == Activity::kStarting);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const auto second = p.ring->look();
  CHECK(second.since - first.since >= std::chrono::milliseconds(2));
  CHECK(second.since < std::chrono::hours(1));  // since then, not since the machine was started
}

TEST(each_call_says_what_it_does_and_what_it_waits_for) {
  RingPair p({.num_slots = 3, .num_prefetches = 1, .max_leases = 2, .budget_nbytes = 64 * KiB});
  CHECK(p.producer.await_pass(0, p.pass, kNoWait) == Turn::kWait);
  CHECK(activity(p) == Activity::kAwaitingPass);
  p.begin_pass();
  CHECK(activity(p) == Activity::kReading);
  p.producer.enter(Activity::kBuilding);
  CHECK(activity(p) == Activity::kBuilding);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
  CHECK(activity(p) == Activity::kReading);
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, 64, slot, kNoWait) == Turn::kGo);
  CHECK(activity(p) == Activity::kWriting);
  fill_words(p.producer.slot_data(slot), 64, 0);
  p.producer.publish(p.pass, 0, slot, 64);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  CHECK(activity(p) == Activity::kAwaitingGrant);
  CHECK(p.try_publish(1) == Turn::kWait);  // the budget is in the published slot
  CHECK(activity(p) == Activity::kAwaitingSlot);
  const Record record = p.acquire(0);
  CHECK(p.try_publish(1) == Turn::kGo);
  CHECK(activity(p) == Activity::kWriting);
}

TEST(a_wait_in_slices_began_with_the_first) {
  RingPair p;
  CHECK(p.producer.await_pass(0, p.pass, kNoWait) == Turn::kWait);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(p.producer.await_pass(0, p.pass, kNoWait) == Turn::kWait);
  CHECK(p.ring->look().since >= std::chrono::milliseconds(2));

  RingPair q({.num_slots = 2, .num_prefetches = 4, .budget_nbytes = 64 * KiB});
  q.begin_pass();
  q.publish(0);
  CHECK(q.try_publish(1) == Turn::kWait);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(q.try_publish(1) == Turn::kWait);
  CHECK(q.ring->look().since >= std::chrono::milliseconds(2));
}

TEST(slots_are_counted_by_state) {
  RingPair p({.num_slots = 5, .num_prefetches = 4, .max_leases = 2});
  p.begin_pass();
  p.publish(0);
  p.publish(1);
  p.publish(2);
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, 64, slot, kNoWait) == Turn::kGo);
  const Record record = p.acquire(0);
  const RingView view = p.ring->look();
  CHECK_EQ(view.num_unread, 2);
  CHECK_EQ(view.slots[0], 1);  // free
  CHECK_EQ(view.slots[1], 1);  // being written
  CHECK_EQ(view.slots[2], 2);  // published
  CHECK_EQ(view.slots[3], 1);  // leased
  CHECK_EQ(view.leased_nbytes, 64 * KiB);
}

TEST(garbage_is_looked_at_without_harm) {
  RingPair p;
  p.ring->producer_line().activity.store(~std::uint64_t{0});
  p.ring->reader_line(0).acquired_seq.store(17);
  p.ring->slot_line(1).state.store(static_cast<SlotState>(4711));
  const RingView view = p.ring->look();
  CHECK_EQ(static_cast<int>(view.activity), 7);
  CHECK_EQ(view.since.count(), 0);
  CHECK_EQ(view.num_unread, 0);
  CHECK_EQ(view.slots[0], 1);
}

}  // namespace
}  // namespace fkat
