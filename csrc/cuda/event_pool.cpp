#include "cuda/event_pool.h"

#include "base/error.h"

namespace fkat::cuda {

Event EventPool::take() {
  {
    const std::scoped_lock lock(mutex_);
    if (!idle_.empty()) {
      const Event event = idle_.back();
      idle_.pop_back();
      return event;
    }
  }
  const Driver& driver = context_->driver();
  Event event = nullptr;
  driver.check(driver.event_create(&event, kEventDisableTiming | kEventBlockingSync),
               "making an event");
  return event;
}

void EventPool::give_back(Event event) {
  const std::scoped_lock lock(mutex_);
  idle_.push_back(event);
}

EventPool::~EventPool() {
  if (idle_.empty() || !context_->is_own()) return;
  try {
    const DeviceContext::Current current(*context_);
    for (const Event event : idle_) context_->driver().event_destroy(event);
  } catch (const DeviceError&) {
    // The driver has gone before us, and the events with it.
  }
}

}  // namespace fkat::cuda
