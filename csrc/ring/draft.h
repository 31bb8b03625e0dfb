// Draft: a slot that was claimed before its microbatch is made, to be made in place.
//
// In the producer process, by its one thread; but memory that was handed out may be dropped by any.
// What is handed out must not be used any more when the slot is published: whoever still holds some
// of it would see, and overwrite, what the trainer does with it. So the producer publishes a draft
// only when nobody does; else it copies the microbatch elsewhere, and keeps the draft until then.
//
//     +--------------------------+-----------+-----------+------------------+
//     | head: table, structure   | allocated | allocated | not yet          |
//     +--------------------------+-----------+-----------+------------------+
//     0                          head_nbytes                           nbytes

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "ring/frame.h"

namespace fkat {

class Draft {
 public:
  Draft(std::uint32_t slot, std::byte* data, std::uint64_t nbytes, std::uint64_t head_nbytes)
      : slot_(slot),
        data_(data),
        nbytes_(nbytes),
        used_nbytes_(round_up(head_nbytes, kLeafAlignment)),
        num_holders_(std::make_shared<std::atomic<std::uint32_t>>(0)) {}

  // Aligned to kLeafAlignment; nullptr when there is no room.
  std::byte* allocate(std::uint64_t nbytes) {
    if (used_nbytes_ > nbytes_ || nbytes > nbytes_ - used_nbytes_) return nullptr;
    std::byte* const memory = data_ + used_nbytes_;
    used_nbytes_ += round_up(nbytes, kLeafAlignment);
    return memory;
  }

  // What keeps allocated memory in use, as long as it or a copy of it lives.
  std::shared_ptr<const void> holder() const {
    num_holders_->fetch_add(1, std::memory_order_relaxed);
    const auto num_holders = num_holders_;
    // SYNC POINT D: what the last holder did with the memory happens before what is done with it by
    // who sees that nobody holds it.
    return {data_,
            [num_holders](const void*) { num_holders->fetch_sub(1, std::memory_order_release); }};
  }
  bool is_held() const { return num_holders_->load(std::memory_order_acquire) != 0; }  // D

  // Offset in the slot of bytes that were allocated here and can be a leaf; 0 for any others.
  std::uint64_t offset_of(const std::byte* bytes, std::uint64_t nbytes) const {
    // As numbers: pointers into different objects must not be compared.
    const auto at = reinterpret_cast<std::uintptr_t>(bytes);
    const auto begin = reinterpret_cast<std::uintptr_t>(data_);
    if (at < begin || at - begin > used_nbytes_ || nbytes > used_nbytes_ - (at - begin)) return 0;
    return (at - begin) % kLeafAlignment == 0 ? at - begin : 0;
  }

  std::uint32_t slot() const { return slot_; }
  std::uint64_t nbytes() const { return nbytes_; }

 private:
  std::uint32_t slot_;
  std::byte* data_;
  std::uint64_t nbytes_;
  std::uint64_t used_nbytes_;
  std::shared_ptr<std::atomic<std::uint32_t>> num_holders_;
};

}  // namespace fkat
