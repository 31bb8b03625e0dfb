// Every interleaving of a ring that is retired, a lease that is taken and dropped, and a page-lock:
// the slot's memory goes back, and never while anybody looks into it (SYNC POINT G in ring.h).

#include <array>
#include <cstdint>

#include "check.h"
#include "explorer.h"

namespace fkat {
namespace {

enum class RetireMistake {
  kNone,
  kWeakerOrder,         // release and acquire: a store may come after the loads behind it
  kLookFirst,           // looks, then stores
  kReleaseForgets,      // to look, when the lease is dropped
  kUnpinForgets,        // to look, when the page-lock ends
  kIgnoresLease,        // looks not for one
  kIgnoresPin,          // looks not for a page-lock
  kPinnedBeforeState,   // looks for the page-lock first
  kReadyWithoutTaking,  // gives a READY slot back as it is
};

// One slot, READY in the beginning. Actor 0 retires the ring; actor 1 acquires the slot, unless it
// comes too late, and releases it; actor 2 page-locks it, whenever it is leased, and unlocks it.
// Each stores what makes one of the three conditions true, then looks, as Ring::give_back does.
struct RetireModel {
  enum Actor : std::uint8_t { kRetirer, kReader, kPinner, kActors };
  enum SlotState : std::uint8_t { kReady, kLeased, kFree };
  enum At : std::uint8_t {
    kIdle,
    kHolding,  // of the reader: a lease; of the pinner: a page-lock
    kStore,
    kLookRetired,
    kLookState,
    kLookPinned,
    kPunch,
    kStoreLate,
    kDone
  };

  struct State {
    std::array<std::uint8_t, kActors> at;
    std::array<std::uint8_t, kActors> is_buffered;  // its store, which nobody else sees yet
    std::uint8_t is_retired;
    std::uint8_t slot;
    std::uint8_t is_pinned;
    std::uint8_t num_pins_left;
    std::uint8_t is_punched;
  };

  RetireMistake mistake = RetireMistake::kNone;

  State initial() const {
    State state{};
    state.at[kRetirer] = state.at[kReader] = state.at[kPinner] = kIdle;
    state.num_pins_left = 2;
    return state;
  }

  template <typename Emit>
  bool expand(const State& state, const Emit& emit) const {
    bool is_stuck = true;
    const auto emit_step = [&](const State& next) {
      is_stuck = false;
      emit(next);
    };
    begin(state, emit_step);
    for (std::uint8_t actor = 0; actor < kActors; ++actor) {
      if (state.is_buffered[actor] != 0) drain(state, actor, emit_step);
      step(state, actor, emit_step);
    }
    if (is_stuck && state.is_punched == 0) throw Violation{"the memory is kept"};
    return true;
  }

  bool makes(RetireMistake one) const { return mistake == one; }

  // What an actor may begin.
  template <typename Emit>
  void begin(const State& s, const Emit& emit) const {
    const At first = makes(RetireMistake::kLookFirst) ? kLookRetired : kStore;
    const auto go = [&](Actor actor, At at, auto change) {
      State next = s;
      next.at[actor] = at;
      change(next);
      emit(next);
    };
    if (s.at[kRetirer] == kIdle) go(kRetirer, first, [](State&) {});
    if (s.at[kReader] == kIdle) {
      if (s.slot == kReady && s.is_punched != 0) throw Violation{"zeros were acquired"};
      if (s.slot == kReady) {
        go(kReader, kHolding, [](State& next) { next.slot = kLeased; });
      } else {
        go(kReader, kDone, [](State&) {});
      }
    }
    if (s.at[kReader] == kHolding) go(kReader, first, [](State&) {});
    // Only while it is leased, which the trainer knows; said before it is done.
    if (s.at[kPinner] == kIdle && s.at[kReader] == kHolding && s.num_pins_left != 0) {
      go(kPinner, kHolding, [](State& next) {
        next.is_pinned = 1;
        --next.num_pins_left;
      });
    }
    if (s.at[kPinner] == kHolding) go(kPinner, first, [](State&) {});
  }

