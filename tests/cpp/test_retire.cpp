// Retired rings: all memory goes back to the kernel, and none of it while anybody looks into it.

#include <unistd.h>

#include <latch>
#include <thread>

#include "base/error.h"
#include "check.h"
#include "child.h"
#include "ring/lease.h"
#include "ring_pair.h"

namespace fkat {
namespace {

constexpr std::uint64_t kFrame = 300 * KiB;

bool has_memory(const RingPair& p, std::uint32_t slot) {
  const auto begin = static_cast<off_t>(p.ring->slot_offset(slot));
  const off_t data = lseek(p.ring->segment().fd(), begin, SEEK_DATA);
  return data >= 0 && data < begin + static_cast<off_t>(p.ring->geometry().slot_nbytes);
}

// "x" for each slot with memory, "." for each without.
std::string memory(const RingPair& p) {
  std::string slots;
  for (std::uint32_t slot = 0; slot < p.ring->geometry().num_slots; ++slot) {
    slots += has_memory(p, slot) ? 'x' : '.';
  }
  return slots;
}

// Slot 0 is leased, 1 READY, 2 WRITING, 3 FREE again; the last was never used.
struct Used : RingPair {
  Used() : RingPair({.num_slots = 5, .num_prefetches = 4, .max_leases = 3}) {
    begin_pass();
    publish(0, kFrame);
    kept = acquire(0);
    publish(1, kFrame);
    std::uint32_t written = 0;
    std::uint32_t abandoned = 0;
    CHECK(producer.claim(pass, kFrame, written, kNoWait) == Turn::kGo);
    CHECK(producer.claim(pass, kFrame, abandoned, kNoWait) == Turn::kGo);
    producer.abandon(abandoned);
    CHECK_EQ(memory(*this), "xxxx.");
  }

  Record kept;
};

TEST(a_retired_ring_has_memory_only_for_what_is_leased) {
  Used p;
  p.ring->retire();
  CHECK_EQ(memory(p), "x....");
  check_words(p.kept.bytes, 0);
  p.kept.owner.reset();
  CHECK_EQ(memory(p), ".....");
}

TEST(a_ring_that_is_not_retired_keeps_what_is_dropped) {
  Used p;
  p.kept.owner.reset();
  CHECK_EQ(memory(p), "xxxx.");
}

TEST(the_memory_goes_back_although_another_process_maps_it) {
  Used p;
  const Child child([] { pause(); });
  p.ring->retire();
  CHECK_EQ(memory(p), "x....");
}

TEST(what_is_page_locked_goes_back_when_it_is_not) {
  Used p;
  const auto pin = [&](std::uint32_t slot, std::uint64_t nbytes) {
    p.ring->slot_line(slot).pinned_nbytes.store(nbytes);
    p.ring->give_back(slot);
  };
  pin(0, kFrame);
  pin(3, kFrame);
  p.ring->retire();
  CHECK_EQ(memory(p), "x..x.");
  pin(3, 0);
  CHECK_EQ(memory(p), "x....");
  p.kept.owner.reset();  // and is still page-locked
  CHECK_EQ(memory(p), "x....");
  pin(0, 0);
  CHECK_EQ(memory(p), ".....");
}

TEST(a_slot_of_two_readers_goes_back_with_the_last_share) {
  RingPair p({.num_readers = 2});
  p.begin_pass();
  p.publish(0, kFrame);
  Record record = p.acquire(0);
  auto second = std::make_shared<const Lease>(p.ring, record.slot, nullptr);
  p.ring->retire();
  record.owner.reset();
  CHECK_EQ(memory(p), "x.");
  second.reset();
  CHECK_EQ(memory(p), "..");
}

TEST(what_was_published_is_not_acquired_any_more) {
  Used p;
  p.ring->retire();
  CHECK_THROWS(CorruptSegment, p.consumer.try_acquire(), "slot 1 was published but is in state 0");
}

TEST(a_forked_child_retires_nothing) {
  Used p;
  Child child([&] { p.ring->retire(); });
  CHECK_EQ(child.wait(), 0);
  CHECK_EQ(memory(p), "xxxx.");
}

TEST(what_was_leased_during_a_fork_stays_for_the_child) {
  Used p;
  p.publish(2, kFrame);
  const Shared<std::atomic<bool>> dropped;
  Child child([&] {
    while (!dropped->load()) usleep(1000);
    check_words(p.kept.bytes, 0);
  });
  CHECK_EQ(p.acquire(1).position, 1);
  Record younger = p.acquire(2);
  p.ring->retire();
  p.kept.owner.reset();
  younger.owner.reset();
  dropped->store(true);
  CHECK_EQ(memory(p), "x....");
  CHECK_EQ(child.wait(), 0);
}

TEST(a_kernel_that_keeps_the_memory_is_no_error) {
  Child child([] {  // which may lack a descriptor
    Used p;
    close(p.ring->segment().fd());
    p.ring->retire();
    p.kept.owner.reset();
  });
  CHECK_EQ(child.wait(), 0);
}

// One retires, one drops leases, one unpins, one acquires what is left: whoever comes last.
void race(std::uint64_t seed) {
  RingPair p({.num_slots = 5, .num_prefetches = 4, .max_leases = 4});
  p.begin_pass();
  std::vector<Record> kept;
  for (std::uint64_t i = 0; i < 4; ++i) {
    p.publish(i, 8 * KiB);
    if (i < 3) kept.push_back(p.acquire(i));
  }
  std::atomic<std::uint64_t>& pinned = p.ring->slot_line(kept[0].slot).pinned_nbytes;
  pinned.store(8 * KiB);

  std::latch start(4);
  const auto thread = [&](int number, auto body) {
    return std::thread([&start, body, spins = mix(seed + static_cast<std::uint64_t>(number)) % 64] {
      start.arrive_and_wait();
      for (std::atomic<std::uint64_t> i = 0; i < spins; ++i) continue;
      body();
    });
  };
  std::thread retiring = thread(0, [&] { p.ring->retire(); });
  std::thread dropping = thread(1, [&] {
    for (Record& record : kept) {
      check_words(record.bytes, record.position);
      record.owner.reset();
    }
  });
  std::thread unpinning = thread(2, [&] {
    pinned.store(0);
    p.ring->give_back(kept[0].slot);
  });
  std::thread acquiring = thread(3, [&] {
    std::optional<Record> late;
    try {
      late = p.consumer.try_acquire();
    } catch (const CorruptSegment&) {
      return;  // it was retired before
    }
    check_words(late->bytes, late->position);
  });
  for (std::thread* each : {&retiring, &dropping, &unpinning, &acquiring}) each->join();
  CHECK_EQ(memory(p), ".....");
}

TEST(whoever_comes_last_gives_the_memory_back) {
  for (long i = 0; i < check::rounds(500); ++i) race(static_cast<std::uint64_t>(i));
}

}  // namespace
}  // namespace fkat
