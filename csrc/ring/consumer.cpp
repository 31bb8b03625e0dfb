#include "ring/consumer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/error.h"
#include "ring/frame.h"
#include "ring/lease.h"

namespace fkat {
namespace {

std::shared_ptr<std::byte> private_copy(std::span<const std::byte> bytes) {
  const std::size_t nbytes = round_up(std::max<std::size_t>(bytes.size(), 1), kLeafAlignment);
  auto* copy = static_cast<std::byte*>(std::aligned_alloc(kLeafAlignment, nbytes));
  if (copy == nullptr) {
    throw OutOfMemory("no memory for a private copy of a microbatch of " +
                      format_nbytes(bytes.size()));
  }
  std::memcpy(copy, bytes.data(), bytes.size());
  return {copy, std::free};
}

}  // namespace

Consumer::Consumer(std::shared_ptr<Ring> ring, std::uint32_t reader, std::uint32_t num_prefetches,
                   std::uint32_t max_leases)
    : ring_(std::move(ring)),
      reader_(reader),
      num_prefetches_(num_prefetches),
      max_leases_(std::min(max_leases, ring_->geometry().num_slots - 1)),
      outstanding_(std::make_shared<std::atomic<std::uint32_t>>(0)) {
  if (reader >= ring_->geometry().num_readers) {
    throw ArgumentError("reader " + std::to_string(reader) + " of a ring with " +
                        std::to_string(ring_->geometry().num_readers) + " readers");
  }
  // A reader made anew goes on where the one before it stopped. Relaxed: it was this process.
  const ReaderLine& line = ring_->reader_line(reader);
  acquired_seq_ = line.acquired_seq.load(std::memory_order_relaxed);
  granted_seq_ = line.granted_seq.load(std::memory_order_relaxed);
}

void Consumer::begin_pass(std::uint64_t epoch, std::uint64_t start) {
  TrainerLine& line = ring_->trainer_line();
  // SYNC POINT P, writing side: odd, the fields, even again. One reader of a ring does this.
  const std::uint64_t version = line.version.load(std::memory_order_seq_cst);
  line.version.store(version + 1, std::memory_order_seq_cst);
  line.epoch.store(epoch, std::memory_order_seq_cst);
  line.start.store(start, std::memory_order_seq_cst);
  line.version.store(version + 2, std::memory_order_seq_cst);
  pass_ = (version + 2) / 2;
  // Now, not at the next try_acquire: the index has room for one pass and the last record of the
  // one before, and what is left of older ones would use up the new pass's window.
  next_entry();
  allow(acquired_seq_ + num_prefetches_);
  line.demand.ring();
  line.freed.ring();  // a producer that waits for a slot on behalf of the old pass
}

void Consumer::grant(std::uint64_t num_ahead) {
  if (acquired_seq_ + num_ahead > granted_seq_) allow(acquired_seq_ + num_ahead);
}

// Also takes back what an older pass was granted and did not use.
void Consumer::allow(std::uint64_t granted_seq) {
  granted_seq_ = granted_seq;
  // Relaxed: see Producer::granted.
  ring_->reader_line(reader_).granted_seq.store(granted_seq_, std::memory_order_relaxed);
  ring_->trainer_line().demand.ring();
}

bool Consumer::has_record() const {
  // SYNC POINT A, reading side: the entry and the slot's bytes are ours to read.
  return ring_->producer_line().published_seq.load(std::memory_order_acquire) != acquired_seq_;
}

std::int64_t Consumer::length() const {
  return ring_->producer_line().length.load(std::memory_order_relaxed);
}

std::uint32_t Consumer::outstanding_leases() const {
  return outstanding_->load(std::memory_order_relaxed);
}

void Consumer::wait(std::chrono::nanoseconds slice) {
  Doorbell& bell = ring_->reader_line(reader_).published;
  const std::uint32_t seen = bell.rings();
  if (has_record()) return;
  grant(std::max(num_prefetches_, 1u));
  const auto start = std::chrono::steady_clock::now();
  const bool slept = bell.wait(seen, slice, spin_.spins());
  const auto waited = std::chrono::steady_clock::now() - start;
  spin_.learn(slept, waited);
  stats_.stall += waited;
}

std::optional<Record> Consumer::try_acquire() {
  const auto entry = next_entry();
  return entry ? std::optional(take(*entry)) : std::nullopt;
}

// The next record of the current pass, if it is there; drops those of older passes before it.
std::optional<IndexEntry> Consumer::next_entry() {
  while (has_record()) {
    const IndexEntry entry = checked_entry();
    if (entry.pass == pass_) return entry;
    if (entry.kind == RecordKind::kMicrobatch) ring_->release_share(entry.slot);
    advance();
  }
  return std::nullopt;
}

// A private copy of the next entry, every field of which is safe to use.
IndexEntry Consumer::checked_entry() const {
  const IndexEntry entry = ring_->index_entry(acquired_seq_);
  if (entry.seq != acquired_seq_ || entry.checksum != checksum(entry)) {
    throw CorruptSegment("record " + std::to_string(acquired_seq_) +
                         " of the ring's index is damaged");
  }
  const Geometry& geometry = ring_->geometry();
  const bool in_bounds =
      entry.kind == RecordKind::kMicrobatch
          ? entry.slot < geometry.num_slots && entry.nbytes <= geometry.slot_nbytes
          : (entry.kind == RecordKind::kEnd || entry.kind == RecordKind::kError) &&
                entry.nbytes <= kErrorNbytes;
  if (!in_bounds || entry.pass > pass_) {
    throw CorruptSegment("record " + std::to_string(acquired_seq_) +
                         " of the ring's index makes no sense");
  }
  return entry;
}

Record Consumer::take(const IndexEntry& entry) {
  Record record{entry.kind, entry.position, {}, nullptr, false, {}};
  if (entry.kind == RecordKind::kMicrobatch) {
    record.bytes = {ring_->slot_data(entry.slot), entry.nbytes};
    record.is_copy = outstanding_leases() >= max_leases_;
    if (record.is_copy) {
      auto copy = private_copy(record.bytes);
      record.bytes = {copy.get(), entry.nbytes};
      record.owner = std::move(copy);
      mark_leased(entry.slot);
      ring_->release_share(entry.slot);
    } else {
      mark_leased(entry.slot);
      record.owner = std::make_shared<const Lease>(ring_, entry.slot, outstanding_);
    }
    stats_.num_microbatches += 1;
    stats_.nbytes += entry.nbytes;
    stats_.num_copies += record.is_copy ? 1 : 0;
  } else if (entry.kind == RecordKind::kError) {
    const auto* text = reinterpret_cast<const char*>(ring_->error_text().data());
    record.error.assign(text, entry.nbytes);
  }
  advance();
  return record;
}

void Consumer::mark_leased(std::uint32_t slot) {
  // Relaxed: the producer only reads it to know that the memory is no longer its own to count; the
  // doorbell makes it look.
  SlotState state = SlotState::kReady;
  std::atomic<SlotState>& shared = ring_->slot_line(slot).state;
  if (shared.compare_exchange_strong(state, SlotState::kLeased, std::memory_order_relaxed)) {
    ring_->trainer_line().freed.ring();
    return;
  }
  if (state == SlotState::kLeased) return;  // another reader was first
  throw CorruptSegment("slot " + std::to_string(slot) + " was published but is in state " +
                       std::to_string(static_cast<std::uint32_t>(state)));
}

void Consumer::advance() {
  ++acquired_seq_;
  // Relaxed: for whoever looks at the ring from outside; nobody decides by it.
  ring_->reader_line(reader_).acquired_seq.store(acquired_seq_, std::memory_order_relaxed);
  grant(num_prefetches_);
}

}  // namespace fkat
