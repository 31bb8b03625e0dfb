// Every interleaving of a producer that needs memory and a trainer that page-locks slots: memory is
// never given back under a page-lock, no slot and no request is lost, and nobody waits for ever.

#include "check.h"
#include "reclaim_producer.h"
#include "reclaim_trainer.h"

namespace fkat::reclaim {
namespace {

// Three slots in a budget of three units. The first pass wants microbatches of 1, 1, 1 and 3 units,
// the second, which the trainer may begin whenever it likes, one of 3. The trainer page-locks any
// slot that it holds, or not, may keep two for ever, and may unpin one that it does not hold; what
// it is asked for it unpins and gives back, or, if it `refuses`, gives back page-locked.
struct ReclaimModel {
  using State = reclaim::State;

  Rules rules;

  State initial() const {
    State state{};
    state.granted = rules.num_prefetches;
    return state;
  }

  template <typename Emit>
  bool expand(const State& state, const Emit& emit) const {
    const TrainerModel trainer{rules};
    bool others_stuck = true;
    const auto emit_other = [&](const State& next) {
      others_stuck = false;
      emit(next);
    };
    ProducerModel{rules}.step(state, emit_other);
    trainer.step(state, emit_other);
    // What the trainer may do or leave must not be what everybody waits for.
    trainer.begin_pass(state, emit);
    trainer.unpin_unasked(state, emit);
    for (std::size_t i = 0; i < state.lease.size(); ++i) trainer.step_lease(state, i, emit);
    const bool finished = state.delivered == kLengths[state.pass];
    if (others_stuck && !finished) throw Violation{"deadlock"};
    if (others_stuck) check_no_slot_is_lost(state);
    return finished;
  }

  static void check_no_slot_is_lost(const State& s) {
    for (std::uint8_t i = 0; i < kSlots; ++i) {
      if (s.slot[i].state != kFree && !is_held(s, i)) throw Violation{"a slot is lost"};
    }
  }
};

TEST(memory_is_never_given_back_under_a_page_lock_and_nobody_waits_for_ever) {
  for (const std::uint8_t num_prefetches : {std::uint8_t{0}, std::uint8_t{1}}) {
    check_correct("reclaim", ReclaimModel{{.num_prefetches = num_prefetches}});
    check_correct("reclaim, refused",
                  ReclaimModel{{.num_prefetches = num_prefetches, .refuses = true}});
  }
}

void check_found(Mistake mistake, const char* name, const char* expected, bool refuses = false) {
  check_caught(name, ReclaimModel{{mistake, 0, refuses}}, expected);
}

TEST(every_mistake_of_producer_or_trainer_is_found) {
  using enum Mistake;
  const char* torn = "memory was given back under a page-lock";
  check_found(kDecommitPinned, "reclaim: gives back what is page-locked", torn);
  check_found(kPinAfterRelease, "reclaim: page-locks what it does not hold", torn);
  check_found(kUnpinAfterSayingSo, "reclaim: says too early that it has unpinned", torn);
  check_found(kDropRequest, "reclaim: a new pass drops a request", "a request was lost");
  check_found(kSkipRequest, "reclaim: a new pass skips a request", "deadlock");
  check_found(kAskAgain, "reclaim: asks again", "a slot was asked for twice", true);
  check_found(kRefusedSlotCounts, "reclaim: waits for what was refused", "deadlock", true);
  check_found(kGrantMicrobatches, "reclaim: grants microbatches, not records", "deadlock");
}

}  // namespace
}  // namespace fkat::reclaim
