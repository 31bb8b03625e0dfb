#include "cuda/context.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace fkat::cuda {

DeviceContext::DeviceContext(std::shared_ptr<const Driver> driver, int ordinal)
    : driver_(std::move(driver)), owner_(getpid()) {
  const std::string name = "CUDA device " + std::to_string(ordinal);
  driver_->check(driver_->device_get(&device_, ordinal), name);
  driver_->check(driver_->primary_context_retain(&context_, device_), "a context on " + name);
}

DeviceContext::~DeviceContext() {
  if (is_own()) driver_->primary_context_release(device_);
}

bool DeviceContext::is_own() const {
  return getpid() == owner_;
}

std::string DeviceContext::pci_bus_id() const {
  const Current current(*this);
  char text[32] = {};
  driver_->check(driver_->device_get_pci_bus_id(text, sizeof text, device_),
                 "the PCI address of the device");
  std::string id = text;
  // CUDA writes capitals, the kernel does not.
  std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return std::tolower(c); });
  return id;
}

void DeviceContext::require_own() const {
  if (is_own()) return;
  throw DeviceError("this loader opened its CUDA device in process " + std::to_string(owner_) +
                    " and was then forked to process " + std::to_string(getpid()) +
                    ": CUDA does not survive fork, make the loader in the process that uses it");
}

DeviceContext::Current::Current(const DeviceContext& context) : driver_(*context.driver_) {
  context.require_own();
  driver_.check(driver_.context_push(context.context_), "making the CUDA context current");
}

DeviceContext::Current::~Current() {
  Context popped;
  driver_.context_pop(&popped);
}

}  // namespace fkat::cuda
