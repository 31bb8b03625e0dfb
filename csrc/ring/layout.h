// The bytes of a ring. Positions and types only: no behaviour, no pointers.
//
//     0            +----------------------+
//                  | RingHeader           |  geometry; version stored last
//                  +----------------------+
//                  | ProducerLine         |  written by the producer
//                  +----------------------+
//                  | TrainerLine          |  written by the trainer: which pass to produce
//                  +----------------------+
//                  | ReaderLine   x R     |  written by reader r, but for its doorbell
//                  +----------------------+
//                  | SlotLine     x S     |  who holds slot s
//                  +----------------------+
//                  | IndexEntry   x I     |  records in order of sequence; I is a power of two
//                  +----------------------+
//                  | error text           |  kErrorNbytes, reserved: an error always fits
//                  +----------------------+  multiple of kSlotAlignment
//                  | slot 0               |  slot_nbytes of address space each; only what was
//                  | slot 1 ...           |  written costs memory
//                  +----------------------+
//
// The pool of slots and the index are kept apart: the index says in which order slots were
// published, while a slot is free again as soon as its last reader releases it, in any order.
//
// This layout is a promise between two processes, which may run different builds: change
// kLayoutVersion with it. Lines written by different sides are 128 bytes apart, because CPUs fetch
// cache lines in pairs.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "base/bytes.h"
#include "shm/doorbell.h"

namespace fkat {

inline constexpr std::uint64_t kMagic = 0x676e6972'74616b66;  // "fkatring" in memory
inline constexpr std::uint32_t kLayoutVersion = 2;
inline constexpr std::size_t kLine = 128;
inline constexpr std::uint64_t kErrorNbytes = 64 * KiB;
inline constexpr std::uint64_t kSlotAlignment = 2 * MiB;  // a huge page, and a unit of pinning
inline constexpr std::uint32_t kMaxSlots = 4096;
inline constexpr std::uint32_t kMaxReaders = 64;

struct alignas(kLine) RingHeader {
  std::uint64_t magic;
  std::atomic<std::uint32_t> version;  // 0 until everything else stands
  std::uint32_t num_slots;
  std::uint32_t num_readers;
  std::uint32_t index_capacity;
  std::uint64_t slot_nbytes;
  std::uint64_t total_nbytes;
};

struct alignas(kLine) ProducerLine {
  std::atomic<std::uint64_t> published_seq;  // records published since the ring was made
  std::atomic<std::int64_t> length;          // len() of the source: see Length

  // What the producer does and since when, in one word so that the two belong together: nanoseconds
  // of CLOCK_MONOTONIC, whose lowest 3 bits are the Activity. Written and read relaxed: it is for
  // the reader of an error message, and nothing is decided by it.
  std::atomic<std::uint64_t> activity;
};

enum class Activity : std::uint64_t {
  kStarting = 0,       // the process starts; the clock runs from the making of the ring
  kBuilding = 1,       // in the user's factory
  kReading = 2,        // in the user's data: iterating, collating, pickling
  kWriting = 3,        // backs a slot with memory, or copies into it
  kAwaitingSlot = 4,   // for a free slot, or for room in the budget
  kAwaitingGrant = 5,  // for the trainer to want another microbatch
  kAwaitingPass = 6,   // for the trainer to want another pass
};
inline constexpr std::uint64_t kActivityMask = 7;

// What ProducerLine::length says when it is not a length.
struct Length {
  static constexpr std::int64_t kNotAskedYet = -1;  // the source is not built yet
  static constexpr std::int64_t kUnknown = -2;      // the source has no len()
};

// Which pass over the data to produce. A sequence lock: `version` is odd while being written.
struct alignas(kLine) TrainerLine {
  std::atomic<std::uint64_t> version;
  std::atomic<std::uint64_t> epoch;
  std::atomic<std::uint64_t> start;  // position of the first microbatch wanted
  std::atomic<std::uint32_t> stop;   // 1: no reader will ask again
  Doorbell demand;                   // rung on a grant, a new pass, stop
  Doorbell freed;                    // rung when a slot becomes free, and on a new pass, stop
};

struct alignas(kLine) ReaderLine {
  std::atomic<std::uint64_t> acquired_seq;  // records this reader has taken
  std::atomic<std::uint64_t> granted_seq;   // the producer may publish sequences below this
  alignas(kLine) Doorbell published;        // rung by the producer on every publication
};

// FREE -> WRITING -> READY -> LEASED -> FREE; WRITING -> FREE when abandoned, READY -> FREE when
// the ring is retired.
enum class SlotState : std::uint32_t { kFree = 0, kWriting = 1, kReady = 2, kLeased = 3 };

struct alignas(kLine) SlotLine {
  std::atomic<SlotState> state;
  std::atomic<std::uint32_t> readers_left;  // set at publish; the reader that makes it 0 frees

