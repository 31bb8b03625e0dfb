#include "ring/slot_pool.h"

#include <algorithm>
#include <string>

#include "base/crash_point.h"
#include "base/error.h"

namespace fkat {
namespace {

constexpr std::uint64_t kCommitUnit = 64 * KiB;   // sizes that jitter do not grow a slot by pages
constexpr std::uint64_t kPrefaultStep = 1 * MiB;  // some 0.5 ms: the producer stays responsive
constexpr std::uint32_t kSlotsToPrefault = 3;     // one written, one published, one leased
constexpr std::uint64_t kMaxBudget = std::uint64_t{1}
                                     << 62;   // more than any machine, and no overflow
constexpr std::uint64_t kWastefulRatio = 16;  // rather a fresh slot than one so much larger
constexpr std::uint32_t kRecentClaims = 64;   // how often slots are compared with what they are for
constexpr std::uint64_t kSpareRatio = 4;      // and then give back what is so far above it

}  // namespace

SlotPool::SlotPool(std::shared_ptr<Ring> ring, std::uint64_t budget_nbytes)
    : ring_(std::move(ring)),
      // In whole commit units, so that a frame just below the budget can be claimed twice.
      budget_nbytes_(round_up(std::min(budget_nbytes, kMaxBudget), kCommitUnit)),
      slots_(ring_->geometry().num_slots) {}

void SlotPool::share_budget(std::uint32_t num_shares) {
  num_shares_ = std::max(num_shares, 1u);
  budget_nbytes_ = round_up(budget_nbytes_ / num_shares_, kCommitUnit);
}

// One look for each decision: a slot that comes back meanwhile rings the doorbell.
void SlotPool::look() {
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    Slot& slot = slots_[i];
    const SlotLine& line = ring_->slot_line(i);
    // SYNC POINT F: the readers' last reads, and what they say of page-locks, happen before what we
    // do with a slot seen FREE.
    slot.state = line.state.load(std::memory_order_acquire);
    if (!slot.is_free()) continue;
    // SYNC POINT U: a 0 says that no device reads these pages any more.
    slot.pinned_nbytes = line.pinned_nbytes.load(std::memory_order_acquire);
    if (slot.unpinning == Unpinning::kAsked) slot.unpinning = Unpinning::kRefused;  // came back
    if (slot.pinned_nbytes == 0) slot.unpinning = Unpinning::kNotAsked;
  }
}

bool SlotPool::Slot::counts() const {
  if (is_kept) return false;
  if (unpinning == Unpinning::kAsked) return true;
  if (unpinning == Unpinning::kRefused && is_free()) return false;
  return state != SlotState::kLeased;
}

std::uint64_t SlotPool::max_nbytes() const {
  return std::min(ring_->geometry().slot_nbytes, budget_nbytes_);
}

void SlotPool::check_size(std::uint64_t nbytes) const {
  const std::uint64_t slot_nbytes = ring_->geometry().slot_nbytes;
  if (nbytes > slot_nbytes) {
    throw ArgumentError("a microbatch needs " + format_nbytes(nbytes) + ", a slot holds " +
                        format_nbytes(slot_nbytes) + "; raise max_microbatch_nbytes to at least " +
                        std::to_string(nbytes));
  }
  if (nbytes > budget_nbytes_) {
    throw ArgumentError(
        "a microbatch needs " + format_nbytes(nbytes) + ", the memory budget is " +
        format_nbytes(budget_nbytes_) +
        (num_shares_ == 1 ? "" : " for each of " + std::to_string(num_shares_) + " workers") +
        "; raise memory_budget_nbytes to at least " + std::to_string(nbytes * num_shares_));
  }
}

std::optional<std::uint32_t> SlotPool::try_claim(std::uint64_t nbytes) {
  const auto slot = try_claim_for_draft(nbytes);
  if (slot) remember(nbytes);
  return slot;
}

std::optional<std::uint32_t> SlotPool::try_claim_for_draft(std::uint64_t nbytes) {
  check_size(nbytes);
  look();
  const auto slot = best_free(nbytes);
  if (!slot || !make_room(*slot, nbytes)) return std::nullopt;
  std::uint64_t wanted = nbytes;
  if (slots_[*slot].pinned_nbytes != 0 && slots_[*slot].committed_nbytes < nbytes) {
    // Headroom as far as the budget goes, which has room for what was asked for.
    wanted = std::min(with_headroom(nbytes, slots_[*slot].committed_nbytes),
                      budget_nbytes_ - counted_without(*slot));
  }
  grow(*slot, wanted);
  set_writing(*slot);
  return slot;
}

void SlotPool::set_writing(std::uint32_t slot) {
  // Relaxed: only this process writes a slot that is FREE, and readers look at READY slots.
  ring_->slot_line(slot).state.store(SlotState::kWriting, std::memory_order_relaxed);
}

void SlotPool::abandon(std::uint32_t slot) {
  slots_[slot].is_kept = false;
  // Relaxed: nobody else ever looked at a WRITING slot.
  ring_->slot_line(slot).state.store(SlotState::kFree, std::memory_order_relaxed);
}

// The smallest slot that is large enough, or the largest there is, to grow the least. Equal ones by
// lowest number: a short working set stays in the caches. A fresh slot when that would waste much.
std::optional<std::uint32_t> SlotPool::best_free(std::uint64_t nbytes) const {
  std::optional<std::uint32_t> best;
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    if (!slots_[i].is_free()) continue;
    const std::uint64_t size = slots_[i].committed_nbytes;
    if (!best) {
      best = i;
    } else if (const std::uint64_t best_size = slots_[*best].committed_nbytes;
               best_size >= nbytes) {
      if (size >= nbytes && size < best_size) best = i;
    } else if (size > best_size) {
      best = i;
    }
  }
  const bool wasteful =
      best && slots_[*best].committed_nbytes > kWastefulRatio * std::max(nbytes, kCommitUnit);
  if ((!best || wasteful) && num_touched_ < slots_.size()) return num_touched_;
  return best;
}

