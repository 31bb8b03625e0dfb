// Walks every interleaving of a model of a protocol.
//
// A model is a state machine whose steps are single accesses to shared memory, as csrc makes them.
// A state without a step that is not an accepted end is a deadlock; a step that breaks a promise
// throws. Models are sequentially consistent, but for what they bring themselves (explore_ring
// does). Each model also comes with deliberate mistakes, and the explorer must find every one: a
// check that cannot fail checks nothing.

#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <string_view>
#include <type_traits>
#include <vector>

#include "check.h"

namespace fkat {

struct Violation {
  const char* what;
};

struct Outcome {
  std::size_t num_states = 0;
  const char* violation = nullptr;
};

// Every state that was reached, whole: a hash alone might take two for one.
template <typename State>
class StateSet {
 public:
  // Whether it is new.
  bool insert(const State& state) {
    if (2 * states_.size() >= table_.size()) grow();
    std::uint32_t& place = place_of(state);
    if (place != kEmpty) return false;
    place = static_cast<std::uint32_t>(states_.size());
    states_.push_back(state);
    return true;
  }
  const State& operator[](std::size_t i) const { return states_[i]; }
  std::size_t size() const { return states_.size(); }

 private:
  static_assert(std::has_unique_object_representations_v<State>);
  static constexpr std::uint32_t kEmpty = ~std::uint32_t{0};

  static std::string_view bytes(const State& state) {
    return {reinterpret_cast<const char*>(&state), sizeof state};
  }
  std::uint32_t& place_of(const State& state) {
    const std::size_t mask = table_.size() - 1;
    std::size_t i = std::hash<std::string_view>{}(bytes(state)) & mask;
    while (table_[i] != kEmpty && bytes(states_[table_[i]]) != bytes(state)) i = (i + 1) & mask;
    return table_[i];
  }
  void grow() {
    table_.assign(4 * table_.size(), kEmpty);
    for (std::uint32_t i = 0; i < states_.size(); ++i) place_of(states_[i]) = i;
  }

  std::deque<State> states_;
  std::vector<std::uint32_t> table_ = std::vector<std::uint32_t>(1024, kEmpty);
};

// A Model has a State of bytes, `initial()`, and `expand(state, emit)`, which emits the states one
// step away; it returns whether the model may rest here for ever.
template <typename Model>
Outcome explore(const Model& model) {
  using State = typename Model::State;
  StateSet<State> visited;
  std::vector<std::uint32_t> pending{0};
  visited.insert(model.initial());
  try {
    while (!pending.empty()) {
      const State state = visited[pending.back()];
      pending.pop_back();
      bool stuck = true;
      const auto emit = [&](const State& next) {
        stuck = false;
        if (visited.insert(next)) pending.push_back(static_cast<std::uint32_t>(visited.size() - 1));
      };
      const bool may_rest = model.expand(state, emit);
      if (stuck && !may_rest) throw Violation{"deadlock"};
    }
  } catch (const Violation& violation) {
    return {visited.size(), violation.what};
  }
  return {visited.size(), nullptr};
}

template <typename Model>
void check_correct(const char* name, const Model& model) {
  const Outcome outcome = explore(model);
  std::printf("%-60s %8zu states\n", name, outcome.num_states);
  if (outcome.violation != nullptr) check::fail(__FILE__, __LINE__, outcome.violation);
}

template <typename Model>
void check_caught(const char* name, const Model& model, const char* expected) {
  const Outcome outcome = explore(model);
  const char* found = outcome.violation == nullptr ? "nothing" : outcome.violation;
  std::printf("%-60s %8zu states: %s\n", name, outcome.num_states, found);
  CHECK_EQ(std::string_view(found), expected);
}

}  // namespace fkat
