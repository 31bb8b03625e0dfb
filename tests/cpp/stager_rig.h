// StagerRig: a stager whose engine is held, so that each step is the test's.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/pinned_prefix.h"
#include "cuda/stager.h"
#include "fake_device.h"

namespace fkat::cuda {

using Owner = std::shared_ptr<const int>;

// A stager, a copy stream, and a page-locked MiB of 1s that can be copied to a target of 0s.
class StagerRig {
 public:
  StagerRig() : stager(std::make_unique<Stager>(device.context)) {
    const DeviceContext::Current current(*device.context);
    CHECK_EQ(prefix_.grow(*device.driver, MiB), kSuccess);
    fake_cuda_hold();
  }
  ~StagerRig() noexcept(false) {
    fake_cuda_release();
    stager.reset();
    CHECK_EQ(fake_cuda_context_depth(), 0);
    if (driver_is_gone) return;
    const DeviceContext::Current current(*device.context);
    prefix_.unpin(*device.driver);
  }

  Bytes source() const { return {segment_->data(), MiB}; }

  auto copy(const Owner& owner, const std::string& what = "a copy") {
    return copy(std::vector<Bytes>{source()}, owner, what);
  }
  std::shared_ptr<const Transfer> copy(const std::vector<Bytes>& pieces, const Owner& owner,
                                       const std::string& what = "a copy") {
    return stager->copy(pieces, device_pointer(target), stream, owner, what);
  }
  // Executes all that is queued on the copy stream.
  void run() {
    while (fake_cuda_step(stream) == 1) continue;
  }

  FakeDevice device;
  Stream stream = new_stream();
  Memory target = bytes_of(MiB, 0);
  std::unique_ptr<Stager> stager;
  bool driver_is_gone = false;

 private:
  std::shared_ptr<Segment> segment_ = filled_segment(MiB, 1);
  PinnedPrefix prefix_{segment_->data()};
};

}  // namespace fkat::cuda
