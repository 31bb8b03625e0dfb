#include "ring/producer.h"

#include <algorithm>
#include <cstring>

#include "base/crash_point.h"
#include "base/error.h"

namespace fkat {

Producer::Producer(std::shared_ptr<Ring> ring, std::uint64_t memory_budget_nbytes)
    : ring_(std::move(ring)), pool_(ring_, memory_budget_nbytes) {
  ring_->wake_fd(0);  // else the first publication would throw
}

// The version of the trainer's line is 2 * pass id, and odd while the trainer writes.
Turn Producer::await_pass(std::uint64_t previous, Pass& pass, std::chrono::nanoseconds slice) {
  TrainerLine& line = ring_->trainer_line();
  const std::uint32_t seen = line.demand.rings();
  if (line.stop.load(std::memory_order_seq_cst) != 0) return Turn::kStopped;
  // SYNC POINT P (all sequentially consistent, once per pass): epoch and start belong to the
  // version if it is the same even number before and after they were read.
  const std::uint64_t version = line.version.load(std::memory_order_seq_cst);
  if (version % 2 == 0 && version / 2 > previous) {
    pass.id = version / 2;
    pass.epoch = line.epoch.load(std::memory_order_seq_cst);
    pass.start = line.start.load(std::memory_order_seq_cst);
    FKAT_CRASH_POINT("producer.pass");
    if (line.version.load(std::memory_order_seq_cst) == version) {
      enter(Activity::kReading);
      return Turn::kGo;
    }
  }
  enter(Activity::kAwaitingPass);
  line.demand.wait(seen, slice);
  return Turn::kWait;
}

Turn Producer::status(const Pass& pass) const {
  const TrainerLine& line = ring_->trainer_line();
  if (line.stop.load(std::memory_order_seq_cst) != 0) return Turn::kStopped;
  const bool current = line.version.load(std::memory_order_seq_cst) == 2 * pass.id;
  return current ? Turn::kGo : Turn::kSuperseded;
}

bool Producer::granted() const {
  for (std::uint32_t reader = 0; reader < ring_->geometry().num_readers; ++reader) {
    // Relaxed: a grant carries no data; the slot itself is handed over at SYNC POINT F.
    if (published_seq_ >= ring_->reader_line(reader).granted_seq.load(std::memory_order_relaxed)) {
      return false;
    }
  }
  return true;
}

Turn Producer::await_grant(const Pass& pass, std::chrono::nanoseconds slice) {
  Doorbell& bell = ring_->trainer_line().demand;
  const std::uint32_t seen = bell.rings();
  if (const Turn turn = status(pass); turn != Turn::kGo) return turn;
  if (granted()) {
    enter(Activity::kReading);
    return Turn::kGo;
  }
  enter(Activity::kAwaitingGrant);
  if (!pool_.prefault_step(pool_.usual_nbytes())) bell.wait(seen, slice);
  return Turn::kWait;
}

Turn Producer::claim(const Pass& pass, std::uint64_t nbytes, std::uint32_t& slot,
                     std::chrono::nanoseconds slice) {
  Doorbell& bell = ring_->trainer_line().freed;
  const std::uint32_t seen = bell.rings();
  if (const Turn turn = status(pass); turn != Turn::kGo) return turn;
  if (activity_ != Activity::kAwaitingSlot) enter(Activity::kWriting);  // backing it takes time
  if (const auto claimed = pool_.try_claim(nbytes)) {
    FKAT_CRASH_POINT("producer.claimed");
    enter(Activity::kWriting);
    slot = *claimed;
    return Turn::kGo;
  }
  // Beyond what was granted: each takes a place in the readers' windows until it is read, which
  // the microbatch behind it waits for anyway.
  for (const std::uint32_t pinned : pool_.claim_pinned(nbytes)) {
    append_slot(RecordKind::kReclaim, pass, 0, pinned, 0);
  }
  enter(Activity::kAwaitingSlot);
  bell.wait(seen, slice);
  return Turn::kWait;
}

std::optional<Draft> Producer::try_draft(std::uint64_t head_nbytes) {
  // The largest of the last few; and it has a larger head than what was copied into its slot.
  const std::uint64_t largest = std::ranges::max(last_nbytes_);
  if (largest == 0) return std::nullopt;
  const std::uint64_t nbytes = std::min(largest + head_nbytes, pool_.max_nbytes());
  std::optional<std::uint32_t> slot;
  try {
    slot = pool_.try_claim_for_draft(nbytes);
  } catch (const OutOfMemory&) {
    return std::nullopt;  // it was a guess: what the microbatch really needs may be there
  }
  if (!slot) return std::nullopt;
  FKAT_CRASH_POINT("producer.drafted");
  return Draft(*slot, slot_data(*slot), pool_.committed_nbytes(*slot), head_nbytes);
}

void Producer::publish(const Pass& pass, std::uint64_t position, std::uint32_t slot,
                       std::uint64_t nbytes) {
  FKAT_CRASH_POINT("producer.written");
  last_nbytes_[published_seq_ % last_nbytes_.size()] = nbytes;
  append_slot(RecordKind::kMicrobatch, pass, position, slot, nbytes);
}

void Producer::publish_draft(const Pass& pass, std::uint64_t position, std::uint32_t slot,
                             std::uint64_t nbytes) {
  pool_.remember(nbytes);
  publish(pass, position, slot, nbytes);
}

void Producer::publish_end(const Pass& pass, std::uint64_t count) {
  FKAT_CRASH_POINT("producer.end");
  append(RecordKind::kEnd, pass, count, 0, 0);
}

void Producer::publish_error(const Pass& pass, std::uint64_t position,
                             std::span<const std::byte> text) {
  // One error a pass, and a new pass begins only after the reader is done with the old one: nobody
  // reads these bytes now.
  const std::uint64_t nbytes = std::min<std::uint64_t>(text.size(), kErrorNbytes);
  if (nbytes != 0) std::memcpy(ring_->error_text().data(), text.data(), nbytes);
  append(RecordKind::kError, pass, position, 0, nbytes);
}

void Producer::append_slot(RecordKind kind, const Pass& pass, std::uint64_t position,
                           std::uint32_t slot, std::uint64_t nbytes) {
  SlotLine& line = ring_->slot_line(slot);
  // Relaxed, all: SYNC POINT A in append() publishes them with the slot's bytes.
  line.committed_nbytes.store(pool_.committed_nbytes(slot), std::memory_order_relaxed);
  line.readers_left.store(ring_->geometry().num_readers, std::memory_order_relaxed);
  line.state.store(SlotState::kReady, std::memory_order_relaxed);
  FKAT_CRASH_POINT("producer.append.ready");
  append(kind, pass, position, slot, nbytes);
}

void Producer::append(RecordKind kind, const Pass& pass, std::uint64_t position, std::uint32_t slot,
                      std::uint64_t nbytes) {
  // The index has room for every slot and for two records more (Geometry::index_capacity), so the
  // entry written here was read by all.
  IndexEntry entry{kind, slot, pass.id, position, nbytes, published_seq_, 0, {}};
  entry.checksum = checksum(entry);
  ring_->index_entry(published_seq_) = entry;
  FKAT_CRASH_POINT("producer.append.entry");
  // SYNC POINT A: the slot's bytes and the entry happen before a reader's acquire-load at A.
  ring_->producer_line().published_seq.store(++published_seq_, std::memory_order_release);
  FKAT_CRASH_POINT("producer.append.published");
  ring_readers();
}

void Producer::ring_readers() const {
  for (std::uint32_t reader = 0; reader < ring_->geometry().num_readers; ++reader) {
    ring_->reader_line(reader).published.ring(ring_->wake_fd(reader));
  }
}

void Producer::announce_length(std::int64_t length) {
  // Relaxed: the number is all there is; the doorbell only makes a reader look.
  ring_->producer_line().length.store(length, std::memory_order_relaxed);
  ring_readers();
}

void Producer::enter(Activity activity) {
  if (activity == activity_) return;
  activity_ = activity;
  ring_->enter(activity);
}

}  // namespace fkat
