// Every interleaving of the hand-over of slots, also when the producer is killed at any step.

#include <array>
#include <cstdint>

#include "check.h"
#include "explorer.h"

namespace fkat {
namespace {

enum class RingMistake {
  kNone,
  kPublishBeforeIndex,       // published_seq moves before the entry stands
  kPublishBeforeBytes,       // and before the slot is written
  kReadyAfterPublish,        // the slot is marked READY too late
  kReleaseBeforeReads,       // a lease gives its slot back, then reads it
  kReuseAtAcquire,           // the producer takes a slot that is leased
  kLeaseEverySlot,           // no slot is kept back for private copies
  kDeathWithoutAnotherLook,  // the trainer sees the exit and does not look at the ring again
};

// Two slots, three microbatches, one producer that may be killed at any step, one consumer that may
// keep each microbatch for ever, as a lease (at most one) or as a private copy. A slot's bytes are
// two halves, written and read one at a time. The doorbell is not modelled: who waits for
// something just has no step until it is there, which the model above entitles us to.
struct RingModel {
  static constexpr int kSlots = 2;
  static constexpr int kMicrobatches = 3;

  enum SlotState : std::uint8_t { kFree, kWriting, kReady, kLeased };
  enum ProducerAt : std::uint8_t {
    kClaim,
    kMarkWriting,
    kWriteFirst,
    kWriteSecond,
    kSetReaders,
    kMarkReady,
    kWriteIndex,
    kPublish,
    kProducerDone,
    kProducerKilled
  };
  enum ConsumerAt : std::uint8_t {
    kLookForExit,
    kLookForRecord,
    kMarkLeased,
    kCopyFirst,
    kCopySecond,
    kCopyRelease,
    kCopyFree,
    kConsumerDone
  };
  enum LeaseAt : std::uint8_t { kNoLease, kReadFirst, kReadSecond, kHeld, kRelease, kSetFree };

  struct Slot {
    std::uint8_t state;
    std::uint8_t readers_left;
    std::uint8_t first;  // which microbatch each half belongs to, from 1
    std::uint8_t second;
  };
  struct Lease {
    std::uint8_t at;
    std::uint8_t slot;
    std::uint8_t microbatch;
  };
  struct State {
    std::array<Slot, kSlots> slot;
    std::array<std::uint8_t, 4> index;  // slot number + 1, by sequence
    std::uint8_t published;
    std::uint8_t producer_at;
    std::uint8_t writes;   // microbatch that the producer makes, from 1
    std::uint8_t claimed;  // its slot
    std::uint8_t consumer_at;
    std::uint8_t acquired;
    std::uint8_t took;  // slot that the consumer is taking
    std::uint8_t saw_exit;
    std::array<Lease, kSlots> lease;
  };

  RingMistake mistake = RingMistake::kNone;

  State initial() const {
    State state{};
    state.writes = 1;
    return state;
  }

  template <typename Emit>
  bool expand(const State& state, const Emit& emit) const {
    bool others_stuck = true;
    const auto emit_other = [&](const State& next) {
      others_stuck = false;
      emit(next);
    };
    step_producer(state, emit_other);
    step_consumer(state, emit_other);
    // A user may hold a lease for ever: giving one back must not be what everybody waits for.
    for (std::size_t i = 0; i < state.lease.size(); ++i) {
      others_stuck &= state.lease[i].at == kNoLease || state.lease[i].at == kHeld;
      step_lease(state, i, emit);
    }
    const bool finished = state.consumer_at == kConsumerDone;
    if (others_stuck && !finished) throw Violation{"deadlock"};
    return finished;
  }

