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

// The bytes that stand for everything but the leaves. Throws ArgumentError once it was copied.
std::span<const std::byte> structure_of(const Microbatch& microbatch);

// Leaf by leaf what `from_dlpack(capsule)` or `asarray(buffer)` makes of it. Throws the same.
pybind11::list leaves_of(const std::shared_ptr<Microbatch>& microbatch,
                         const pybind11::object& from_dlpack, const pybind11::object& asarray);

void bind_microbatch(pybind11::module_& module);

}  // namespace fkat
