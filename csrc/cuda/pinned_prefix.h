// PinnedPrefix: the page-locked beginning of one area of memory, such as a slot.
//
//     begin                                                        capacity (address space)
//     | registration 0 | registration 1 | ... |  not page-locked   |
//
// Grows as more of the area comes into use, and never by what has no memory yet. Each growth is one
// registration, or several where it exceeds kMaxRegistration. A copy must lie within one
// registration or outside all of them (the driver refuses it otherwise), so it is cut at
// their borders: see for_each_piece.
//
// Called with the device's context current, from one thread at a time. Its owner unpins before the
// memory is unmapped.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "cuda/driver.h"

namespace fkat::cuda {

// One call holds locks of the driver that other CUDA calls of the machine wait for, and some
// kernels and drivers refuse more than 2 GiB (Linux 6.11 to 6.13) or 512 GiB (r580) in one.
inline constexpr std::uint64_t kMaxRegistration = 1 * GiB;

class PinnedPrefix {
 public:
  explicit PinnedPrefix(std::byte* begin) : begin_(begin) {}  // page-aligned

  std::uint64_t nbytes() const { return nbytes_; }

  // Page-locks the first `nbytes` (a multiple of the page size, all backed by memory). All or
  // nothing: when the driver refuses, nothing of the area stays pinned, and its answer is returned.
  // Nothing may be reading what is pinned already when that can happen.
  Result grow(const Driver& driver, std::uint64_t nbytes,
              std::uint64_t max_registration = kMaxRegistration);

  // Nothing is pinned any more. What the driver says is ignored: it may be gone already.
  void unpin(const Driver& driver);

  // Calls `piece` for each part of `bytes` (within the area) that lies within one registration, or
  // within what is not registered.
  void for_each_piece(std::span<const std::byte> bytes,
                      const std::function<void(std::span<const std::byte>)>& piece) const;

 private:
  std::byte* begin_;
  std::uint64_t nbytes_ = 0;
  std::vector<std::uint64_t> ends_;  // of the registrations, relative to begin_
};

}  // namespace fkat::cuda
