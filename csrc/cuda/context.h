// DeviceContext: a device's primary context, the one that torch uses too.
//
// Belongs to the process that made it. CUDA does not survive fork: in a child every call throws,
// and the destructor does nothing.

#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "cuda/driver.h"

namespace fkat::cuda {

class DeviceContext {
 public:
  // Retains the primary context of device number `ordinal`. Throws DeviceError.
  DeviceContext(std::shared_ptr<const Driver> driver, int ordinal);
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  ~DeviceContext();

  const Driver& driver() const { return *driver_; }

  // Whether this is the process that made it: false in its forked children.
  bool is_own() const;

  // Throws DeviceError if it is not.
  void require_own() const;

  // "0000:3b:00.0": the name of the device in /sys/bus/pci/devices.
  std::string pci_bus_id() const;

  // The context is current in this thread for the life of the object.
  class Current {
   public:
    explicit Current(const DeviceContext& context);  // throws DeviceError
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const Driver& driver_;
  };

 private:
  std::shared_ptr<const Driver> driver_;
  Device device_;
  Context context_;
  pid_t owner_;
};

}  // namespace fkat::cuda
