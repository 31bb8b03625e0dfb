// EventPool: events without timing, used again rather than made anew.
//
// An event goes back when nobody can wait on it any more, from whichever thread drops it last.
// Taken with the device's context current.

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cuda/context.h"

namespace fkat::cuda {

class EventPool {
 public:
  explicit EventPool(std::shared_ptr<const DeviceContext> context) : context_(std::move(context)) {}
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  ~EventPool();

  Event take();  // throws DeviceError
  void give_back(Event event);

 private:
  std::shared_ptr<const DeviceContext> context_;
  std::mutex mutex_;
  std::vector<Event> idle_;
};

}  // namespace fkat::cuda