std::uint64_t SlotPool::counted_without(std::uint32_t slot) const {
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    if (i != slot && slots_[i].counts()) sum += slots_[i].committed_nbytes;
  }
  return sum;
}

// Keeps the budget: gives back the memory of other free slots until `slot` may hold `nbytes`.
bool SlotPool::make_room(std::uint32_t slot, std::uint64_t nbytes) {
  std::uint64_t wanted = counted_without(slot) + std::max(slots_[slot].committed_nbytes, nbytes);
  std::uint64_t spare_nbytes = 0;
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    if (i != slot && slots_[i].is_spare()) spare_nbytes += slots_[i].committed_nbytes;
  }
  if (wanted - spare_nbytes > budget_nbytes_) return false;  // give nothing back in vain
  for (std::uint32_t i = 0; i < num_touched_ && wanted > budget_nbytes_; ++i) {
    Slot& other = slots_[i];
    if (i == slot || !other.is_spare() || other.committed_nbytes == 0) continue;
    wanted -= other.committed_nbytes;
    shrink(i, 0);
  }
  return true;
}

std::vector<std::uint32_t> SlotPool::claim_pinned(std::uint64_t nbytes) {
  const auto slot = best_free(nbytes);
  if (!slot) return {};
  std::uint64_t wanted = counted_without(*slot) + std::max(slots_[*slot].committed_nbytes, nbytes);
  std::vector<std::uint32_t> pinned;
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    if (i == *slot) continue;
    if (slots_[i].is_spare() || slots_[i].unpinning == Unpinning::kAsked) {
      wanted -= slots_[i].committed_nbytes;
    } else if (slots_[i].is_free() && slots_[i].unpinning == Unpinning::kNotAsked) {
      pinned.push_back(i);
    }
  }
  std::stable_sort(pinned.begin(), pinned.end(), [&](std::uint32_t a, std::uint32_t b) {
    return slots_[a].committed_nbytes > slots_[b].committed_nbytes;
  });
  std::size_t num_needed = 0;
  for (; wanted > budget_nbytes_ && num_needed < pinned.size(); ++num_needed) {
    wanted -= slots_[pinned[num_needed]].committed_nbytes;
  }
  if (wanted > budget_nbytes_) return {};
  pinned.resize(num_needed);
  for (const std::uint32_t i : pinned) {
    slots_[i].unpinning = Unpinning::kAsked;
    set_writing(i);
  }
  return pinned;
}

// What a page-locked slot of `from` bytes grows to. Each growth is a registration of its own in the
// trainer, which takes milliseconds: rather few and large ones.
std::uint64_t SlotPool::with_headroom(std::uint64_t nbytes, std::uint64_t from) const {
  return std::min(std::max(nbytes, from + from / 4), ring_->geometry().slot_nbytes);
}

void SlotPool::grow(std::uint32_t slot, std::uint64_t nbytes) {
  num_touched_ = std::max(num_touched_, slot + 1);
  const std::uint64_t have = slots_[slot].committed_nbytes;
  if (have >= nbytes) return;
  const std::uint64_t want = std::min(round_up(nbytes, kCommitUnit), ring_->geometry().slot_nbytes);
  FKAT_CRASH_POINT("producer.grow.commit");
  ring_->segment().commit(ring_->slot_offset(slot) + have, want - have);
  FKAT_CRASH_POINT("producer.grow.committed");
  slots_[slot].committed_nbytes = want;
}

// Of a spare slot only.
void SlotPool::shrink(std::uint32_t slot, std::uint64_t nbytes) {
  const std::uint64_t have = slots_[slot].committed_nbytes;
  ring_->segment().decommit(ring_->slot_offset(slot) + nbytes, have - nbytes);
  FKAT_CRASH_POINT("producer.decommitted");
  slots_[slot].committed_nbytes = nbytes;
}

// Every kRecentClaims claims, slots far above all of them give back what they have too much. So
// steady sizes cost no system call, and a size that recurs is not given back and taken in turn.
// The slot just claimed has what it was claimed for.
void SlotPool::remember(std::uint64_t nbytes) {
  recent_nbytes_ = std::max(recent_nbytes_, nbytes);
  if (++num_recent_ < kRecentClaims) return;
  usual_nbytes_ = recent_nbytes_;
  num_recent_ = 0;
  recent_nbytes_ = 0;
  const std::uint64_t kept = round_up(usual_nbytes_, kCommitUnit);
  for (std::uint32_t i = 0; i < num_touched_; ++i) {
    if (slots_[i].is_spare() && slots_[i].committed_nbytes > kSpareRatio * kept) shrink(i, kept);
  }
}

bool SlotPool::prefault_step(std::uint64_t nbytes) {
  look();
  std::uint32_t num_free = 0;
  for (std::uint32_t i = 0; i < slots_.size() && num_free < kSlotsToPrefault; ++i) {
    const Slot& slot = slots_[i];
    if (!slot.is_free()) continue;
    ++num_free;
    const std::uint64_t have = slot.committed_nbytes;
    const std::uint64_t wanted =
        nbytes <= slot.pinned_nbytes ? nbytes : with_headroom(nbytes, slot.pinned_nbytes);
    if (have >= wanted) continue;
    if (counted_without(i) + have + kPrefaultStep > budget_nbytes_) return false;
    try {
      grow(i, std::min(wanted, have + kPrefaultStep));
      return true;
    } catch (const OutOfMemory&) {
      return false;  // only a claim may fail for want of memory
    }
  }
  return false;
}

}  // namespace fkat
