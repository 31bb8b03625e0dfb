// Microbatch: a published frame as Python sees it, with what keeps its bytes.

#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>

#include "ring/consumer.h"
#include "ring/frame.h"

namespace fkat {

// A checked frame with the lease (or private memory) that keeps its bytes. Every tensor shares it.
struct Microbatch {
  explicit Microbatch(Record record);

  std::uint64_t position;
  bool is_copy;
  std::uint32_t slot;              // meaningless for a copy, as is the next
  std::uint64_t committed_nbytes;  // of the slot
  std::span<std::byte> bytes;
  std::shared_ptr<const void> owner;
  Frame frame;
  std::shared_ptr<void> transfer;  // of its tensors to a device, once that was asked for
};

void bind_microbatch(pybind11::module_& module);

}  // namespace fkat
