// Producer and Consumer on a ring of two slots, step by step: what each promises the other.

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "ring_pair.h"

namespace fkat {
namespace {

std::span<const std::byte> as_text(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(nothing_is_seen_before_it_is_published) {
  RingPair p;
  p.begin_pass();
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, 64, slot, kNoWait) == Turn::kGo);
  CHECK(!p.consumer.has_record());
  CHECK(!p.consumer.try_acquire());
  fill_words(p.producer.slot_data(slot), 64, 0);
  p.producer.publish(p.pass, 0, slot, 64);
  p.acquire(0);
}

TEST(a_pass_says_its_epoch_and_start) {
  RingPair p;
  CHECK(p.producer.await_pass(0, p.pass, kNoWait) == Turn::kWait);
  p.begin_pass(3, 17);
  CHECK_EQ(p.pass.id, 1);
  CHECK_EQ(p.pass.epoch, 3);
  CHECK_EQ(p.pass.start, 17);
  CHECK(p.producer.await_pass(p.pass.id, p.pass, kNoWait) == Turn::kWait);
}

TEST(order_is_kept_when_slots_come_back_in_another) {
  RingPair p({.num_slots = 4, .num_prefetches = 4, .max_leases = 3});
  p.begin_pass();
  for (std::uint64_t i = 0; i < 3; ++i) p.publish(i);
  Record first = p.acquire(0);
  Record second = p.acquire(1);
  Record third = p.acquire(2);
  second.owner.reset();
  third.owner.reset();
  for (std::uint64_t i = 3; i < 20; ++i) {
    p.publish(i);
    p.acquire(i);
  }
  check_words(first.bytes, 0);  // held all the while
}

void check_window(std::uint32_t num_prefetches) {
  RingPair p({.num_slots = 8, .num_prefetches = num_prefetches, .max_leases = 7});
  p.begin_pass();
  for (std::uint64_t i = 0; i < num_prefetches; ++i) {
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
    p.publish(i);
  }
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  for (std::uint64_t i = num_prefetches; i < 20; ++i) {
    p.acquire(i - num_prefetches);
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
    p.publish(i);
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  }
}

TEST(a_window_of_one) {
  check_window(1);
}
TEST(a_window_of_three) {
  check_window(3);
}

TEST(a_window_of_none_produces_only_for_a_waiting_reader) {
  RingPair p({.num_prefetches = 0});
  p.begin_pass();
  for (std::uint64_t i = 0; i < 5; ++i) {
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
    p.consumer.wait(kNoWait);
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
    p.publish(i);
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
    p.acquire(i);
  }
}

TEST(a_superseded_pass_is_dropped_and_its_slots_are_free) {
  RingPair p;
  p.begin_pass();
  p.publish(0);
  p.publish(1);
  p.consumer.begin_pass(1, 50);
  CHECK(!p.consumer.try_acquire());
  CHECK(p.state(0) == SlotState::kFree);
  CHECK(p.state(1) == SlotState::kFree);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kSuperseded);
  CHECK(p.try_publish(2) == Turn::kSuperseded);
  CHECK(p.producer.await_pass(p.pass.id, p.pass, kNoWait) == Turn::kGo);
  p.publish(50);
  p.acquire(50);
}

TEST(what_an_old_pass_publishes_late_is_dropped) {
  RingPair p;
  p.begin_pass();
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, 8, slot, kNoWait) == Turn::kGo);
  p.consumer.begin_pass(1, 0);
  p.producer.publish(p.pass, 0, slot, 8);
  p.producer.publish_end(p.pass, 1);
  CHECK(!p.consumer.try_acquire());
  CHECK(p.state(slot) == SlotState::kFree);
}

TEST(a_new_pass_has_its_whole_window) {
  RingPair p;
  p.begin_pass();
  p.publish(0);
  p.publish(1);
  p.begin_pass(1, 0);  // and nobody has looked for a record since
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
  RingPair lazy({.num_prefetches = 0});
  lazy.begin_pass();
  lazy.consumer.wait(kNoWait);  // granted one, which the pass never used
  lazy.begin_pass(1, 0);
  CHECK(lazy.producer.await_grant(lazy.pass, kNoWait) == Turn::kWait);
}

