// Which slot is written next, and how much memory the pool may hold.

#include "base/error.h"
#include "pool.h"

namespace fkat {
namespace {

TEST(takes_the_smallest_slot_that_is_large_enough) {
  Pool p(3);
  p.warm({3 * MiB, 1 * MiB, 2 * MiB});
  CHECK_EQ(p.claim(MiB + 1), 2);
  CHECK_EQ(p.claim(64 * KiB), 1);
  CHECK_EQ(p.claim(64 * KiB), 0);
}

TEST(grows_the_largest_when_none_is_large_enough) {
  Pool p(3);
  p.warm({MiB, 2 * MiB, 1 * MiB});
  CHECK_EQ(p.claim(3 * MiB), 1);
  CHECK_EQ(p.pool.committed_nbytes(1), 3 * MiB);
  CHECK_EQ(p.pool.committed_nbytes(0), MiB);
}

TEST(equal_slots_are_taken_by_number) {
  Pool p(3);
  p.warm({MiB, MiB, MiB});
  CHECK_EQ(p.claim(MiB), 0);
  CHECK_EQ(p.claim(MiB), 1);
  p.pool.abandon(0);
  CHECK_EQ(p.claim(MiB), 0);
}

TEST(a_used_slot_is_better_than_a_fresh_one_unless_much_too_large) {
  Pool p(2);
  p.warm({MiB});
  CHECK_EQ(p.claim(64 * KiB), 0);
  p.pool.abandon(0);
  Pool wasteful(2);
  wasteful.warm({4 * MiB});
  CHECK_EQ(wasteful.claim(64 * KiB), 1);
}

TEST(grows_by_whole_units_up_to_the_slot) {
  Pool p(2);
  CHECK_EQ(p.claim(1), 0);
  CHECK_EQ(p.pool.committed_nbytes(0), 64 * KiB);
  CHECK_EQ(p.claim(4 * MiB - 1), 1);
  CHECK_EQ(p.pool.committed_nbytes(1), 4 * MiB);
}

TEST(a_microbatch_of_no_bytes_needs_a_slot_but_no_memory) {
  Pool p(1);
  CHECK_EQ(p.claim(0), 0);
  CHECK_EQ(p.pool.committed_nbytes(0), 0);
  CHECK(!p.pool.try_claim(0));
}

TEST(nothing_free_gives_nothing) {
  Pool p(2);
  p.claim(MiB);
  p.claim(MiB);
  CHECK(!p.pool.try_claim(1));
  p.pool.abandon(1);
  CHECK_EQ(p.claim(1), 1);
}

TEST(the_budget_takes_back_other_free_slots) {
  Pool p(3, 4 * MiB);
  p.warm({MiB, MiB, MiB});
  const std::uint64_t before = p.allocated_nbytes();
  p.claim(3 * MiB + 1);
  CHECK_EQ(p.pool.committed_nbytes(1) + p.pool.committed_nbytes(2), 0);
  CHECK_EQ(p.allocated_nbytes(), before - 2 * MiB + 2 * MiB + 64 * KiB);
}

TEST(leased_slots_do_not_count) {
  Pool p(3, 2 * MiB);
  p.set(p.claim(2 * MiB), SlotState::kLeased);
  p.set(p.claim(2 * MiB), SlotState::kLeased);
  CHECK_EQ(p.claim(2 * MiB), 2);
}

TEST(published_slots_count_until_they_are_taken) {
  Pool p(2, 2 * MiB);
  p.set(p.claim(MiB), SlotState::kReady);
  CHECK(!p.pool.try_claim(MiB + 1));
  CHECK_EQ(p.pool.committed_nbytes(1), 0);
  p.set(0, SlotState::kLeased);
  CHECK_EQ(p.claim(MiB + 1), 1);
}

TEST(a_lease_that_comes_back_counts_again) {
  Pool p(2, 2 * MiB);
  p.set(p.claim(2 * MiB), SlotState::kLeased);
  p.set(p.claim(2 * MiB), SlotState::kReady);
  p.set(0, SlotState::kFree);
  CHECK(!p.pool.try_claim(64 * KiB));  // two slots, one budget: until the other is taken
  p.set(1, SlotState::kLeased);
  CHECK_EQ(p.claim(64 * KiB), 0);
}

TEST(a_frame_just_below_the_budget_fits_again_and_again) {
  Pool p(2, 3 * MiB + 5);
  for (int i = 0; i < 5; ++i) {
    const std::uint32_t slot = p.claim(3 * MiB + 5);
    p.pool.abandon(slot);
  }
  p.set(p.claim(3 * MiB + 1), SlotState::kLeased);
  CHECK_EQ(p.claim(3 * MiB + 5), 1);
}

TEST(sizes_that_go_up_and_down_never_get_stuck) {
  Pool p(3, 4 * MiB);
  std::uint64_t size = 1;
  for (int i = 0; i < 300; ++i) {
    size = (size * 6364136223846793005 + 1442695040888963407) % (4 * MiB);
    p.pool.abandon(p.claim(size));
    CHECK(p.allocated_nbytes() <= 4 * MiB + 64 * KiB);  // and the header's pages
  }
}

// Claims of `nbytes`, each given back at once.
void claim_often(Pool& p, int count, std::uint64_t nbytes) {
  for (int i = 0; i < count; ++i) p.pool.abandon(p.claim(nbytes));
}

TEST(a_slot_far_above_the_last_64_claims_gives_pages_back) {
  Pool p(3);
  p.warm({4 * MiB, MiB});
  claim_often(p, 62, 100 * KiB);
  CHECK_EQ(p.pool.committed_nbytes(0), 4 * MiB);  // the large one is among the last 64
  claim_often(p, 63, 100 * KiB);
  CHECK_EQ(p.pool.committed_nbytes(0), 4 * MiB);
  claim_often(p, 1, 100 * KiB);
  CHECK_EQ(p.pool.committed_nbytes(0), 128 * KiB);
  CHECK_EQ(p.pool.committed_nbytes(1), 128 * KiB);
  CHECK_EQ(p.allocated_nbytes(), Pool(3).allocated_nbytes() + 2 * 128 * KiB);
}

TEST(what_is_left_of_it_can_be_claimed_and_grown_again) {
  Pool p(1);
  p.warm({4 * MiB});
  claim_often(p, 127, MiB - 1);
  CHECK_EQ(p.pool.committed_nbytes(0), 4 * MiB);  // 4 times as large is not far above
  claim_often(p, 64, 64 * KiB);
  CHECK_EQ(p.pool.committed_nbytes(0), 64 * KiB);
  CHECK_EQ(p.claim(4 * MiB), 0);
  CHECK_EQ(p.allocated_nbytes(), Pool(1).allocated_nbytes() + 4 * MiB);
}

TEST(a_size_that_recurs_is_kept) {
  Pool p(2);
  const std::uint64_t before = p.allocated_nbytes();
  for (int i = 0; i < 20; ++i) {
    p.pool.abandon(p.claim(4 * MiB));
    claim_often(p, 20, 64 * KiB);
    CHECK_EQ(p.allocated_nbytes(), before + 4 * MiB + 64 * KiB);
  }
}

TEST(the_slot_being_claimed_keeps_what_was_asked_for) {
  Pool p(1);
  p.warm({4 * MiB});
  for (int i = 0; i < 300; ++i) {
    p.pool.abandon(p.claim(i % 100 == 99 ? 4 * MiB : 64 * KiB));  // claim() looks at what it got
  }
}

TEST(pages_of_slots_that_others_hold_or_have_page_locked_are_left_alone) {
  Pool p(4);
  p.warm({4 * MiB, 4 * MiB, 4 * MiB, 64 * KiB});
  p.set(0, SlotState::kReady);
  p.set(1, SlotState::kLeased);
  p.pin(2);
  p.ring->slot_data(0)[4 * MiB - 1] = std::byte{42};
  claim_often(p, 200, 64 * KiB);
  for (const std::uint32_t slot : {0, 1, 2}) CHECK_EQ(p.pool.committed_nbytes(slot), 4 * MiB);
  CHECK(p.ring->slot_data(0)[4 * MiB - 1] == std::byte{42});
  p.set(0, SlotState::kFree);
  p.set(1, SlotState::kFree);
  p.unpin(2);
  claim_often(p, 64, 64 * KiB);
  for (const std::uint32_t slot : {0, 1, 2}) CHECK_EQ(p.pool.committed_nbytes(slot), 64 * KiB);
}

TEST(claims_of_nothing_give_everything_back) {
  Pool p(2);
  const std::uint64_t before = p.allocated_nbytes();
  p.warm({4 * MiB});
  claim_often(p, 128, 0);
  CHECK_EQ(p.allocated_nbytes(), before);
}

TEST(the_usual_size_is_that_of_the_last_claims) {
  Pool p(1);
  CHECK_EQ(p.pool.usual_nbytes(), 0);
  claim_often(p, 1, 4 * MiB);
  CHECK_EQ(p.pool.usual_nbytes(), 4 * MiB);
  claim_often(p, 126, MiB);
  CHECK_EQ(p.pool.usual_nbytes(), 4 * MiB);
  claim_often(p, 1, MiB);
  CHECK_EQ(p.pool.usual_nbytes(), MiB);
}

TEST(too_large_for_a_slot_names_the_parameter) {
  Pool p(2);
  CHECK_THROWS(ArgumentError, p.pool.try_claim(4 * MiB + 1), "max_microbatch_nbytes");
  CHECK_THROWS(ArgumentError, p.pool.try_claim(~std::uint64_t{0}), "max_microbatch_nbytes");
}

TEST(too_large_for_the_budget_names_the_parameter) {
  Pool p(2, MiB);
  CHECK_THROWS(ArgumentError, p.pool.try_claim(MiB + 1), "memory_budget_nbytes");
}

TEST(prefault_backs_a_few_slots_step_by_step) {
  Pool p(5);
  int num_steps = 0;
  while (p.pool.prefault_step(2 * MiB)) ++num_steps;
  CHECK_EQ(num_steps, 3 * 2);
  for (std::uint32_t slot = 0; slot < 3; ++slot) CHECK(p.pool.committed_nbytes(slot) == 2 * MiB);
  CHECK_EQ(p.pool.committed_nbytes(3), 0);
  const std::uint64_t before = p.allocated_nbytes();
  p.claim(2 * MiB);
  CHECK_EQ(p.allocated_nbytes(), before);
}

TEST(prefault_keeps_the_budget_and_what_was_published) {
  Pool p(3, 3 * MiB);
  const std::uint32_t slot = p.claim(2 * MiB);
  p.ring->slot_data(slot)[0] = std::byte{42};
  p.set(slot, SlotState::kReady);
  while (p.pool.prefault_step(2 * MiB)) continue;
  CHECK_EQ(p.pool.committed_nbytes(1) + p.pool.committed_nbytes(2), MiB);
  CHECK(p.ring->slot_data(slot)[0] == std::byte{42});
}

TEST(prefault_of_nothing_does_nothing) {
  Pool p(2);
  CHECK(!p.pool.prefault_step(0));
}

}  // namespace
}  // namespace fkat
