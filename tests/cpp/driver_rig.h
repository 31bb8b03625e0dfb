// DriverRig: the fake driver's own calls in a test, without anything of csrc/cuda but their names.

#pragma once

#include <memory>
#include <vector>

#include "fake_device.h"

namespace fkat::cuda {

// The driver's own calls, with the context current, and one page-locked MiB of 1s to copy from.
class DriverRig {
 public:
  DriverRig() : current_(*device_.context) {
    CHECK_EQ(driver().host_register(source(), MiB, 0), 0);
    fake_cuda_hold();
  }
  ~DriverRig() noexcept(false) {
    fake_cuda_release();
    for (const Event event : events_) driver().event_destroy(event);
    driver().host_unregister(source());
  }

  const Driver& driver() const { return *device_.driver; }
  std::byte* source() const { return segment_->data(); }
  Segment& segment() { return *segment_; }
  Memory& target() { return target_; }

  Result copy(Stream stream, const std::byte* from, std::size_t nbytes) {
    return driver().copy_to_device_async(device_pointer(target_), from, nbytes, stream);
  }
  Event new_event() {
    Event event = nullptr;
    CHECK_EQ(driver().event_create(&event, kEventDisableTiming), 0);
    events_.push_back(event);
    return event;
  }

  void expect_violations() { device_.expects_violations = true; }

 private:
  FakeDevice device_;
  DeviceContext::Current current_;
  std::shared_ptr<Segment> segment_ = filled_segment(MiB, 1);
  Memory target_ = bytes_of(MiB, 0);
  std::vector<Event> events_;
};

}  // namespace fkat::cuda
