#include "ring/lease.h"

#include <unistd.h>

namespace fkat {

Lease::Lease(std::shared_ptr<Ring> ring, std::uint32_t slot,
             std::shared_ptr<std::atomic<std::uint32_t>> outstanding)
    : ring_(std::move(ring)), slot_(slot), outstanding_(std::move(outstanding)), owner_(getpid()) {
  // Relaxed, here and below: a count for the reader's own decisions, it orders nothing.
  if (outstanding_) outstanding_->fetch_add(1, std::memory_order_relaxed);
}

Lease::~Lease() {
  if (getpid() != owner_) return;
  ring_->release_share(slot_);
  if (outstanding_) outstanding_->fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace fkat
