// Slots that the trainer has page-locked: they keep their memory until they are asked for and back.

#include <algorithm>

#include "pool.h"

namespace fkat {
namespace {

using Slots = std::vector<std::uint32_t>;

// A claim in vain, and the slots that are handed over for it, published.
Slots asked_for(Pool& p, std::uint64_t nbytes) {
  CHECK(!p.pool.try_claim(nbytes));
  Slots slots = p.pool.claim_pinned(nbytes);
  for (const std::uint32_t slot : slots) {
    CHECK(p.ring->slot_line(slot).state.load() == SlotState::kWriting);
    p.set(slot, SlotState::kReady);
  }
  return slots;
}

TEST(a_pinned_slot_keeps_its_memory_while_unpinned_ones_suffice) {
  Pool p(3, 3 * MiB);
  p.warm({MiB, MiB, MiB});
  p.pin(0);
  CHECK_EQ(p.claim(2 * MiB), 0);  // the largest, and the first of equal ones
  p.pool.abandon(0);
  CHECK_EQ(p.pool.committed_nbytes(0), 2 * MiB);
  p.pin(0);
  p.set(p.claim(2 * MiB), SlotState::kReady);
  CHECK_EQ(p.claim(MiB), 2);  // slot 1 has lost its memory, slot 2 never needed to
  CHECK_EQ(p.pool.committed_nbytes(0) + p.pool.committed_nbytes(1), 2 * MiB);
}

TEST(a_pinned_slot_is_never_decommitted) {
  Pool p(2, 4 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB});
  const std::uint64_t before = p.allocated_nbytes();
  CHECK(!p.pool.try_claim(3 * MiB));
  CHECK_EQ(p.allocated_nbytes(), before);
  CHECK_EQ(p.pool.committed_nbytes(1), 2 * MiB);
}

TEST(a_slot_that_comes_back_unpinned_gives_its_memory) {
  Pool p(2, 4 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB});
  const std::uint64_t before = p.allocated_nbytes();
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
  CHECK(!p.pool.try_claim(4 * MiB));
  p.set(1, SlotState::kLeased);
  CHECK(!p.pool.try_claim(4 * MiB));  // still pinned: its memory is not free yet
  p.unpin(1);
  p.set(1, SlotState::kFree);
  CHECK_EQ(p.claim(4 * MiB), 0);
  CHECK_EQ(p.pool.committed_nbytes(1), 0);
  CHECK_EQ(p.allocated_nbytes(), before);
}

TEST(as_few_slots_are_asked_for_as_suffice) {
  Pool p(5, 8 * MiB);
  p.warm_pinned({MiB, 2 * MiB, MiB, 3 * MiB, MiB});
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
}

TEST(what_is_unpinned_is_used_before_anything_is_asked_for) {
  Pool p(4, 8 * MiB);
  p.warm({2 * MiB, 2 * MiB, 2 * MiB, 2 * MiB});
  p.pin(1);
  p.pin(3);
  CHECK_EQ(p.claim(4 * MiB), 0);
  CHECK_EQ(p.pool.committed_nbytes(2), 0);
  CHECK_EQ(p.pool.committed_nbytes(1) + p.pool.committed_nbytes(3), 4 * MiB);
}

TEST(what_is_unpinned_makes_one_request_less) {
  Pool p(4, 8 * MiB, 8 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB, 2 * MiB, 2 * MiB});
  p.unpin(1);
  CHECK(asked_for(p, 6 * MiB) == Slots{2});
}

TEST(nothing_is_asked_for_in_vain) {
  Pool p(3, 4 * MiB);
  p.warm_pinned({MiB, MiB, 2 * MiB});
  p.set(2, SlotState::kReady);
  CHECK(asked_for(p, 3 * MiB).empty());  // the unread microbatch is what is in the way
  p.set(2, SlotState::kLeased);
  CHECK_EQ(p.claim(3 * MiB), 0);
}

TEST(nothing_is_asked_for_without_a_free_slot) {
  Pool p(2, 4 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB});
  p.set(0, SlotState::kReady);
  p.set(1, SlotState::kLeased);
  CHECK(asked_for(p, 4 * MiB).empty());
}

TEST(a_slot_on_its_way_is_not_asked_for_again_nor_any_other) {
  Pool p(4, 8 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB, 2 * MiB, 2 * MiB});
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
  CHECK(asked_for(p, 4 * MiB).empty());
  p.set(1, SlotState::kLeased);
  CHECK(asked_for(p, 4 * MiB).empty());
  CHECK_EQ(p.claim(2 * MiB), 0);  // what fits meanwhile is no longer kept waiting
}

// A trainer that does not unpin: the slot counts as its own memory, as a lease does.
TEST(a_slot_that_comes_back_pinned_is_not_asked_for_again) {
  Pool p(3, 6 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB, 2 * MiB});
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
  p.set(1, SlotState::kFree);
  CHECK_EQ(p.claim(4 * MiB), 0);
  CHECK_EQ(p.pool.committed_nbytes(1), 2 * MiB);
}

