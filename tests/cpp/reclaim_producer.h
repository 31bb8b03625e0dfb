// The producer of explore_reclaim: SlotPool and Producer::claim, one shared access a step. What
// stands READY and when is the matter of explore_handover: here a publication is one step.

#pragma once

#include "explorer.h"
#include "reclaim_state.h"

namespace fkat::reclaim {

struct ProducerModel {
  Rules rules;

  template <typename Emit>
  void step(State s, const Emit& emit) const {
    const bool superseded = s.producer_pass != s.pass;
    switch (s.producer_at) {
      case kAwaitGrant:
        if (superseded) {
          s.producer_pass = s.pass;
          s.writes = 0;
        } else if (s.writes == kLengths[s.pass] || s.published >= s.granted) {
          return;
        } else {
          s.rang = 0;
          s.producer_at = kLookAtState;
        }
        return emit(s);
      case kSleep:
        if (s.rang == 0) return;
        s.rang = 0;
        s.producer_at = superseded ? kAwaitGrant : kLookAtState;
        return emit(s);
      case kLookAtState: {
        Slot& slot = s.slot[s.looks_at];
        slot.seen_state = slot.state;
        s.producer_at = kLookAtPin;
        return emit(s);
      }
      case kLookAtPin:
        look_at_pin(s.slot[s.looks_at]);
        s.looks_at = static_cast<std::uint8_t>((s.looks_at + 1) % kSlots);
        s.producer_at = s.looks_at == 0 ? kDecide : kLookAtState;
        return emit(s);
      case kDecide:
        decide(s);
        for (Slot& slot : s.slot) slot.seen_state = slot.seen_pinned = 0;
        return emit(s);
      case kPublish:
        publish(s, s.claimed, 0);
        s.slot[s.claimed].num_asked = 0;
        ++s.writes;
        s.producer_at = kAwaitGrant;
        return emit(s);
      default:
        return;
    }
  }

  void look_at_pin(Slot& slot) const {
    if (slot.seen_state != kFree) return;
    slot.seen_pinned = rules.mistake == Mistake::kDecommitPinned ? 0 : slot.pinned;
    if (slot.unpinning == kAsked) slot.unpinning = kRefused;
    if (slot.seen_pinned == 0) slot.unpinning = kNotAsked;
    if (slot.unpinning == kRefused && !rules.refuses) throw Violation{"a request was lost"};
    if (rules.mistake == Mistake::kAskAgain) slot.unpinning = kNotAsked;
  }

  bool counts(const Slot& slot) const {
    if (slot.unpinning == kAsked) return true;
    if (slot.unpinning == kRefused && slot.seen_state == kFree) {
      return rules.mistake == Mistake::kRefusedSlotCounts;
    }
    return slot.seen_state != kLeased;
  }

  // On what was seen, as SlotPool decides: claims, asks, or sleeps.
  void decide(State& s) const {
    const std::uint8_t size = kSizes[s.producer_pass][s.writes];
    const auto is_free = [](const Slot& slot) { return slot.seen_state == kFree; };
    auto best = std::find_if(s.slot.begin(), s.slot.end(), is_free);
    for (auto slot = best; slot != s.slot.end(); ++slot) {
      if (!is_free(*slot)) continue;
      const bool fits = best->committed >= size;
      const bool better = fits ? slot->committed >= size && slot->committed < best->committed
                               : slot->committed > best->committed;
      if (better) best = slot;
    }
    s.producer_at = kSleep;
    if (best == s.slot.end()) return;
    int wanted = std::max(best->committed, size);
    int spare = 0;
    int coming = 0;
    for (auto slot = s.slot.begin(); slot != s.slot.end(); ++slot) {
      if (slot == best) continue;
      if (counts(*slot)) wanted += slot->committed;
      if (is_free(*slot) && slot->seen_pinned == 0) spare += slot->committed;
      if (slot->unpinning == kAsked) coming += slot->committed;
    }
    if (wanted - spare <= kBudget) {
      for (auto slot = s.slot.begin(); slot != s.slot.end() && wanted > kBudget; ++slot) {
        if (slot == best || !is_free(*slot) || slot->seen_pinned != 0) continue;
        if (slot->committed != 0 && slot->locked != 0) {
          throw Violation{"memory was given back under a page-lock"};
        }
        wanted -= slot->committed;
        slot->committed = 0;
      }
      best->committed = std::max(best->committed, size);
      s.claimed = static_cast<std::uint8_t>(best - s.slot.begin());
      s.producer_at = kPublish;
      return;
    }
    const auto may_ask = [&](const Slot& slot) {
      return &slot != &*best && is_free(slot) && slot.seen_pinned != 0 &&
             slot.unpinning == kNotAsked;
    };
    int askable = 0;
    for (const Slot& slot : s.slot) askable += may_ask(slot) ? slot.committed : 0;
    wanted -= spare + coming;
    if (wanted - askable > kBudget) return;
    for (std::uint8_t i = 0; i < kSlots && wanted > kBudget; ++i) {
      if (!may_ask(s.slot[i])) continue;
      wanted -= s.slot[i].committed;
      s.slot[i].unpinning = kAsked;
      if (++s.slot[i].num_asked > 1) throw Violation{"a slot was asked for twice"};
      publish(s, i, 1);
    }
  }

  static void publish(State& s, std::uint8_t slot, std::uint8_t is_request) {
    if (s.slot[slot].state != kFree) throw Violation{"a slot was taken that is not free"};
    s.slot[slot].state = kReady;
    s.index[s.published % kIndex] = {slot, s.producer_pass, is_request};
    ++s.published;
    if (s.published - s.acquired > kSlots) throw Violation{"the index is too small"};
  }
};

}  // namespace fkat::reclaim
