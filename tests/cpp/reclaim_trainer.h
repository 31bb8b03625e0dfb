// The trainer of explore_reclaim: Consumer, who pins its slots, and a thread that drops leases.

#pragma once

#include "explorer.h"
#include "reclaim_state.h"

namespace fkat::reclaim {

struct TrainerModel {
  Rules rules;

  static void free_slot(State& s, std::uint8_t slot) {
    s.slot[slot].state = kFree;
    s.rang = 1;
  }
  void grant(State& s, std::uint8_t num_ahead) const {
    const int acquired = s.acquired - s.num_requests;
    s.granted = std::max(s.granted, static_cast<std::uint8_t>(acquired + num_ahead));
  }
  void advance(State& s) const {
    ++s.acquired;
    grant(s, rules.num_prefetches);
  }
  static void lease_slot(State& s, std::uint8_t slot) {
    if (s.slot[slot].state != kReady) throw Violation{"a published slot was not READY"};
    s.slot[slot].state = kLeased;
    s.rang = 1;
  }

  template <typename Emit>
  void step(State s, const Emit& emit) const {
    const Entry entry = s.index[s.acquired % kIndex];
    const bool has_entry = s.published != s.acquired;
    const bool is_stale = has_entry && entry.pass != s.pass;
    switch (s.trainer_at) {
      case kNext:
        if (s.kept[0] != 0) {
          s.took = static_cast<std::uint8_t>(s.kept[0] - 1);
          std::rotate(s.kept.begin(), s.kept.begin() + 1, s.kept.end());
          s.kept.back() = 0;
          s.trainer_at = kUnlock;
        } else if (!has_entry) {
          const std::uint8_t before = s.granted;
          if (s.delivered == kLengths[s.pass]) return;
          grant(s, std::max<std::uint8_t>(rules.num_prefetches, 1));
          if (s.granted == before) return;  // asleep
        } else if (entry.is_request != 0) {
          lease_slot(s, entry.slot);
          if (rules.mistake == Mistake::kGrantMicrobatches) ++s.num_requests;
          advance(s);
          s.took = entry.slot;
          s.trainer_at = kUnlock;
        } else if (is_stale) {
          free_slot(s, entry.slot);
          advance(s);
        } else {
          lease_slot(s, entry.slot);
          advance(s);
          ++s.delivered;
          take(s, entry.slot);
        }
        return emit(s);
      case kDrain:
        if (!is_stale) {
          s.granted = static_cast<std::uint8_t>(s.acquired + rules.num_prefetches);
          s.rang = 1;
          s.trainer_at = kNext;
        } else {
          drain(s, entry);
          advance(s);
        }
        return emit(s);
      case kUnlock:
        if (rules.refuses) {
          free_slot(s, s.took);
          s.trainer_at = kNext;
        } else {
          s.slot[s.took].locked = 0;
          s.trainer_at = kSayUnlocked;
        }
        return emit(s);
      case kSayUnlocked:
        s.slot[s.took].pinned = 0;
        s.trainer_at = kGiveBack;
        return emit(s);
      case kGiveBack:
        free_slot(s, s.took);
        s.trainer_at = kNext;
        return emit(s);
      case kStop:
        (rules.mistake == Mistake::kUnpinAfterSayingSo ? s.slot[s.took].pinned
                                                       : s.slot[s.took].locked) = 0;
        s.trainer_at = kStopped;
        return emit(s);
      case kStopped:
        s.slot[s.took].pinned = 0;
        s.slot[s.took].locked = 0;
        s.trainer_at = kNext;
        return emit(s);
      default:
        return;
    }
  }

  // As a trainer does that stops copying to a device.
  template <typename Emit>
  void unpin_unasked(State s, const Emit& emit) const {
    if (s.trainer_at != kNext || s.has_stopped != 0) return;
    s.has_stopped = 1;
    s.trainer_at = kStop;
    for (s.took = 0; s.took < kSlots; ++s.took) {
      if (s.slot[s.took].locked != 0 && !is_held(s, s.took)) emit(s);
    }
  }

  void drain(State& s, const Entry& entry) const {
    if (entry.is_request == 0 || rules.mistake == Mistake::kDropRequest) {
      free_slot(s, entry.slot);
    } else if (rules.mistake != Mistake::kSkipRequest) {
      lease_slot(s, entry.slot);
      *std::find(s.kept.begin(), s.kept.end(), 0) = static_cast<std::uint8_t>(entry.slot + 1);
    }
  }

  // A lease, or a private copy that gives the slot back at once.
  static void take(State& s, std::uint8_t slot) {
    const auto is_out = [](const Lease& lease) {
      return lease.at != kNoLease && lease.at != kPinLate;
    };
    if (std::count_if(s.lease.begin(), s.lease.end(), is_out) >= kMaxLeases) {
      free_slot(s, slot);
    } else {
      *std::find_if(s.lease.begin(), s.lease.end(),
                    [](const Lease& lease) { return lease.at == kNoLease; }) = {kTaken, slot};
    }
  }

  template <typename Emit>
  void begin_pass(State s, const Emit& emit) const {
    if (s.pass != 0 || s.trainer_at != kNext) return;
    s.pass = 1;
    s.delivered = 0;
    s.trainer_at = kDrain;
    emit(s);
  }

  // Page-locks the slot or not, and gives it back at any time, or never.
  template <typename Emit>
  void step_lease(State s, std::size_t i, const Emit& emit) const {
    Lease& lease = s.lease[i];
    Slot& slot = s.slot[lease.slot];
    const std::uint8_t number = lease.slot;
    switch (lease.at) {
      case kTaken: {
        State unpinned = s;
        unpinned.lease[i] = {};
        free_slot(unpinned, number);
        emit(unpinned);
        if (rules.mistake == Mistake::kPinAfterRelease) {
          lease.at = kPinLate;
          free_slot(s, number);
        } else {
          slot.pinned = 1;
          lease.at = kSaidLocked;
        }
        return emit(s);
      }
      case kPinLate:
        slot.pinned = 1;
        slot.locked = 1;
        lease = {};
        return emit(s);
      case kSaidLocked:
        slot.locked = 1;
        lease.at = kHeld;
        return emit(s);
      case kHeld:
        lease = {};
        free_slot(s, number);
        return emit(s);
      default:
        return;
    }
  }
};

}  // namespace fkat::reclaim
