// Lease: one reader's hold on one published slot. Alive as long as a tensor looks into the slot.
//
// Dropped from any thread, without the GIL, also after the ring object is gone. Does nothing in a
// process that did not take it: a child forked by the trainer inherits the tensors, and dropping
// them there must not free a slot that the trainer still reads (measured: without the guard it
// does). The other way round, too: a slot that was leased while the trainer forked keeps its memory
// when the ring is retired, for the child may look into it.

#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "ring/ring.h"

namespace fkat {

class Lease {
 public:
  // Takes over the share of `slot` that its reader has acquired. `outstanding` counts the reader's
  // leases, and outlives the reader if it must; a lease without one is not counted.
  Lease(std::shared_ptr<Ring> ring, std::uint32_t slot,
        std::shared_ptr<std::atomic<std::uint32_t>> outstanding);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

 private:
  std::shared_ptr<Ring> ring_;
  std::uint32_t slot_;
  std::shared_ptr<std::atomic<std::uint32_t>> outstanding_;
  pid_t owner_;
  std::uint64_t num_forks_;  // of this process, before this lease
};

}  // namespace fkat
