// SlotPool: the producer's side of the pool of slots. Which free slot to write next, and how much
// memory the free, written and published slots may hold together.
//
// Slots that the trainer has leased are the trainer's memory and do not count. So a budget can
// never be used up by tensors that the user keeps, and any frame that fits the budget by itself
// finds room once the trainer has taken what was published before it.
//
// A slot that the trainer has page-locked for a device keeps its memory (see SlotLine). When that
// memory is needed, the slot is handed over to be unpinned, and counts until it is back. If it then
// still is page-locked, it will not be asked for again, and is the trainer's memory while it is
// free: no trainer can make the producer wait for ever, or fill the index with requests.
//
// What one unusually large frame took, its slot gives back some time after (see remember): else it
// would hold it for ever, for the frames after it take smaller slots.
//
// Process-local; called from one thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ring/ring.h"

namespace fkat {

class SlotPool {
 public:
  SlotPool(std::shared_ptr<Ring> ring, std::uint64_t budget_nbytes);

  // Uses one of `num_shares` equal parts of the budget from now on. Before the first claim.
  void share_budget(std::uint32_t num_shares);

  // A slot in state WRITING with memory for `nbytes`. Nothing when no slot is free, or when what is
  // published and unread leaves no room in the budget: try again after a release or an acquire.
  // Throws ArgumentError when `nbytes` can never fit, OutOfMemory when the kernel has no more.
  std::optional<std::uint32_t> try_claim(std::uint64_t nbytes);

  // The same for a frame whose size is a guess; `remember` it when it is known.
  std::optional<std::uint32_t> try_claim_for_draft(std::uint64_t nbytes);
  void remember(std::uint64_t nbytes);

  // After a claim of `nbytes` in vain: free, page-locked slots whose memory it needs, as few as
  // suffice, in state WRITING. The caller publishes each to be unpinned. Nothing when that would
  // not help, or when enough is on its way back.
  std::vector<std::uint32_t> claim_pinned(std::uint64_t nbytes);

  void abandon(std::uint32_t slot);

  // A claimed slot whose memory user code holds: it does not count, until it is abandoned.
  void keep(std::uint32_t slot) { slots_[slot].is_kept = true; }

  // Backs a little of the memory that the next claims of `nbytes` will want; false when there is
  // nothing left to do. First touch costs some seven times a warm memcpy, so the producer does
  // this while it has to wait anyway.
  bool prefault_step(std::uint64_t nbytes);

  // The largest of the last claims: of 64 at least, and fewer than 128.
  std::uint64_t usual_nbytes() const { return std::max(usual_nbytes_, recent_nbytes_); }

  // What a frame may have at most.
  std::uint64_t max_nbytes() const;

  std::uint64_t committed_nbytes(std::uint32_t slot) const { return slots_[slot].committed_nbytes; }

 private:
  enum class Unpinning { kNotAsked, kAsked, kRefused };

  struct Slot {
    std::uint64_t committed_nbytes = 0;  // backed by memory
    Unpinning unpinning = Unpinning::kNotAsked;
    bool is_kept = false;
    // As of the last look().
    SlotState state = SlotState::kFree;
    std::uint64_t pinned_nbytes = 0;  // of a free slot

    bool is_free() const { return state == SlotState::kFree; }
    bool is_spare() const { return is_free() && pinned_nbytes == 0; }
    bool counts() const;
  };

  void look();
  void check_size(std::uint64_t nbytes) const;
  std::optional<std::uint32_t> best_free(std::uint64_t nbytes) const;
  std::uint64_t counted_without(std::uint32_t slot) const;
  bool make_room(std::uint32_t slot, std::uint64_t nbytes);
  std::uint64_t with_headroom(std::uint64_t nbytes, std::uint64_t from) const;
  void grow(std::uint32_t slot, std::uint64_t nbytes);
  void shrink(std::uint32_t slot, std::uint64_t nbytes);
  void set_writing(std::uint32_t slot);

  std::shared_ptr<Ring> ring_;
  std::uint32_t num_shares_ = 1;
  std::uint64_t budget_nbytes_;  // of this share
  std::vector<Slot> slots_;
  std::uint32_t num_touched_ = 0;    // slots from here on were never used
  std::uint32_t num_recent_ = 0;     // claims since the last look at what they need
  std::uint64_t recent_nbytes_ = 0;  // the largest of them
  std::uint64_t usual_nbytes_ = 0;   // and of the kRecentClaims before them
};

}  // namespace fkat
