// SlotPool: the producer's side of the pool of slots. Which free slot to write next, and how much
// memory the free, written and published slots may hold together.
//
// Slots that the trainer has leased are the trainer's memory and do not count. So a budget can
// never be used up by tensors that the user keeps, and any frame that fits the budget by itself
// finds room once the trainer has taken what was published before it.
//
// Process-local; called from one thread.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ring/ring.h"

namespace fkat {

class SlotPool {
 public:
  SlotPool(std::shared_ptr<Ring> ring, std::uint64_t budget_nbytes);

  // A slot in state WRITING with memory for `nbytes`. Nothing when no slot is free, or when what is
  // published and unread leaves no room in the budget: try again after a release or an acquire.
  // Throws ArgumentError when `nbytes` can never fit, OutOfMemory when the kernel has no more.
  std::optional<std::uint32_t> try_claim(std::uint64_t nbytes);

  void abandon(std::uint32_t slot);

  // Backs a little of the memory that the next claims of `nbytes` will want; false when there is
  // nothing left to do. First touch costs some seven times a warm memcpy, so the producer does
  // this while it has to wait anyway.
  bool prefault_step(std::uint64_t nbytes);

  std::uint64_t committed_nbytes(std::uint32_t slot) const { return committed_[slot]; }

 private:
  SlotState state(std::uint32_t slot) const;
  std::optional<std::uint32_t> best_free(std::uint64_t nbytes) const;
  bool make_room(std::uint32_t slot, std::uint64_t nbytes);
  void grow(std::uint32_t slot, std::uint64_t nbytes);
  std::uint64_t counted_nbytes() const;

  std::shared_ptr<Ring> ring_;
  std::uint64_t budget_nbytes_;
  std::vector<std::uint64_t> committed_;  // bytes of each slot that are backed by memory
  std::uint32_t num_touched_ = 0;         // slots from here on were never used
};

}  // namespace fkat
