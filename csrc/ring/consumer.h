// Consumer: one reading end of a ring, in the trainer. Called from one thread at a time.
//
//     begin_pass -> try_acquire, or wait and try again -> Record ... -> end or error -> begin_pass
//
// Records of an older pass are dropped on the way: leaving a loop early costs nothing but what was
// prefetched. Only the producer's requests to unpin a slot (kReclaim) are delivered whatever their
// pass, in their order: who pins slots does it while it holds a microbatch, and unpins when one
// comes as kReclaim, before dropping that record (it may have been unpinned since it was asked
// for). Who never pins never sees one. Microbatches are handed out as views of their slot, at most
// `max_leases` at a time; beyond that as private copies, so that a user who keeps every tensor
// never stops the ring.

#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "ring/ring.h"
#include "shm/spin.h"

namespace fkat {

// What the producer published next.
struct Record {
  RecordKind kind;
  std::uint64_t position;
  std::span<std::byte> bytes;         // kMicrobatch: the frame, not yet checked
  std::shared_ptr<const void> owner;  // kMicrobatch: keeps `bytes` valid; kReclaim: the slot
  bool is_copy;                       // kMicrobatch: private memory, not the slot
  std::string error;                  // kError

  // Which slot is held: kReclaim, and kMicrobatch unless it is a copy; else 0.
  std::uint32_t slot = 0;
  // How much of it is backed by memory, in whole pages: kMicrobatch unless it is a copy; else 0.
  std::uint64_t committed_nbytes = 0;
};

// What a reader has seen since it was made.
struct ReaderStats {
  std::uint64_t num_microbatches = 0;
  std::uint64_t nbytes = 0;
  std::uint64_t num_copies = 0;       // private copies, because max_leases were out
  std::chrono::nanoseconds stall{0};  // spent in wait()
};

class Consumer {
 public:
  // `num_prefetches` microbatches at most are published ahead of this reader; with 0 the next one
  // is produced only while somebody waits for it. Throws ArgumentError.
  Consumer(std::shared_ptr<Ring> ring, std::uint32_t reader, std::uint32_t num_prefetches,
           std::uint32_t max_leases);

  // The window is that of `num_rings` rings together, which are read in turn: rounded up.
  void share_window(std::uint32_t num_rings);

  // Asks for a new pass; what was published for older ones will be dropped. Throws CorruptSegment.
  void begin_pass(std::uint64_t epoch, std::uint64_t start);

  // The next record of the current pass, or request to unpin, if it is there. Throws
  // CorruptSegment.
  std::optional<Record> try_acquire();

  // Says that somebody waits, which is what a window of 0 produces for, then sleeps until there may
  // be something to see; at most one slice. Whether `producer` was seen to have exited: what it
  // published last may still be there.
  bool wait(std::chrono::nanoseconds slice, const ProcessHandle& producer = {});

  // The same at several rings at once, without spinning: the number of one whose producer was seen
  // to have exited.
  struct Peer {
    Consumer* consumer;
    const ProcessHandle* producer;
  };
  static std::optional<std::size_t> wait_any(std::span<const Peer> rings,
                                             std::chrono::nanoseconds slice);

  // What the producer announced, or a code of Length.
  std::int64_t length() const;
  bool has_record() const;

  std::uint32_t outstanding_leases() const;
  ReaderStats stats() const;  // from any thread

 private:
  void count_stall(std::chrono::nanoseconds waited);
  std::optional<Awaited> begin_wait(const ProcessHandle& producer);
  bool has_entry() const;
  IndexEntry checked_entry() const;
  std::uint64_t checked_committed_nbytes(const IndexEntry& entry) const;
  Record take(const IndexEntry& entry);
  void mark_leased(std::uint32_t slot);
  std::optional<IndexEntry> next_entry();
  void advance();
  void grant(std::uint64_t num_ahead);
  void allow(std::uint64_t granted_seq);

  std::shared_ptr<Ring> ring_;
  std::uint32_t reader_;
  std::uint32_t num_prefetches_;
  std::uint32_t max_leases_;
  std::uint64_t pass_ = 0;
  std::uint64_t acquired_seq_ = 0;
  std::uint64_t granted_seq_ = 0;
  std::deque<Record> reclaims_;  // of older passes, not yet delivered
  std::shared_ptr<std::atomic<std::uint32_t>> outstanding_;
  // Relaxed: numbers for people, from the one thread that reads the ring.
  std::atomic<std::uint64_t> num_microbatches_{0};
  std::atomic<std::uint64_t> nbytes_{0};
  std::atomic<std::uint64_t> num_copies_{0};
  std::atomic<std::chrono::nanoseconds::rep> stall_ns_{0};
  AdaptiveSpin spin_;
};

}  // namespace fkat
