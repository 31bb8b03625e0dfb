// The world of explore_ring: what producer and readers share, and what each keeps for itself.

#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>

namespace fkat::ring_model {

using Byte = std::uint8_t;

inline constexpr Byte kMaxReaders = 2;
inline constexpr Byte kMaxSlots = 3;
inline constexpr Byte kMaxIndex = kMaxSlots + 2;

// Each stands for a change of csrc, which explore_ring.cpp names.
enum class Mistake {
  kNone,
  // What is looked at, rung and slept on.
  kReaderSleepsUnlooked,
  kReaderReadsBellLate,
  kProducerReadsBellLate,
  kNoRingOnPublish,
  kNoRingOnFree,
  kNoRingOnGrant,
  kStopRingsDemandOnly,
  kReaderSleepsUncompared,
  kDeathWakesNobody,
  kDeathWithoutAnotherLook,
  // Memory orders.
  kRingRelease,
  kWaiterRelaxed,
  kPublishRelaxed,
  kPublishedReadRelaxed,
  kFreeRelaxed,
  kStateReadRelaxed,
  kShareRelaxed,
  kShareRelease,
  // Orders of steps.
  kBytesAfterPublish,
  kReadyAfterPublish,
  kEntryAfterPublish,
  kReleaseBeforeLastRead,
  // Counts.
  kOneShare,
  kFirstReaderFrees,
  kFreeTwice,
  kForkedChildReleases,
  kReuseLeased,
  kLeaseEverySlot,
  kGrantTwice,
  kNoRoomForEnd,
  // Passes.
  kPassReleasesNothing,
  kPassNotReadAgain,
};

struct Scenario {
  Byte num_readers = 1;
  Byte num_slots = 2;
  std::array<Byte, kMaxReaders> max_leases{1, 1};
  std::array<Byte, 2> lengths{2, 1};  // microbatches of the passes
  Byte num_passes = 2;
  Byte num_prefetches = 1;
  bool kills = false;  // the producer, at any step
  bool stops = false;  // Ring::stop, from a thread of its own
  bool keeps = false;  // the last reader never drops a lease
  Mistake mistake = Mistake::kNone;

  bool has(Mistake other) const { return mistake == other; }
  // The least that Geometry::index_capacity promises, which rounds it up.
  Byte index_capacity() const {
    return static_cast<Byte>(num_slots + (has(Mistake::kNoRoomForEnd) ? 0 : 2));
  }
};

// Doorbells, by number; kPublished + r is that of reader r.
enum BellNumber : Byte { kNoBell, kDemand, kFreed, kPublished, kNumBells = kPublished + 2 };

// One process waits at each. What matters of `rings` is whether it is what the waiter saw.
struct Bell {
  Byte seen;  // a Seen
  Byte waiters;
};
enum Seen : Byte { kNotLooked, kSame, kRang };

// Where a thread is: the access to shared memory that it does next.
enum At : Byte {
  // Doorbell::wait of the producer, wait_any of a reader.
  kJoin,
  kCompare,
  kAsleep,
  kLeave,
  // Producer.
  kReadBell,     // await_pass, await_grant and claim: `rings()`
  kReadStop,     // and `stop`; status
  kReadVersion,  // and `version`; status
  kReadEpoch,    // await_pass
  kReadStart,
  kReadVersionAgain,
  kReadGranted,  // await_grant: granted, one reader a step
  kReadState,    // claim: SlotPool::look, one slot a step, and set_writing
  kWriteBytes,   // FrameWriter::write
  kSetReady,     // append_slot
  kWriteEntry,   // append
  kPublish,      // append, to its end
  kExited,
  kKilled,
  // Consumer, and Reader::wait_until of bind_consumer.cpp around it.
  kLook,          // next_entry: has_entry, and the entry that it finds
  kCopy,          // take: the private copy
  kMarkLeased,    // take: mark_leased
  kReleaseShare,  // Ring::release_share, of what was copied or is dropped
  kAdvance,       // advance
  kReadOwnBell,   // wait: `rings()`
  kLookOnceMore,  // wait: has_record
  kGrantForWait,  // wait: grant
  kBeginOdd,      // begin_pass
  kWriteEpoch,
  kWriteStart,
  kBeginEven,
  kAllow,
  kEnded,  // has delivered the end of the pass
  kSawExit,
  // Lease.
  kNoLease,
  kHeld,
  kDrop,  // ~Lease: Ring::release_share
  kReadLate,
  kDropAgain,
  kDropped,
};

// What every thread has: stores that others do not see yet, and doorbells to ring.
struct Thread {
  At at;
  std::array<Byte, 3> bells;  // the first is being rung; 0 for none
  Byte ring_at;
  std::array<Byte, 3> stores;  // in their order: a Store and its argument; 0 for none

  auto operator<=>(const Thread&) const = default;
};
enum RingAt : Byte { kAdd, kLookForWaiters, kWake };
enum Store : Byte { kNoStore, kStorePublished, kStoreGranted, kStoreFree, kAddRing, kAddWaiter };

enum SlotState : Byte { kFree, kWriting, kReady, kLeased };

// How far the producer is shown that a reader has read a slot's bytes, by happens-before.
enum Shown : Byte { kToProducer, kToNobody, kByShare, kByFree };

struct Slot {
  Byte state;
  Byte readers_left;
  Byte holders;  // a bit for each reader that has not released it: what readers_left should count
  Byte content;  // the microbatch whose bytes these are
  Byte covered_by;  // its bytes are shown by this published_seq and later ones
  Byte next_seq;    // that of the record behind the one that published it
  std::array<Byte, kMaxReaders> shown;
};

struct Entry {
  Byte slot;
  Byte pass;
  Byte position;  // kEnd for the end of the pass
  Byte seq;
  Byte covered_by;  // as above; 0 for never written
};
inline constexpr Byte kEnd = 0xff;

struct Lease {
  Thread thread;
  Byte slot;
  Byte content;

  auto operator<=>(const Lease&) const = default;
};

enum Loop : Byte { kAwaitPass, kAwaitGrant, kClaim };

struct Producer {
  Thread thread;
  Byte loop;      // a Loop
  Byte pass;      // 0 for none yet
  Byte version;   // as read
  Byte epoch;     // as read
  Byte position;  // of the microbatch that it makes
  Byte looks_at;  // slot or reader
  Byte claimed;
  Byte published_seq;
  Byte shown_seq;  // entries below it were read by all, as it is shown by happens-before
};

struct Reader {
  Thread thread;
  Byte attempt;  // which look it is at, or goes back to
  Byte pass;
  Byte acquired_seq;
  Byte granted_seq;
  Byte delivered;  // of the pass
  Byte is_copy;
  std::array<Lease, kMaxSlots> lease;
};

struct State {
  // Shared.
  std::array<Slot, kMaxSlots> slot;
  std::array<Entry, kMaxIndex> index;
  std::array<Bell, kNumBells> bell;
  std::array<Byte, kMaxReaders> granted;
  Byte published;
  Byte version, epoch, start;
  Byte stop;
  // Of the processes.
  Producer producer;
  std::array<Reader, kMaxReaders> reader;
  Thread stopper;
};

inline Byte microbatch(Byte pass, Byte position) {
  return static_cast<Byte>(16 * pass + position);
}

}  // namespace fkat::ring_model
