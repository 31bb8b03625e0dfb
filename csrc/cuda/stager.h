// Stager: copies from host memory to a device on a copy stream, and knows when each is done.
//
// The source of a copy is kept (by its owner) until the event behind the copy has completed: the
// copy engine reads host memory long after the call has returned. Nothing here blocks but copies of
// memory that is not page-locked, await_oldest(), synchronize(), drain() and the destructor.
//
// Called from one thread at a time, in the process that made the context. When the device fails,
// the owners of what is in flight are kept until the destructor: nobody can tell what it still
// reads.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/context.h"
#include "cuda/event_pool.h"

namespace fkat::cuda {

using Bytes = std::span<const std::byte>;

// One copy on its way, or done.
class Transfer {
 public:
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // What `stream` does from now on happens behind the copy. Throws DeviceError, also if it is known
  // that the copy failed.
  void make_wait(Stream stream) const;

 private:
  friend class Stager;
  Transfer(std::shared_ptr<const DeviceContext> context, std::shared_ptr<EventPool> events,
           std::string what);

  std::shared_ptr<const DeviceContext> context_;
  std::shared_ptr<EventPool> events_;
  std::string what_;  // names the copy in errors
  Event event_;
  Result result_ = kNotReady;
  std::shared_ptr<const void> owner_;  // of the source; gone when the copy is done
};

class Stager {
 public:
  explicit Stager(std::shared_ptr<const DeviceContext> context);
  Stager(const Stager&) = delete;
  Stager& operator=(const Stager&) = delete;
  ~Stager();

  // Copies `pieces`, one behind the other, to `destination`, on `stream`. `owner` of the source is
  // released when that is done; `what` names the copy in errors. Throws DeviceError if a call was
  // refused; the pieces before it may still be read then, and `owner` is kept as long.
  std::shared_ptr<Transfer> copy(std::span<const Bytes> pieces, DevicePtr destination,
                                 Stream stream, std::shared_ptr<const void> owner,
                                 std::string what);

  // Releases the owners of copies that are done. Throws the DeviceError of one that failed, once.
  void poll();

  // Waits for the oldest copy in flight, of which there is one. Throws its DeviceError if it
  // failed.
  void await_oldest();

  // Waits until nothing is in flight. Throws the DeviceError of a copy that failed, once.
  void synchronize();

  // Waits until nothing is in flight, as far as the driver still answers. Never throws.
  void drain();

  std::size_t num_in_flight() const { return in_flight_.size(); }

 private:
  void retire(Result result);

  std::shared_ptr<const DeviceContext> context_;
  std::shared_ptr<EventPool> events_;
  std::deque<std::shared_ptr<Transfer>> in_flight_;  // in the order of their calls
  std::vector<std::shared_ptr<const void>> lost_;    // owners that a failed copy may still read
};

}  // namespace fkat::cuda