  template <typename Emit>
  void drain(State s, std::uint8_t actor, const Emit& emit) const {
    s.is_buffered[actor] = 0;
    apply(s, actor);
    emit(s);
  }

  static void apply(State& s, std::uint8_t actor) {
    if (actor == kRetirer) s.is_retired = 1;
    if (actor == kReader) s.slot = kFree;
    if (actor == kPinner) s.is_pinned = 0;
  }

  // A single step of what it has begun.
  template <typename Emit>
  void step(State s, std::uint8_t actor, const Emit& emit) const {
    std::uint8_t& at = s.at[actor];
    // What it has stored itself it sees.
    const auto has_stored = [&](Actor owner) {
      return actor == owner && s.is_buffered[actor] != 0;
    };
    const bool pin_first = makes(RetireMistake::kPinnedBeforeState);
    const At end = makes(RetireMistake::kLookFirst) ? kStoreLate : finished(actor);
    switch (at) {
      case kStore:
      case kStoreLate:
        if (makes(RetireMistake::kWeakerOrder)) {
          s.is_buffered[actor] = 1;
        } else {
          apply(s, actor);
        }
        at = at == kStoreLate || forgets(actor) ? finished(actor) : kLookRetired;
        return emit(s);
      case kLookRetired:
        at = s.is_retired == 0 && !has_stored(kRetirer) ? end
             : pin_first                                ? kLookPinned
                                                        : kLookState;
        return emit(s);
      case kLookState: {
        const bool is_leased = s.slot == kLeased && !has_stored(kReader);
        if (s.slot == kReady && !makes(RetireMistake::kReadyWithoutTaking)) s.slot = kFree;
        const bool stands = is_leased && !makes(RetireMistake::kIgnoresLease);
        at = stands ? end : pin_first ? kPunch : kLookPinned;
        return emit(s);
      }
      case kLookPinned: {
        const bool is_pinned = s.is_pinned != 0 && !has_stored(kPinner);
        const bool stands = is_pinned && !makes(RetireMistake::kIgnoresPin);
        at = stands ? end : pin_first ? kLookState : kPunch;
        return emit(s);
      }
      case kPunch:
        if (s.at[kReader] == kHolding) throw Violation{"memory was given back under a view"};
        if (s.at[kPinner] == kHolding) throw Violation{"memory was given back under a page-lock"};
        s.is_punched = 1;
        at = end;
        return emit(s);
      default:  // idle, holding, done: see begin
        return;
    }
  }

  bool forgets(std::uint8_t actor) const {
    return (makes(RetireMistake::kReleaseForgets) && actor == kReader) ||
           (makes(RetireMistake::kUnpinForgets) && actor == kPinner);
  }
  static At finished(std::uint8_t actor) { return actor == kPinner ? kIdle : kDone; }
};

TEST(the_memory_of_a_retired_ring_goes_back_and_never_under_a_view) {
  check_correct("retire", RetireModel{});
}

TEST(every_mistake_in_retiring_is_found) {
  using enum RetireMistake;
  const char* kept = "the memory is kept";
  const char* torn = "memory was given back under a view";
  const char* locked = "memory was given back under a page-lock";
  check_caught("retire: release and acquire", RetireModel{kWeakerOrder}, kept);
  check_caught("retire: looks, then stores", RetireModel{kLookFirst}, kept);
  check_caught("retire: a dropped lease is forgotten", RetireModel{kReleaseForgets}, kept);
  check_caught("retire: an ended page-lock is forgotten", RetireModel{kUnpinForgets}, kept);
  check_caught("retire: ignores a lease", RetireModel{kIgnoresLease}, torn);
  check_caught("retire: ignores a page-lock", RetireModel{kIgnoresPin}, locked);
  check_caught("retire: page-lock before lease", RetireModel{kPinnedBeforeState}, locked);
  check_caught("retire: READY as it is", RetireModel{kReadyWithoutTaking}, "zeros were acquired");
}

}  // namespace
}  // namespace fkat
