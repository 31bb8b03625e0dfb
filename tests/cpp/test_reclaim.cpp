// Requests to unpin a slot (kReclaim), from the producer's claim to the reader and back.

#include "base/error.h"
#include "check.h"
#include "ring_pair.h"

namespace fkat {
namespace {

// Two slots, each page-locked as large as half of the budget: more than half needs both.
struct PinnedPair : RingPair {
  explicit PinnedPair(std::uint32_t num_prefetches = 2, std::uint32_t max_leases = 1)
      : RingPair({.num_slots = 2,
                  .num_prefetches = num_prefetches,
                  .max_leases = max_leases,
                  .budget_nbytes = 2 * MiB}) {
    begin_pass();
    consumer.wait(kNoWait);  // what a window of none produces for
    publish(0, MiB);
    publish(1, MiB);
    for (std::uint64_t i = 0; i < 2; ++i) pin(acquire(i));
  }

  void pin(const Record& record) {
    if (record.is_copy) return;
    ring->slot_line(record.slot).pinned_nbytes.store(record.committed_nbytes);
  }
  void unpin(const Record& record) { ring->slot_line(record.slot).pinned_nbytes.store(0); }

  // The next record, which must be a request to unpin.
  Record acquire_reclaim() {
    std::optional<Record> record = consumer.try_acquire();
    CHECK(record.has_value());
    CHECK(record->kind == RecordKind::kReclaim);
    CHECK(record->bytes.empty() && record->owner && !record->is_copy);
    CHECK_EQ(record->committed_nbytes, 0);
    CHECK(state(record->slot) == SlotState::kLeased);
    return std::move(*record);
  }
  void answer_reclaim() { unpin(acquire_reclaim()); }
};

TEST(a_microbatch_says_its_slot_and_how_much_memory_it_has) {
  RingPair p;
  p.begin_pass();
  p.publish(0, 100);
  const Record first = p.acquire(0);
  p.publish(1, MiB);
  const Record copy = p.acquire(1);
  CHECK_EQ(first.slot, 0);
  CHECK_EQ(first.committed_nbytes, 64 * KiB);
  CHECK(copy.is_copy);
  CHECK_EQ(copy.slot, 0);
  CHECK_EQ(copy.committed_nbytes, 0);
}

TEST(a_slot_that_grows_says_so) {
  RingPair p({.num_slots = 2, .max_leases = 1});
  p.begin_pass();
  std::vector<std::uint64_t> committed;
  for (const std::uint64_t nbytes : {std::uint64_t{0}, 8 * KiB, MiB, 8 * KiB, 2 * MiB}) {
    p.publish(0, nbytes);
    committed.push_back(p.acquire(0).committed_nbytes);
  }
  CHECK(committed == std::vector<std::uint64_t>({0, 64 * KiB, MiB, MiB, 2 * MiB}));
}

TEST(memory_that_makes_no_sense_is_refused) {
  RingPair p;
  p.begin_pass();
  p.publish(0, 100 * KiB);
  std::atomic<std::uint64_t>& committed = p.ring->slot_line(0).committed_nbytes;
  for (const std::uint64_t nbytes : {std::uint64_t{0}, 64 * KiB, 128 * KiB + 1, 4 * MiB}) {
    committed.store(nbytes);
    CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), "bytes of memory");
  }
  committed.store(128 * KiB);
  CHECK_EQ(p.acquire(0).committed_nbytes, 128 * KiB);
}

TEST(a_claim_that_needs_pinned_memory_asks_for_it_and_waits) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  CHECK(p.state(1) == SlotState::kReady);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.answer_reclaim();
  CHECK(!p.consumer.try_acquire());  // one request, not two
  CHECK(p.state(1) == SlotState::kFree);
  p.publish(2, 2 * MiB);
  CHECK_EQ(p.acquire(2).slot, 0);
}

TEST(a_request_is_no_microbatch_and_no_lease) {
  PinnedPair p;
  const ReaderStats before = p.consumer.stats();
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  const Record reclaim = p.acquire_reclaim();
  CHECK_EQ(p.consumer.outstanding_leases(), 0);
  const ReaderStats& after = p.consumer.stats();
  CHECK_EQ(after.num_microbatches, before.num_microbatches);
  CHECK_EQ(after.nbytes, before.nbytes);
  CHECK_EQ(after.num_copies, before.num_copies);
}

TEST(a_request_is_not_refused_when_every_lease_is_out) {
  RingPair p({.num_slots = 3, .max_leases = 0, .budget_nbytes = 2 * MiB});
  p.begin_pass();
  p.publish(0, MiB);
  p.publish(1, MiB);
  CHECK(p.acquire(0).is_copy && p.acquire(1).is_copy);
  for (const std::uint32_t slot : {0u, 1u}) p.ring->slot_line(slot).pinned_nbytes.store(MiB);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  const auto reclaim = p.consumer.try_acquire();
  CHECK(reclaim && reclaim->kind == RecordKind::kReclaim && reclaim->owner);
}

