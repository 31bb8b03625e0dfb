// Walks every interleaving of a model of a protocol.
//
// A model is a state machine whose steps are single accesses to shared memory, as csrc makes them.
// A state without a step that is not an accepted end is a deadlock; a step that breaks a promise
// throws. Models are sequentially consistent: what weaker orders allow is not seen. Each model also
// comes with deliberate mistakes, and the explorer must find every one: a check that cannot fail
// checks nothing.

#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
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

// A Model has a State of bytes, `initial()`, and `expand(state, emit)`, which emits the states one
// step away; it returns whether the model may rest here for ever.
template <typename Model>
Outcome explore(const Model& model) {
  using State = typename Model::State;
  static_assert(std::has_unique_object_representations_v<State>);
  std::unordered_set<std::string> visited;
  std::vector<State> pending{model.initial()};
  const auto key = [](const State& state) {
    return std::string(reinterpret_cast<const char*>(&state), sizeof state);
  };
  visited.insert(key(pending.front()));
  try {
    while (!pending.empty()) {
      const State state = pending.back();
      pending.pop_back();
      bool stuck = true;
      const auto emit = [&](const State& next) {
        stuck = false;
        if (visited.insert(key(next)).second) pending.push_back(next);
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
