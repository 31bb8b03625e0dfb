#include "ring/slot_pool.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace fkat {
namespace {

constexpr std::uint64_t kCommitUnit = 64 * KiB;   // sizes that jitter do not grow a slot by pages
constexpr std::uint64_t kPrefaultStep = 1 * MiB;  // some 0.5 ms: the producer stays responsive
constexpr std::uint32_t kSlotsToPrefault = 3;     // one written, one published, one leased
constexpr std::uint64_t kMaxBudget = std::uint64_t{1}
                                     << 62;   // more than any machine, and no overflow
constexpr std::uint64_t kWastefulRatio = 16;  // rather a fresh slot than one so much larger

}  // namespace

SlotPool::SlotPool(std::shared_ptr<Ring> ring, std::uint64_t budget_nbytes)
    : ring_(std::move(ring)),
      // In whole commit units, so that a frame just below the budget can be claimed twice.
      budget_nbytes_(round_up(std::min(budget_nbytes, kMaxBudget), kCommitUnit)),
      committed_(ring_->geometry().num_slots, 0) {}

SlotState SlotPool::state(std::uint32_t slot) const {
  // SYNC POINT F: the readers' last reads happen before what we write into a slot seen FREE.
  return ring_->slot_line(slot).state.load(std::memory_order_acquire);
}

std::optional<std::uint32_t> SlotPool::try_claim(std::uint64_t nbytes) {
  const std::uint64_t slot_nbytes = ring_->geometry().slot_nbytes;
  if (nbytes > slot_nbytes) {
    throw ArgumentError("a microbatch needs " + format_nbytes(nbytes) + ", a slot holds " +
                        format_nbytes(slot_nbytes) + "; raise max_microbatch_nbytes to at least " +
                        std::to_string(nbytes));
  }
  if (nbytes > budget_nbytes_) {
    throw ArgumentError("a microbatch needs " + format_nbytes(nbytes) + ", the memory budget is " +
                        format_nbytes(budget_nbytes_) +
                        "; raise memory_budget_nbytes to at least " + std::to_string(nbytes));
  }
  const auto slot = best_free(nbytes);
  if (!slot || !make_room(*slot, nbytes)) return std::nullopt;
  grow(*slot, nbytes);
  // Relaxed: only this process writes a slot that is FREE, and readers look at READY slots.
  ring_->slot_line(*slot).state.store(SlotState::kWriting, std::memory_order_relaxed);
  return slot;
}

void SlotPool::abandon(std::uint32_t slot) {
  // Relaxed: nobody else ever looked at a WRITING slot.
  ring_->slot_line(slot).state.store(SlotState::kFree, std::memory_order_relaxed);
}

// The smallest slot that is large enough, or the largest there is, to grow the least. Equal ones by
// lowest number: a short working set stays in the caches. A fresh slot when that would waste much.
std::optional<std::uint32_t> SlotPool::best_free(std::uint64_t nbytes) const {
  std::optional<std::uint32_t> best;
  for (std::uint32_t slot = 0; slot < num_touched_; ++slot) {
    if (state(slot) != SlotState::kFree) continue;
    const std::uint64_t size = committed_[slot];
    if (!best) {
      best = slot;
    } else if (const std::uint64_t best_size = committed_[*best]; best_size >= nbytes) {
      if (size >= nbytes && size < best_size) best = slot;
    } else if (size > best_size) {
      best = slot;
    }
  }
  const bool wasteful = best && committed_[*best] > kWastefulRatio * std::max(nbytes, kCommitUnit);
  if ((!best || wasteful) && num_touched_ < committed_.size()) return num_touched_;
  return best;
}

std::uint64_t SlotPool::counted_nbytes() const {
  std::uint64_t sum = 0;
  for (std::uint32_t slot = 0; slot < num_touched_; ++slot) {
    if (committed_[slot] != 0 && state(slot) != SlotState::kLeased) sum += committed_[slot];
  }
  return sum;
}

// Keeps the budget: gives back the memory of other free slots until `slot` may hold `nbytes`.
bool SlotPool::make_room(std::uint32_t slot, std::uint64_t nbytes) {
  std::uint64_t wanted = counted_nbytes();
  if (committed_[slot] < nbytes) wanted += nbytes - committed_[slot];
  if (wanted <= budget_nbytes_) return true;

  std::vector<std::uint32_t> spare;
  std::uint64_t spare_nbytes = 0;
  for (std::uint32_t other = 0; other < num_touched_; ++other) {
    if (other == slot || committed_[other] == 0 || state(other) != SlotState::kFree) continue;
    spare.push_back(other);
    spare_nbytes += committed_[other];
  }
  if (wanted - spare_nbytes > budget_nbytes_) return false;  // give nothing back in vain
  for (const std::uint32_t other : spare) {
    if (wanted <= budget_nbytes_) break;
    ring_->segment().decommit(ring_->slot_offset(other), committed_[other]);
    wanted -= committed_[other];
    committed_[other] = 0;
  }
  return true;
}

void SlotPool::grow(std::uint32_t slot, std::uint64_t nbytes) {
  num_touched_ = std::max(num_touched_, slot + 1);
  const std::uint64_t have = committed_[slot];
  if (have >= nbytes) return;
  const std::uint64_t want = std::min(round_up(nbytes, kCommitUnit), ring_->geometry().slot_nbytes);
  ring_->segment().commit(ring_->slot_offset(slot) + have, want - have);
  committed_[slot] = want;
}

bool SlotPool::prefault_step(std::uint64_t nbytes) {
  std::uint32_t free_slots = 0;
  for (std::uint32_t slot = 0; slot < committed_.size() && free_slots < kSlotsToPrefault; ++slot) {
    if (state(slot) != SlotState::kFree) continue;
    ++free_slots;
    if (committed_[slot] >= nbytes) continue;
    if (counted_nbytes() + kPrefaultStep > budget_nbytes_) return false;
    try {
      grow(slot, std::min(nbytes, committed_[slot] + kPrefaultStep));
      return true;
    } catch (const OutOfMemory&) {
      return false;  // only a claim may fail for want of memory
    }
  }
  return false;
}

}  // namespace fkat
