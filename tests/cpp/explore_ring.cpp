// Every interleaving of the whole ring: slots, index, doorbells, windows, leases, passes, one or
// two readers, and a producer that is killed at any step. Nobody waits for ever, no wake-up and no
// slot is lost, nothing is freed twice, every microbatch arrives whole, in order and once, and
// after a death what was published.
//
// The parts have explorers of their own, which go deeper there: explore_doorbell (several waiters),
// explore_wake_fd (how a reader sleeps), explore_reclaim (memory budgets, page-locks: here every
// slot has memory).
//
// Assumed: all readers are threads of one process, as today, and so a killed trainer leaves nobody
// whom the ring could fail (its producer dies with it, see die_with). The kernel wakes and compares
// as futex(2) says, and wakes readers as eventfd(2) and pidfd_open(2) say. Waits have no end but a
// ring or, for a reader, the producer's exit: in csrc they end after a slice, too, so what is a
// lost wake-up here costs 500 ms there.

#include "check.h"
#include "ring_model.h"

namespace fkat::ring_model {
namespace {

// A sanitizer finds nothing more in more states, but takes ten times as long for each.
#ifdef FKAT_SMALL_MODELS
constexpr bool kIsSmall = true;
#else
constexpr bool kIsSmall = false;
#endif

constexpr Scenario kTwoReaders{.num_readers = 2, .max_leases = {1, 0}, .num_passes = 1};
// The producer waits for a slot, and not only for a grant.
constexpr Scenario kWaitsForSlots{.lengths = {3, 1}, .num_passes = 1, .num_prefetches = 2};

Scenario with(Scenario scenario, Mistake mistake) {
  scenario.mistake = mistake;
  return scenario;
}

TEST(one_reader_gets_every_microbatch_whole_in_order_and_once) {
  check_correct("ring: two slots, two passes, a kill", RingModel{{.kills = true}});
  check_correct("ring: on demand, a kill", RingModel{{.num_prefetches = 0, .kills = true}});
  if (kIsSmall) return;
  Scenario scenario = kWaitsForSlots;
  scenario.num_passes = 2;
  scenario.kills = true;
  check_correct("ring: waits for slots, a kill", RingModel{scenario});
  scenario = {.num_slots = 3, .max_leases = {2, 0}, .num_prefetches = 2, .kills = true};
  check_correct("ring: three slots, two leases, a kill", RingModel{scenario});
}

TEST(two_readers_get_the_same_microbatches) {
  Scenario scenario = kTwoReaders;
  scenario.lengths[0] = 1;
  check_correct("ring: two readers, one microbatch", RingModel{scenario});
  if (kIsSmall) return;
  scenario = kTwoReaders;
  scenario.kills = true;
  check_correct("ring: two readers, a kill", RingModel{scenario});
  scenario = {.num_readers = 2, .max_leases = {0, 0}, .lengths = {1, 1}};
  check_correct("ring: two readers, two passes, copies", RingModel{scenario});
  scenario = kWaitsForSlots;
  scenario.num_readers = 2;
  scenario.max_leases = {0, 0};
  check_correct("ring: two readers wait for slots, copies", RingModel{scenario});
}

TEST(a_stop_ends_the_producer_wherever_it_is) {
  Scenario scenario = kWaitsForSlots;
  scenario.stops = true;
  check_correct("ring: a stop", RingModel{scenario});
}

// Consumer admits num_slots - 1 leases to each reader. So many suffice for one; of several readers,
// the sum must not be more.
TEST(two_readers_that_keep_every_slot_between_them_stop_the_ring) {
  Scenario scenario = kWaitsForSlots;
  scenario.num_readers = 2;
  scenario.keeps = true;
  check_caught("ring: two readers keep a slot each, of two", RingModel{scenario}, "deadlock");
}

void check_found(const char* name, Mistake mistake, const char* expected, Scenario scenario = {}) {
  check_caught(name, RingModel{with(scenario, mistake)}, expected);
}

TEST(a_wake_up_that_a_mistake_loses_is_found) {
  using enum Mistake;
  const char* lost = "a wake-up was lost";
  // consumer.cpp, wait: without `if (has_record()) return`.
  check_found("ring: a reader sleeps without another look", kReaderSleepsUnlooked, lost);
  // consumer.cpp, wait: `seen` is read behind has_record().
  check_found("ring: a reader reads its bell too late", kReaderReadsBellLate, lost);
  // producer.cpp, await_grant: `seen` is read behind status() and granted().
  check_found("ring: the producer reads its bell too late", kProducerReadsBellLate, lost);
  // producer.cpp, append: the loop that rings leaves out the last reader.
  check_found("ring: a publication does not ring", kNoRingOnPublish, lost);
  check_found("ring: nor for the second reader", kNoRingOnPublish, lost, kTwoReaders);
  // ring.cpp, release_share: without `freed.ring()`.
  check_found("ring: a release does not ring", kNoRingOnFree, lost, kWaitsForSlots);
  // consumer.cpp, allow: without `demand.ring()`.
  check_found("ring: a grant does not ring", kNoRingOnGrant, lost);
  // ring.cpp, stop: without `freed.ring()`.
  Scenario stops = kWaitsForSlots;
  stops.stops = true;
  check_found("ring: a stop does not ring for slots", kStopRingsDemandOnly, lost, stops);
  // doorbell.cpp, wait_any: without has_rung.
  check_found("ring: a reader sleeps without a compare", kReaderSleepsUncompared, lost);
  // wake_fd.cpp, sleep: without the pidfd.
  check_found("ring: a death wakes nobody", kDeathWakesNobody, lost, {.kills = true});
  // bind_consumer.cpp, wait_until: PeerExited is thrown where wait() tells of the exit.
  check_found("ring: an exit is taken for the end", kDeathWithoutAnotherLook,
              "a published microbatch was not delivered", {.kills = true});
}

TEST(a_memory_order_that_is_too_weak_is_found) {
  using enum Mistake;
  const char* lost = "a wake-up was lost";
  const char* early = "an entry was read before it stood";
  const char* under = "a slot was written under a reader";
  // doorbell.cpp, add_ring: release for seq_cst.
  check_found("ring: rings_ is added to with release", kRingRelease, lost);
  // doorbell.cpp, wait, and doorbell.h, add_waiter: relaxed for the first seq_cst.
  check_found("ring: waiters_ is added to relaxed", kWaiterRelaxed, lost);
  // producer.cpp, append, and consumer.cpp, has_entry (SYNC POINT A).
  check_found("ring: published_seq is stored relaxed", kPublishRelaxed, early);
  check_found("ring: published_seq is read relaxed", kPublishedReadRelaxed, early);
  // ring.cpp, release_share, and slot_pool.cpp, look (SYNC POINT F).
  check_found("ring: FREE is stored relaxed", kFreeRelaxed, under);
  check_found("ring: FREE is read relaxed", kStateReadRelaxed, under);
  // ring.cpp, release_share: relaxed, then release, for acq_rel.
  check_found("ring: a share is released relaxed", kShareRelaxed, under, kTwoReaders);
  check_found("ring: the last share acquires nothing", kShareRelease, under, kTwoReaders);
}

TEST(steps_in_a_wrong_order_are_found) {
  using enum Mistake;
  // producer.cpp, append_slot and append: behind the store of published_seq.
  check_found("ring: bytes behind the publication", kBytesAfterPublish,
              "a slot was written under a reader");
  check_found("ring: READY behind the publication", kReadyAfterPublish,
              "a slot was released twice");
  check_found("ring: the entry behind the publication", kEntryAfterPublish,
              "an entry was read before it stood");
  // microbatch.cpp: a tensor that outlives its Lease.
  check_found("ring: a lease is read behind its release", kReleaseBeforeLastRead,
              "a torn microbatch was read");
  // producer.cpp, await_pass: without the second look at the version.
  check_found("ring: a pass is read while it is written", kPassNotReadAgain,
              "a pass is part of another");
}

TEST(a_wrong_count_is_found) {
  using enum Mistake;
  const char* unready = "a published slot was not READY";
  const char* twice = "a slot was released twice";
  // producer.cpp, append_slot: readers_left.store(1).
  check_found("ring: one share for two readers", kOneShare, unready, kTwoReaders);
  // ring.cpp, release_share: without `!= 1) return`.
  check_found("ring: the first of two readers frees", kFirstReaderFrees, unready, kTwoReaders);
  // lease.cpp, ~Lease: release_share twice; without `getpid() != owner_`.
  check_found("ring: a lease is dropped twice", kFreeTwice, twice);
  check_found("ring: a forked child drops a lease", kForkedChildReleases, twice);
  // slot_pool.cpp: is_free() says so of LEASED slots.
  check_found("ring: a leased slot is written", kReuseLeased, "a slot was written under a reader");
  // consumer.cpp, Consumer: min(max_leases, num_slots).
  check_found("ring: every slot may be leased", kLeaseEverySlot, "deadlock", kWaitsForSlots);
  // consumer.cpp, grant: acquired_seq_ + 2 * num_ahead.
  check_found("ring: a grant counts twice", kGrantTwice,
              "more was published than the window admits");
  // layout.h, Geometry::index_capacity: num_slots.
  check_found("ring: no room for the ends of passes", kNoRoomForEnd,
              "an entry was overwritten that a reader may not have read");
  // consumer.cpp, next_entry: without `release_share(entry.slot)`.
  check_found("ring: a new pass releases nothing", kPassReleasesNothing, "a slot is lost");
}

}  // namespace
}  // namespace fkat::ring_model
