#include "ring/consumer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "base/crash_point.h"
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

bool in_bounds(const IndexEntry& entry, const Geometry& geometry) {
  switch (entry.kind) {
    case RecordKind::kMicrobatch:
      return entry.slot < geometry.num_slots && entry.nbytes <= geometry.slot_nbytes;
    case RecordKind::kReclaim:
      return entry.slot < geometry.num_slots && entry.nbytes == 0;
    case RecordKind::kEnd:
    case RecordKind::kError:
      return entry.nbytes <= kErrorNbytes;
  }
  return false;
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
  ring_->wake_fd(reader);  // else the first wait would throw
  // A reader made anew goes on where the one before it stopped. Relaxed: it was this process.
  const ReaderLine& line = ring_->reader_line(reader);
  acquired_seq_ = line.acquired_seq.load(std::memory_order_relaxed);
  granted_seq_ = line.granted_seq.load(std::memory_order_relaxed);
}

void Consumer::share_window(std::uint32_t num_rings) {
  const std::uint32_t num_shares = std::max(num_rings, 1u);
  num_prefetches_ = num_prefetches_ / num_shares + (num_prefetches_ % num_shares != 0);
  if (pass_ != 0) allow(acquired_seq_ + num_prefetches_);  // what it was granted before is too much
}

void Consumer::begin_pass(std::uint64_t epoch, std::uint64_t start) {
  TrainerLine& line = ring_->trainer_line();
  // SYNC POINT P, writing side: odd, the fields, even again. One reader of a ring does this.
  const std::uint64_t version = line.version.load(std::memory_order_seq_cst);
  line.version.store(version + 1, std::memory_order_seq_cst);
  FKAT_CRASH_POINT("trainer.pass.odd");
  line.epoch.store(epoch, std::memory_order_seq_cst);
  line.start.store(start, std::memory_order_seq_cst);
  line.version.store(version + 2, std::memory_order_seq_cst);
  FKAT_CRASH_POINT("trainer.pass.asked");
  pass_ = (version + 2) / 2;
  // Now, not at the next try_acquire: the index has room for one pass and the last record of the
  // one before, and what is left of older ones would use up the new pass's window.
  for (auto entry = next_entry(); entry && entry->pass != pass_; entry = next_entry()) {
    reclaims_.push_back(take(*entry));
  }
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
  return !reclaims_.empty() || has_entry();
}

bool Consumer::has_entry() const {
  // SYNC POINT A, reading side: the entry and the slot's bytes are ours to read.
  return ring_->producer_line().published_seq.load(std::memory_order_acquire) != acquired_seq_;
}

std::int64_t Consumer::length() const {
  return ring_->producer_line().length.load(std::memory_order_relaxed);
}

std::uint32_t Consumer::outstanding_leases() const {
  return outstanding_->load(std::memory_order_relaxed);
}

ReaderStats Consumer::stats() const {
  return {num_microbatches_.load(std::memory_order_relaxed),
          nbytes_.load(std::memory_order_relaxed), num_copies_.load(std::memory_order_relaxed),
          std::chrono::nanoseconds(stall_ns_.load(std::memory_order_relaxed))};
}

void Consumer::count_stall(std::chrono::nanoseconds waited) {
  stall_ns_.fetch_add(waited.count(), std::memory_order_relaxed);
}

// What is to be slept at; none if there is something to see.
std::optional<Awaited> Consumer::begin_wait(const ProcessHandle& producer) {
  Doorbell& bell = ring_->reader_line(reader_).published;
  const std::uint32_t seen = bell.rings();
  if (has_record()) return std::nullopt;
  grant(std::max(num_prefetches_, 1u));
  return Awaited{&bell, seen, &ring_->wake_fd(reader_), &producer};
}

bool Consumer::wait(std::chrono::nanoseconds slice, const ProcessHandle& producer) {
  const auto awaited = begin_wait(producer);
  if (!awaited) return false;
  const auto start = std::chrono::steady_clock::now();
  const bool sleeps = !awaited->bell->rings_within(awaited->seen, spin_.spins());
  const bool has_exited = sleeps && fkat::wait_any({&*awaited, 1}, slice).has_value();
  const auto waited = std::chrono::steady_clock::now() - start;
  spin_.learn(sleeps, waited);
  count_stall(waited);
  return has_exited;
}