  // How much of the slot is backed by memory. Set by the producer before it publishes the slot.
  std::atomic<std::uint64_t> committed_nbytes;

  // How much of the slot the trainer has page-locked for a device to read; 0 for nothing. While it
  // is not 0 the producer must not give memory of the slot back: the file would get new pages, and
  // the device would go on reading the old ones.
  //
  // Pinning: only while the slot is LEASED, and set before anything is page-locked; SYNC POINT F
  // then shows it to the producer that sees the slot FREE. Unpinning: at any time.
  // SYNC POINT U: nothing is page-locked any more (the trainer's release-store of 0) before the
  // producer gives memory back (it has acquire-loaded that 0).
  std::atomic<std::uint64_t> pinned_nbytes;
};

// kReclaim hands over a slot without a microbatch: the producer asks the trainer to unpin it,
// because it needs the memory elsewhere. Such a slot goes the way of every other one.
enum class RecordKind : std::uint32_t { kMicrobatch = 1, kEnd = 2, kError = 3, kReclaim = 4 };

struct IndexEntry {
  RecordKind kind;
  std::uint32_t slot;      // kMicrobatch and kReclaim only
  std::uint64_t pass;      // readers drop what belongs to an older one, but for kReclaim
  std::uint64_t position;  // of the microbatch in its epoch; for kEnd, how many there were
  std::uint64_t nbytes;    // of the frame in the slot, or of the error text
  std::uint64_t seq;       // its own sequence
  std::uint64_t checksum;  // of the fields above
  std::uint64_t unused[2];
};

static_assert(sizeof(IndexEntry) == 64);
static_assert(sizeof(RingHeader) == kLine && sizeof(ProducerLine) == kLine);
static_assert(sizeof(TrainerLine) == kLine && sizeof(ReaderLine) == 2 * kLine);
static_assert(sizeof(SlotLine) == kLine);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(std::atomic<SlotState>::is_always_lock_free);
static_assert(std::is_standard_layout_v<RingHeader> && std::is_standard_layout_v<TrainerLine>);
static_assert(std::is_standard_layout_v<ReaderLine> && std::is_standard_layout_v<SlotLine>);
static_assert(std::is_trivially_copyable_v<IndexEntry>);

// The shape of a ring, and where its parts stand. A pure function of three numbers.
struct Geometry {
  std::uint32_t num_slots;
  std::uint32_t num_readers;
  std::uint64_t slot_nbytes;  // multiple of kSlotAlignment

  std::uint32_t index_capacity() const;
  std::uint64_t readers_offset() const { return 3 * kLine; }
  std::uint64_t slot_lines_offset() const {
    return readers_offset() + num_readers * sizeof(ReaderLine);
  }
  std::uint64_t index_offset() const { return slot_lines_offset() + num_slots * sizeof(SlotLine); }
  std::uint64_t error_offset() const {
    return index_offset() + index_capacity() * sizeof(IndexEntry);
  }
  std::uint64_t slots_offset() const {
    return round_up(error_offset() + kErrorNbytes, kSlotAlignment);
  }
  // Nothing when the numbers are out of range or their product overflows.
  std::optional<std::uint64_t> total_nbytes() const;
};

}  // namespace fkat