  // The producer's order of steps: the one in csrc, or a mistaken one.
  ProducerAt after(std::uint8_t step) const {
    using enum RingMistake;
    switch (step) {
      case kMarkWriting:
        return mistake == kPublishBeforeBytes ? kSetReaders : kWriteFirst;
      case kWriteFirst:
        return kWriteSecond;
      case kWriteSecond:
        return mistake == kPublishBeforeBytes ? kClaim : kSetReaders;
      case kSetReaders:
        return mistake == kReadyAfterPublish ? kWriteIndex : kMarkReady;
      case kMarkReady:
        return mistake == kReadyAfterPublish    ? kClaim
               : mistake == kPublishBeforeIndex ? kPublish
                                                : kWriteIndex;
      case kWriteIndex:
        return mistake == kPublishBeforeIndex ? kClaim : kPublish;
      default:  // kPublish
        return mistake == kPublishBeforeIndex   ? kWriteIndex
               : mistake == kPublishBeforeBytes ? kWriteFirst
               : mistake == kReadyAfterPublish  ? kMarkReady
                                                : kClaim;
    }
  }

  bool claimable(const Slot& slot) const {
    return slot.state == kFree ||
           (mistake == RingMistake::kReuseAtAcquire && slot.state == kLeased);
  }

  template <typename Emit>
  void step_producer(State s, const Emit& emit) const {
    if (s.producer_at == kProducerDone || s.producer_at == kProducerKilled) return;
    State killed = s;
    killed.producer_at = kProducerKilled;
    if (s.producer_at == kClaim) {
      for (std::uint8_t i = 0; i < kSlots; ++i) {
        if (!claimable(s.slot[i])) continue;
        State next = s;
        next.claimed = i;
        next.producer_at = kMarkWriting;
        emit(next);
        emit(killed);
      }
      // Without a free slot it waits. That the kernel may kill it there too is not a way out of a
      // deadlock, so it is no step here.
      return;
    }
    emit(killed);
    const std::uint8_t step = s.producer_at;
    Slot& slot = s.slot[s.claimed];
    if (step == kMarkWriting) slot.state = kWriting;
    if (step == kWriteFirst) slot.first = s.writes;
    if (step == kWriteSecond) slot.second = s.writes;
    if (step == kSetReaders) slot.readers_left = 1;
    if (step == kMarkReady) slot.state = kReady;
    if (step == kWriteIndex) s.index[s.writes - 1] = static_cast<std::uint8_t>(s.claimed + 1);
    if (step == kPublish) ++s.published;
    s.producer_at = after(step);
    if (s.producer_at == kClaim) {
      s.producer_at = s.writes == kMicrobatches ? kProducerDone : kClaim;
      s.writes = static_cast<std::uint8_t>(s.writes + (s.writes < kMicrobatches ? 1 : 0));
    }
    emit(s);
  }

  std::size_t num_leases(const State& s) const {
    std::size_t count = 0;
    for (const Lease& lease : s.lease) count += lease.at != kNoLease ? 1 : 0;
    return count;
  }

  template <typename Emit>
  void step_consumer(State s, const Emit& emit) const {
    const auto microbatch = static_cast<std::uint8_t>(s.acquired + 1);
    switch (s.consumer_at) {
      case kLookForExit: {
        const bool over = s.producer_at == kProducerKilled || s.producer_at == kProducerDone;
        if (over && mistake == RingMistake::kDeathWithoutAnotherLook) {
          s.consumer_at = kConsumerDone;
          check_all_delivered(s);
          return emit(s);
        }
        // Asleep until there is something to see: the exit, or a record.
        if (!over && s.published == s.acquired) return;
        s.saw_exit = over ? 1 : 0;
        s.consumer_at = kLookForRecord;
        return emit(s);
      }
      case kLookForRecord:
        if (s.published != s.acquired) {
          if (s.index[s.acquired] == 0) throw Violation{"an entry was read before it stood"};
          s.took = static_cast<std::uint8_t>(s.index[s.acquired] - 1);
          s.consumer_at = kMarkLeased;
        } else {
          s.consumer_at = s.saw_exit != 0 ? kConsumerDone : kLookForExit;
          if (s.consumer_at == kConsumerDone) check_all_delivered(s);
        }
        return emit(s);
      case kMarkLeased: {
        if (s.slot[s.took].state != kReady) throw Violation{"a published slot was not READY"};
        s.slot[s.took].state = kLeased;
        const std::size_t most = mistake == RingMistake::kLeaseEverySlot ? kSlots : kSlots - 1;
        if (num_leases(s) >= most) {
          s.consumer_at = kCopyFirst;
          return emit(s);
        }
        for (Lease& lease : s.lease) {
          if (lease.at != kNoLease) continue;
          const bool early = mistake == RingMistake::kReleaseBeforeReads;
          lease = {early ? kRelease : kReadFirst, s.took, microbatch};
          break;
        }
        return emit(next_record(s));
      }
      case kCopyFirst:
        check_read(s.slot[s.took].first, microbatch);
        s.consumer_at = kCopySecond;
        return emit(s);
      case kCopySecond:
        check_read(s.slot[s.took].second, microbatch);
        s.consumer_at = kCopyRelease;
        return emit(s);
      case kCopyRelease:
        check_last_share(--s.slot[s.took].readers_left);
        s.consumer_at = kCopyFree;
        return emit(s);
      case kCopyFree:
        s.slot[s.took].state = kFree;
        return emit(next_record(s));
      default:
        return;
    }
  }