std::optional<std::size_t> Consumer::wait_any(std::span<const Peer> rings,
                                              std::chrono::nanoseconds slice) {
  std::vector<Awaited> all;
  for (const auto& [consumer, producer] : rings) {
    const auto awaited = consumer->begin_wait(*producer);
    if (!awaited) return std::nullopt;
    all.push_back(*awaited);
  }
  const auto start = std::chrono::steady_clock::now();
  const auto exited = fkat::wait_any(all, slice);
  // Of one: it is the time of the one thread that waits.
  if (!rings.empty()) {
    rings[0].consumer->count_stall(std::chrono::steady_clock::now() - start);
  }
  return exited;
}

std::optional<Record> Consumer::try_acquire() {
  if (!reclaims_.empty()) {
    Record record = std::move(reclaims_.front());
    reclaims_.pop_front();
    return record;
  }
  const auto entry = next_entry();
  return entry ? std::optional(take(*entry)) : std::nullopt;
}

// The next record of the current pass, or request of any pass to unpin, if it is there; drops what
// else stands before it.
std::optional<IndexEntry> Consumer::next_entry() {
  while (has_entry()) {
    const IndexEntry entry = checked_entry();
    if (entry.pass == pass_ || entry.kind == RecordKind::kReclaim) return entry;
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
  if (!in_bounds(entry, ring_->geometry()) || entry.pass > pass_) {
    throw CorruptSegment("record " + std::to_string(acquired_seq_) +
                         " of the ring's index makes no sense");
  }
  return entry;
}

// How much of a published slot has memory, in whole pages: safe to page-lock.
std::uint64_t Consumer::checked_committed_nbytes(const IndexEntry& entry) const {
  static const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  // Relaxed: SYNC POINT A shows what the producer wrote before it published.
  const std::uint64_t nbytes =
      ring_->slot_line(entry.slot).committed_nbytes.load(std::memory_order_relaxed);
  if (nbytes < entry.nbytes || nbytes > ring_->geometry().slot_nbytes || nbytes % page != 0) {
    throw CorruptSegment("slot " + std::to_string(entry.slot) + " with a microbatch of " +
                         format_nbytes(entry.nbytes) + " claims to have " + std::to_string(nbytes) +
                         " bytes of memory");
  }
  return nbytes;
}

Record Consumer::take(const IndexEntry& entry) {
  Record record{};
  record.kind = entry.kind;
  record.position = entry.position;
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
      record.slot = entry.slot;
      record.committed_nbytes = checked_committed_nbytes(entry);
      record.owner = std::make_shared<const Lease>(ring_, entry.slot, outstanding_);
    }
    num_microbatches_.fetch_add(1, std::memory_order_relaxed);
    nbytes_.fetch_add(entry.nbytes, std::memory_order_relaxed);
    num_copies_.fetch_add(record.is_copy ? 1 : 0, std::memory_order_relaxed);
  } else if (entry.kind == RecordKind::kReclaim) {
    record.slot = entry.slot;
    mark_leased(entry.slot);
    // Not counted: a lease of the trainer's own, gone as soon as the slot is unpinned.
    record.owner = std::make_shared<const Lease>(ring_, entry.slot, nullptr);
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
  FKAT_CRASH_POINT("trainer.lease");
  SlotState state = SlotState::kReady;
  std::atomic<SlotState>& shared = ring_->slot_line(slot).state;
  if (shared.compare_exchange_strong(state, SlotState::kLeased, std::memory_order_relaxed)) {
    FKAT_CRASH_POINT("trainer.leased");
    ring_->trainer_line().freed.ring();
    return;
  }
  if (state == SlotState::kLeased) return;  // another reader was first
  throw CorruptSegment("slot " + std::to_string(slot) + " was published but is in state " +
                       std::to_string(static_cast<std::uint32_t>(state)));
}

void Consumer::advance() {
  FKAT_CRASH_POINT("trainer.advance");
  ++acquired_seq_;
  // Relaxed: for whoever looks at the ring from outside; nobody decides by it.
  ring_->reader_line(reader_).acquired_seq.store(acquired_seq_, std::memory_order_relaxed);
  grant(num_prefetches_);
}

}  // namespace fkat