TEST(a_trainer_that_never_unpins_is_asked_once_for_each_slot) {
  Pool p(4, 4 * MiB);
  p.warm_pinned({MiB, MiB, MiB, MiB});
  Slots all;
  std::uint64_t size = 1;
  for (int i = 0; i < 1000; ++i) {
    size = (size * 6364136223846793005 + 1442695040888963407) % (4 * MiB);
    for (int attempt = 0;; ++attempt) {
      if (const auto slot = p.pool.try_claim(size)) {
        p.pool.abandon(*slot);
        p.pin(*slot);
        break;
      }
      CHECK(attempt < 4);
      for (const std::uint32_t slot : p.pool.claim_pinned(size)) {
        all.push_back(slot);
        p.set(slot, SlotState::kFree);
      }
    }
  }
  std::sort(all.begin(), all.end());
  CHECK(!all.empty());
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
}

TEST(a_slot_that_was_unpinned_later_counts_and_is_spare_again) {
  Pool p(2, 4 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB});
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
  p.set(1, SlotState::kFree);
  CHECK_EQ(p.claim(3 * MiB), 0);
  p.set(0, SlotState::kReady);
  p.unpin(1);
  CHECK(!p.pool.try_claim(2 * MiB));
  p.set(0, SlotState::kFree);
  p.unpin(0);
  CHECK_EQ(p.claim(4 * MiB), 0);
  CHECK_EQ(p.pool.committed_nbytes(1), 0);
}

TEST(a_slot_that_was_refused_is_written_like_any_other) {
  Pool p(2, 4 * MiB);
  p.warm_pinned({2 * MiB, 2 * MiB});
  CHECK(asked_for(p, 4 * MiB) == Slots{1});
  p.set(1, SlotState::kFree);
  p.set(p.claim(4 * MiB), SlotState::kLeased);
  CHECK_EQ(p.claim(2 * MiB), 1);
  p.set(1, SlotState::kReady);  // and counts while it is on its way
  p.set(0, SlotState::kFree);
  CHECK(!p.pool.try_claim(4 * MiB));
}

TEST(a_pinned_slot_grows_by_a_quarter_at_least) {
  Pool p(1, kBig, 64 * MiB);
  p.warm_pinned({8 * MiB});
  p.claim(8 * MiB + 1);
  CHECK_EQ(p.pool.committed_nbytes(0), 10 * MiB);
  p.pool.abandon(0);
  p.pin(0);
  p.claim(20 * MiB);
  CHECK_EQ(p.pool.committed_nbytes(0), 20 * MiB);
}

TEST(a_slot_that_fits_or_is_not_pinned_does_not_grow_by_more) {
  Pool p(2, kBig, 64 * MiB);
  p.warm({8 * MiB});
  p.pool.abandon(p.claim(8 * MiB + 1));
  CHECK_EQ(p.pool.committed_nbytes(0), 8 * MiB + 64 * KiB);
  p.pin(0);
  p.claim(8 * MiB + 2);
  CHECK_EQ(p.pool.committed_nbytes(0), 8 * MiB + 64 * KiB);
}

TEST(headroom_stays_within_slot_and_budget) {
  Pool slot(1, kBig, 10 * MiB);
  slot.warm_pinned({9 * MiB});
  slot.claim(9 * MiB + 1);
  CHECK_EQ(slot.pool.committed_nbytes(0), 10 * MiB);

  Pool budget(2, 12 * MiB, 64 * MiB);
  budget.warm_pinned({8 * MiB, 3 * MiB});
  budget.set(1, SlotState::kReady);
  budget.claim(8 * MiB + 1);
  CHECK_EQ(budget.pool.committed_nbytes(0), 9 * MiB);
}

TEST(prefault_of_a_pinned_slot_has_the_same_headroom_and_ends) {
  Pool p(1, kBig, 64 * MiB);
  p.warm_pinned({8 * MiB});
  CHECK(!p.pool.prefault_step(8 * MiB));
  int num_steps = 0;
  while (p.pool.prefault_step(8 * MiB + 1)) CHECK(++num_steps <= 2);
  CHECK_EQ(p.pool.committed_nbytes(0), 10 * MiB);
  Pool full(1, kBig, 8 * MiB);
  full.warm_pinned({7 * MiB});
  while (full.pool.prefault_step(8 * MiB)) CHECK(++num_steps <= 3);
  CHECK_EQ(full.pool.committed_nbytes(0), 8 * MiB);
}

TEST(sizes_that_go_up_and_down_never_get_stuck_on_pinned_slots) {
  Pool p(3, 4 * MiB);
  std::uint64_t size = 1;
  for (int i = 0; i < 300; ++i) {
    size = (size * 6364136223846793005 + 1442695040888963407) % (4 * MiB);
    std::optional<std::uint32_t> slot;
    for (int attempt = 0; !(slot = p.pool.try_claim(size)); ++attempt) {
      CHECK(attempt < 2);
      for (const std::uint32_t asked : p.pool.claim_pinned(size)) {
        p.unpin(asked);
        p.set(asked, SlotState::kFree);
      }
    }
    p.pool.abandon(*slot);
    p.pin(*slot);
    CHECK(p.allocated_nbytes() <= 4 * MiB + 64 * KiB);  // and the header's pages
  }
}

}  // namespace
}  // namespace fkat
