// SlotUser: what reads slots after they were acquired, and pins them. The copies to a device.

#pragma once

#include <cstdint>

namespace fkat {

class SlotUser {
 public:
  virtual ~SlotUser() = default;

  // Lets go of the slots that it has read. Called while the trainer waits for data, because the
  // producer may be waiting for one of them. Throws DeviceError.
  virtual void poll() = 0;

  // The producer wants the memory of a slot back, which nothing reads.
  virtual void unpin(std::uint32_t slot) = 0;
};

}  // namespace fkat
