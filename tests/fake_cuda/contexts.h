// Contexts: the devices' primary contexts, and each thread's stack of current ones.
//
// Called with the state's lock held, but for the stack, which belongs to the calling thread.

#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "errors.h"

namespace fake {

struct Context {
  int num_retained = 0;
};

class Contexts {
 public:
  void set_num_devices(int n) { num_devices_ = n; }
  bool has_device(int device) const { return device >= 0 && device < num_devices_; }

  Context* retain(int device);
  Result release(int device);
  void clear();
  std::int64_t num_retained() const;

  // Handles stay valid: a released context is still known as one that is released.
  bool is_retained(const Context* context) const;

  static std::vector<Context*>& stack();

 private:
  int num_devices_ = 1;
  std::deque<Context> contexts_;  // by device
};

}  // namespace fake
