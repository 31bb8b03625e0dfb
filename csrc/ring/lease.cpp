#include "ring/lease.h"

#include <pthread.h>
#include <unistd.h>

namespace fkat {
namespace {

// Counted before a fork and after it, so that a lease taken meanwhile, by another thread, sees it
// as well. Relaxed: what a child has of this memory, it has since the fork, a system call.
std::atomic<std::uint64_t> num_forks{0};

void count_fork() {
  num_forks.fetch_add(1, std::memory_order_relaxed);
}

[[maybe_unused]] const int registered = pthread_atfork(count_fork, count_fork, nullptr);

}  // namespace

Lease::Lease(std::shared_ptr<Ring> ring, std::uint32_t slot,
             std::shared_ptr<std::atomic<std::uint32_t>> outstanding)
    : ring_(std::move(ring)),
      slot_(slot),
      outstanding_(std::move(outstanding)),
      owner_(getpid()),
      num_forks_(num_forks.load(std::memory_order_relaxed)) {
  // Relaxed, here and below: a count for the reader's own decisions, it orders nothing.
  if (outstanding_) outstanding_->fetch_add(1, std::memory_order_relaxed);
}

Lease::~Lease() {
  if (getpid() != owner_) return;
  ring_->release_share(slot_);
  if (outstanding_) outstanding_->fetch_sub(1, std::memory_order_relaxed);
  if (num_forks.load(std::memory_order_relaxed) == num_forks_) ring_->give_back(slot_);
}

}  // namespace fkat