  static State next_record(State s) {
    ++s.acquired;
    s.consumer_at = kLookForExit;
    return s;
  }

  // Another thread drops its views of the slot at any time, or never.
  template <typename Emit>
  void step_lease(State s, std::size_t i, const Emit& emit) const {
    const bool early = mistake == RingMistake::kReleaseBeforeReads;
    Lease& lease = s.lease[i];
    Slot& slot = s.slot[lease.slot];
    switch (lease.at) {
      case kReadFirst:
        check_read(slot.first, lease.microbatch);
        lease.at = kReadSecond;
        return emit(s);
      case kReadSecond:
        check_read(slot.second, lease.microbatch);
        if (early)
          lease = {};
        else
          lease.at = kHeld;
        return emit(s);
      case kHeld:
        check_read(slot.first, lease.microbatch);  // still, after any number of other steps
        check_read(slot.second, lease.microbatch);
        lease.at = kRelease;
        return emit(s);
      case kRelease:
        check_last_share(--slot.readers_left);
        lease.at = kSetFree;
        return emit(s);
      case kSetFree:
        slot.state = kFree;
        if (early)
          lease.at = kReadFirst;
        else
          lease = {};
        return emit(s);
      default:
        return;
    }
  }

  static void check_read(std::uint8_t half, std::uint8_t microbatch) {
    if (half != microbatch) throw Violation{"read while written, or out of order"};
  }
  static void check_last_share(std::uint8_t readers_left) {
    if (readers_left != 0) throw Violation{"a slot was released twice"};
  }
  static void check_all_delivered(const State& s) {
    if (s.acquired != s.published) throw Violation{"a published microbatch was not delivered"};
    const bool killed = s.producer_at == kProducerKilled;
    if (!killed && s.acquired != kMicrobatches) throw Violation{"a microbatch is missing"};
  }
};

TEST(slots_are_handed_over_whole_in_order_and_without_deadlock) {
  check_correct("ring", RingModel{});
}

TEST(every_mistake_in_the_hand_over_is_found) {
  using enum RingMistake;
  const char* torn = "read while written, or out of order";
  check_caught("ring: publishes before the index entry", RingModel{kPublishBeforeIndex},
               "an entry was read before it stood");
  check_caught("ring: publishes before the bytes", RingModel{kPublishBeforeBytes}, torn);
  check_caught("ring: READY after publication", RingModel{kReadyAfterPublish},
               "a published slot was not READY");
  check_caught("ring: releases before it reads", RingModel{kReleaseBeforeReads}, torn);
  check_caught("ring: reuses a leased slot", RingModel{kReuseAtAcquire},
               "a published slot was not READY");
  check_caught("ring: leases every slot", RingModel{kLeaseEverySlot}, "deadlock");
  check_caught("ring: takes the exit for the end", RingModel{kDeathWithoutAnotherLook},
               "a published microbatch was not delivered");
}

}  // namespace
}  // namespace fkat
