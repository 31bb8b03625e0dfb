// Producer: the writing end of a ring. One for the ring's whole life (a producer that died is
// replaced together with its ring), in the producer process, called from one thread.
//
//     await_pass -> for each microbatch: await_grant -> claim -> (write) -> publish | abandon
//                -> publish_end | publish_error -> await_pass ...
//
// Only the await calls and claim block, for at most one slice; the caller loops, so that it can
// look at signals between slices. `Turn` says how a wait ended. When the trainer dies this process
// is killed (see die_with), so no wait needs to look for that.

#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "ring/draft.h"
#include "ring/ring.h"
#include "ring/slot_pool.h"

namespace fkat {

// One walk over the data, as the trainer asked for it.
struct Pass {
  std::uint64_t id;  // grows by one with each request; 0 means none yet
  std::uint64_t epoch;
  std::uint64_t start;  // position of the first microbatch wanted
};

enum class Turn {
  kGo,          // what was waited for is there
  kWait,        // not yet: call again
  kSuperseded,  // the trainer asked for another pass: drop this one
  kStopped,     // the trainer is done: exit
};

class Producer {
 public:
  // Throws ArgumentError for a ring that was attached without its wake_fds.
  Producer(std::shared_ptr<Ring> ring, std::uint64_t memory_budget_nbytes);

  // The budget is that of so many producers together. Before the first claim.
  void share_budget(std::uint32_t num_producers) { pool_.share_budget(num_producers); }

  // Waits for a pass younger than `previous`, and writes it to `pass` on kGo.
  Turn await_pass(std::uint64_t previous, Pass& pass, std::chrono::nanoseconds slice);

  // Waits until every reader has room for one more microbatch of `pass` in its window.
  Turn await_grant(const Pass& pass, std::chrono::nanoseconds slice);

  // Waits for a slot with memory for `nbytes`, and writes its number to `slot` on kGo. Asks the
  // trainer for page-locked slots (records of kind kReclaim) when their memory is needed. Throws
  // ArgumentError when it can never fit, OutOfMemory when the kernel has no more.
  Turn claim(const Pass& pass, std::uint64_t nbytes, std::uint32_t& slot,
             std::chrono::nanoseconds slice);

  // A slot with room for what the last few needed, if there is one at once. Never waits, never
  // throws for want of memory. It is published (publish_draft) or abandoned; `keep` it while others
  // use its memory.
  std::optional<Draft> try_draft(std::uint64_t head_nbytes);

  // Whether the trainer still wants this pass.
  bool is_wanted(const Pass& pass) const { return status(pass) == Turn::kGo; }

  std::byte* slot_data(std::uint32_t slot) const { return ring_->slot_data(slot); }

  // Makes a claimed slot visible to every reader. Never blocks.
  void publish(const Pass& pass, std::uint64_t position, std::uint32_t slot, std::uint64_t nbytes);
  void publish_draft(const Pass& pass, std::uint64_t position, std::uint32_t slot,
                     std::uint64_t nbytes);
  void keep(std::uint32_t slot) { pool_.keep(slot); }
  void abandon(std::uint32_t slot) { pool_.abandon(slot); }

  // The end of a pass after `count` microbatches of its epoch. Never blocks: room is reserved.
  void publish_end(const Pass& pass, std::uint64_t count);

  // The end of a pass by an error; longer texts are cut at kErrorNbytes. Never blocks.
  void publish_error(const Pass& pass, std::uint64_t position, std::span<const std::byte> text);

  // Tells readers len() of the source, or one of the codes in Length.
  void announce_length(std::int64_t length);

  // Says what this process does from now on (see ProducerLine); the clock goes on if it did that
  // already. Some 20 ns. The calls above say it themselves, so the caller does only for its own.
  void enter(Activity activity);

 private:
  Turn status(const Pass& pass) const;
  bool granted() const;
  void append_slot(RecordKind kind, const Pass& pass, std::uint64_t position, std::uint32_t slot,
                   std::uint64_t nbytes);
  void append(RecordKind kind, const Pass& pass, std::uint64_t position, std::uint32_t slot,
              std::uint64_t nbytes);
  void ring_readers() const;

  std::shared_ptr<Ring> ring_;
  SlotPool pool_;
  Activity activity_ = Activity::kStarting;
  std::uint64_t published_seq_ = 0;
  std::array<std::uint64_t, 4> last_nbytes_{};  // of frames, as a guess for the next
};

}  // namespace fkat
