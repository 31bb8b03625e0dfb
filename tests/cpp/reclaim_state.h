// The world of explore_reclaim: what producer and trainer share, and what each keeps for itself.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace fkat::reclaim {

enum class Mistake {
  kNone,
  kDecommitPinned,      // the producer does not look at what is page-locked
  kPinAfterRelease,     // the trainer page-locks a slot that it no longer holds
  kUnpinAfterSayingSo,  // pinned_nbytes is 0 before the page-lock ends
  kDropRequest,         // a new pass drops a request like a microbatch of the old one
  kSkipRequest,         // a new pass skips a request
  kAskAgain,            // the producer forgets that it was refused
  kRefusedSlotCounts,   // and waits for memory that will not come
  kGrantMicrobatches,   // grants count microbatches, while requests use them up too
};

inline constexpr std::uint8_t kSlots = 3;
inline constexpr std::uint8_t kBudget = 3;
inline constexpr std::uint8_t kMaxLeases = kSlots - 1;
inline constexpr std::uint8_t kIndex = 8;
inline constexpr std::array<std::array<std::uint8_t, 4>, 2> kSizes{{{1, 1, 1, 3}, {3}}};
inline constexpr std::array<std::uint8_t, 2> kLengths{4, 1};

enum SlotState : std::uint8_t { kFree, kReady, kLeased };
enum Unpinning : std::uint8_t { kNotAsked, kAsked, kRefused };
enum ProducerAt : std::uint8_t { kAwaitGrant, kLookAtState, kLookAtPin, kDecide, kPublish, kSleep };
enum TrainerAt : std::uint8_t { kNext, kDrain, kUnlock, kSayUnlocked, kGiveBack, kStop, kStopped };
enum LeaseAt : std::uint8_t { kNoLease, kTaken, kSaidLocked, kHeld, kPinLate };

struct Slot {
  std::uint8_t state;
  std::uint8_t committed;
  std::uint8_t pinned;  // what the trainer says
  std::uint8_t locked;  // what the device's driver did
  std::uint8_t seen_state;
  std::uint8_t seen_pinned;
  std::uint8_t unpinning;
  std::uint8_t num_asked;  // since it was last published with a microbatch
};
struct Entry {
  std::uint8_t slot;
  std::uint8_t pass;
  std::uint8_t is_request;
};
struct Lease {
  std::uint8_t at;
  std::uint8_t slot;
};
struct State {
  std::array<Slot, kSlots> slot;
  std::array<Entry, kIndex> index;
  std::array<Lease, kSlots> lease;
  std::array<std::uint8_t, kSlots> kept;  // requests of an older pass, slot + 1
  std::uint8_t published, granted, rang;
  std::uint8_t producer_at, producer_pass, writes, looks_at, claimed;
  std::uint8_t trainer_at, pass, acquired, delivered, took;
  std::uint8_t num_requests;  // read, where a mistake needs it
  std::uint8_t has_stopped;   // the one unpinning that nobody asked for is done
};

struct Rules {
  Mistake mistake = Mistake::kNone;
  std::uint8_t num_prefetches = 1;
  bool refuses = false;  // the trainer gives back page-locked what it should unpin
};

inline bool is_held(const State& s, std::uint8_t slot) {
  return std::any_of(s.lease.begin(), s.lease.end(), [&](const Lease& lease) {
    return lease.at != kNoLease && lease.slot == slot;
  });
}

}  // namespace fkat::reclaim
