// The fake CUDA driver in a test: a device, memory for it, and a balance at the end of each test.

#pragma once

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "check.h"
#include "cuda/context.h"
#include "cuda/driver.h"
#include "fake_cuda.h"
#include "shm/segment.h"

namespace fkat::cuda {

inline constexpr std::uint64_t kPage = 4 * KiB;

// One line of what is left and what was violated.
inline std::string report() {
  char line[8192];
  fake_cuda_report(line, sizeof line);
  return line;
}

inline const std::string kBalanced =
    "contexts=0 events=0 registrations=0 copies_in_flight=0 violations=0";

// Device 0 of a fresh driver. The first object of a test: when it goes, as the last one, nothing
// may be left and nothing violated.
class FakeDevice {
 public:
  FakeDevice() {
    fake_cuda_reset();
    driver = Driver::load(FAKE_CUDA);
    context = std::make_shared<DeviceContext>(driver, 0);
  }
  FakeDevice(const FakeDevice&) = delete;
  FakeDevice& operator=(const FakeDevice&) = delete;
  ~FakeDevice() noexcept(false) {
    context.reset();
    if (!expects_violations && std::uncaught_exceptions() == 0) CHECK_EQ(report(), kBalanced);
  }

  std::shared_ptr<const Driver> driver;
  std::shared_ptr<const DeviceContext> context;
  bool expects_violations = false;
};

// Shared memory with pages behind it, filled with a byte of its own.
inline std::shared_ptr<Segment> filled_segment(std::uint64_t nbytes, int value) {
  auto segment = Segment::create(nbytes);
  segment->commit(0, nbytes);
  std::memset(segment->data(), value, nbytes);
  return segment;
}

using Memory = std::vector<std::byte>;

inline DevicePtr device_pointer(const Memory& memory) {
  return reinterpret_cast<DevicePtr>(memory.data());
}

inline Memory bytes_of(std::size_t nbytes, int value) {
  return Memory(nbytes, static_cast<std::byte>(value));
}

inline Stream new_stream() {
  return static_cast<Stream>(fake_cuda_stream_create());
}

}  // namespace fkat::cuda