TEST(a_reader_that_never_unpins_stops_nobody) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.acquire_reclaim();  // and drops it
  p.publish(2, 2 * MiB);
  p.acquire(2);
  p.publish(3, 2 * MiB);
  p.acquire(3);
}

TEST(a_request_of_an_old_pass_is_delivered_once_and_first) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.producer.publish_error(p.pass, 2, {});
  p.begin_pass(1, 0);
  CHECK(p.consumer.has_record());
  CHECK(p.try_publish(0, 2 * MiB) == Turn::kWait);
  p.answer_reclaim();
  CHECK(!p.consumer.has_record());
  p.publish(0, 2 * MiB);
  p.acquire(0);
}

TEST(a_request_that_an_old_pass_publishes_late_is_delivered) {
  PinnedPair p;
  const Pass old = p.pass;
  p.consumer.begin_pass(1, 0);
  // A claim that has seen its pass wanted and then was slow: played by calling the new pass old.
  p.ring->trainer_line().version.store(2 * old.id);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.ring->trainer_line().version.store(2 * (old.id + 1));
  p.producer.publish_end(old, 2);
  p.answer_reclaim();
  CHECK(!p.consumer.try_acquire());
}

TEST(any_number_of_passes_may_be_begun_over_a_request) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  for (std::uint64_t epoch = 1; epoch < 100; ++epoch) {
    p.begin_pass(epoch, 0);
    p.producer.publish_end(p.pass, epoch);
  }
  p.answer_reclaim();
  CHECK_EQ(p.consumer.try_acquire()->position, 99);
}

TEST(a_reader_does_not_sleep_over_a_request) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.begin_pass(1, 0);
  p.consumer.wait(kForever);
  p.answer_reclaim();
}

TEST(a_reader_made_anew_gets_the_request_that_was_not_read) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  Consumer next(p.ring, 0, 2, 1);
  next.begin_pass(1, 0);
  const auto record = next.try_acquire();
  CHECK(record && record->kind == RecordKind::kReclaim);
}

TEST(a_window_of_none_produces_for_who_still_waits_after_a_request) {
  PinnedPair p(0);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.consumer.wait(kNoWait);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.consumer.wait(kForever);  // there is something to see
  p.answer_reclaim();
  p.consumer.wait(kNoWait);
  p.publish(2, 2 * MiB);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.acquire(2);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.consumer.wait(kNoWait);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
}

TEST(a_window_of_none_stays_shut_over_a_request_of_an_old_pass) {
  PinnedPair p(0);
  p.consumer.wait(kNoWait);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.begin_pass(1, 0);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.answer_reclaim();
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.consumer.wait(kNoWait);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
}

// Never more microbatches ahead than the window, and all of them once the requests are read.
void check_window(std::uint32_t num_prefetches) {
  PinnedPair p(num_prefetches);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.answer_reclaim();
  p.publish(2, 64);
  for (std::uint32_t i = 1; i < num_prefetches; ++i) {
    CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
    p.publish(2 + i, 64);
  }
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kWait);
  p.acquire(2);
  CHECK(p.producer.await_grant(p.pass, kNoWait) == Turn::kGo);
}

TEST(a_window_of_one_and_a_request) {
  check_window(1);
}
TEST(a_window_of_two_and_a_request) {
  check_window(2);
}

// The second reader is played by hand, as in test_leases.
TEST(a_request_is_over_when_every_reader_has_let_go) {
  RingPair p({.num_slots = 2, .budget_nbytes = 2 * MiB, .num_readers = 2});
  p.begin_pass();
  p.publish(0, MiB);
  p.publish(1, MiB);
  for (const std::uint32_t slot : {0u, 1u}) {
    p.ring->slot_line(slot).pinned_nbytes.store(MiB);
    p.acquire(slot);
    p.ring->release_share(slot);
  }
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.ring->slot_line(1).pinned_nbytes.store(0);
  CHECK(p.consumer.try_acquire()->kind == RecordKind::kReclaim);  // and lets go
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  p.ring->release_share(1);
  p.publish(2, 2 * MiB);
}

TEST(damaged_requests_are_refused) {
  PinnedPair p;
  CHECK(p.try_publish(2, 2 * MiB) == Turn::kWait);
  IndexEntry& entry = p.ring->index_entry(2);
  const auto check_refused = [&](const IndexEntry& damaged, const char* why) {
    entry = damaged;
    entry.checksum = checksum(entry);
    CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), why);
  };
  const IndexEntry whole = entry;
  IndexEntry damaged = whole;
  damaged.slot = 2;
  check_refused(damaged, "makes no sense");
  damaged = whole;
  damaged.nbytes = 1;
  check_refused(damaged, "makes no sense");
  damaged = whole;
  damaged.pass = p.pass.id + 1;
  check_refused(damaged, "makes no sense");
  damaged = whole;
  damaged.slot = 0;  // was not published
  check_refused(damaged, "in state 0");
  entry = whole;
  p.answer_reclaim();
}

}  // namespace
}  // namespace fkat
