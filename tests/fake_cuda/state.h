// State: everything behind the entry points, and the one lock for all of it.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "contexts.h"
#include "engine.h"
#include "faults.h"
#include "registry.h"

namespace fake {

struct Event {
  std::shared_ptr<Mark> last;  // the latest recording; none: as if reached
};

struct State {
  std::mutex mutex;
  Contexts contexts;
  Engine engine;
  Faults faults;
  Registry registry;
  std::map<void*, Event> events;
  std::uintptr_t last_event = 0xE0000000;  // handles are never used twice
  bool is_pageable_async = false;
  bool is_deinitialized = false;
  std::int64_t num_copies_in_flight = 0;
  std::int64_t num_copies = 0;
  std::int64_t copied_nbytes = 0;
  std::int64_t max_copy_nbytes = 0;
};

// Never destroyed: threads of the engine outlive main.
State& state();

}  // namespace fake
