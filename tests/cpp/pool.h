// A SlotPool over a ring of its own; the test plays the readers by setting states.

#pragma once

#include <sys/stat.h>

#include "check.h"
#include "ring/slot_pool.h"

namespace fkat {

inline constexpr std::uint64_t kBig = 64 * MiB;

struct Pool {
  explicit Pool(std::uint32_t num_slots, std::uint64_t budget_nbytes = kBig,
                std::uint64_t slot_nbytes = 4 * MiB)
      : ring(Ring::create(num_slots, slot_nbytes)), pool(ring, budget_nbytes) {}

  std::uint32_t claim(std::uint64_t nbytes) {
    const auto slot = pool.try_claim(nbytes);
    CHECK(slot.has_value());
    CHECK(pool.committed_nbytes(*slot) >= nbytes);
    CHECK(ring->slot_line(*slot).state.load() == SlotState::kWriting);
    return *slot;
  }
  // Makes a free slot that holds `nbytes` out of one that was never used.
  void warm(std::initializer_list<std::uint64_t> sizes) {
    std::vector<std::uint32_t> slots;
    for (const std::uint64_t nbytes : sizes) slots.push_back(claim(nbytes));
    for (const std::uint32_t slot : slots) pool.abandon(slot);
  }
  void set(std::uint32_t slot, SlotState state) { ring->slot_line(slot).state.store(state); }

  void pin(std::uint32_t slot) {
    ring->slot_line(slot).pinned_nbytes.store(pool.committed_nbytes(slot));
  }
  void unpin(std::uint32_t slot) { ring->slot_line(slot).pinned_nbytes.store(0); }
  // Free slots of these sizes, which the trainer had and has page-locked.
  void warm_pinned(std::initializer_list<std::uint64_t> sizes) {
    warm(sizes);
    for (std::uint32_t slot = 0; slot < sizes.size(); ++slot) pin(slot);
  }

  std::uint64_t allocated_nbytes() const {
    struct stat status{};
    CHECK_EQ(fstat(ring->segment().fd(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }

  std::shared_ptr<Ring> ring;
  SlotPool pool;
};

}  // namespace fkat