TEST(any_number_of_passes_may_be_begun_without_reading) {
  RingPair p;
  for (std::uint64_t epoch = 0; epoch < 100; ++epoch) {
    p.begin_pass(epoch, 0);
    p.producer.publish_end(p.pass, epoch);
  }
  CHECK_EQ(p.consumer.try_acquire()->position, 99);
}

TEST(a_reader_made_anew_goes_on_where_the_last_one_stopped) {
  RingPair p;
  p.begin_pass();
  p.publish(0);
  p.acquire(0);
  Consumer next(p.ring, 0, 2, 1);
  next.begin_pass(1, 0);
  CHECK(!next.try_acquire());
  CHECK_EQ(p.ring->slot_line(0).readers_left.load(), 0);  // not released twice
}

TEST(a_lease_of_an_old_pass_keeps_its_bytes) {
  RingPair p;
  p.begin_pass();
  p.publish(7);
  const Record record = p.acquire(7);
  p.begin_pass(1, 0);
  p.publish(0);
  check_words(record.bytes, 7);
}

TEST(an_abandoned_slot_is_free_and_unseen) {
  RingPair p;
  p.begin_pass();
  std::uint32_t slot = 0;
  CHECK(p.producer.claim(p.pass, 64, slot, kNoWait) == Turn::kGo);
  p.producer.abandon(slot);
  CHECK(p.state(slot) == SlotState::kFree);
  CHECK(!p.consumer.try_acquire());
  p.publish(0);
  p.acquire(0);
}

TEST(end_and_error_fit_while_every_slot_is_taken) {
  RingPair p({.num_slots = 2, .num_prefetches = 2, .max_leases = 1});
  p.begin_pass();
  p.publish(0);
  const Record lease = p.acquire(0);
  p.publish(1);
  CHECK(p.try_publish(2) == Turn::kWait);  // one leased, one unread
  p.producer.publish_error(p.pass, 2, as_text("ValueError: no"));
  p.producer.publish_end(p.pass, 2);
  p.acquire(1);
  const auto error = p.consumer.try_acquire();
  CHECK(error && error->kind == RecordKind::kError);
  CHECK_EQ(error->position, 2);
  CHECK_EQ(error->error, "ValueError: no");
  const auto end = p.consumer.try_acquire();
  CHECK(end && end->kind == RecordKind::kEnd);
  CHECK_EQ(end->position, 2);
}

TEST(a_long_error_is_cut) {
  RingPair p;
  p.begin_pass();
  p.producer.publish_error(p.pass, 0, as_text(std::string(kErrorNbytes + 1000, 'x')));
  CHECK(p.consumer.try_acquire()->error == std::string(kErrorNbytes, 'x'));
}

TEST(an_error_may_have_no_text) {
  RingPair p;
  p.begin_pass();
  p.producer.publish_error(p.pass, 0, {});
  CHECK_EQ(p.consumer.try_acquire()->error, "");
}

TEST(the_length_is_told_before_the_first_record) {
  RingPair p;
  CHECK_EQ(p.consumer.length(), Length::kNotAskedYet);
  p.producer.announce_length(1234);
  CHECK_EQ(p.consumer.length(), 1234);
  CHECK(!p.consumer.has_record());
}

TEST(a_reader_that_the_ring_does_not_have_is_refused) {
  CHECK_THROWS(ArgumentError, Consumer(Ring::create(2, MiB), 1, 1, 1), "reader 1 of a ring with 1");
}

TEST(damaged_index_entries_are_refused) {
  RingPair p;
  p.begin_pass();
  p.publish(0);
  p.ring->index_entry(0).nbytes += 8;
  CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), "is damaged");
  IndexEntry& entry = p.ring->index_entry(0);
  entry.slot = 2;
  entry.checksum = checksum(entry);
  CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), "makes no sense");
  entry.slot = 1;  // a slot that was not published
  entry.nbytes = 8;
  entry.checksum = checksum(entry);
  CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), "in state 0");
}

}  // namespace
}  // namespace fkat
