// WakeFd: where a process sleeps that a peer wakes, and the peer's death, too.
//
// A futex would be the cheaper bed, but the kernel rings it for no one who was killed: who sleeps
// there has to look after its peer every few milliseconds, which is most of what slow data costs
// it. An eventfd can be polled together with a pidfd.
//
// Made by the process that sleeps; the peer gets the descriptor. One sleeper for each.

#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>

#include "shm/process.h"

namespace fkat {

class WakeFd {
 public:
  static WakeFd create();        // throws SystemError
  explicit WakeFd(int eventfd);  // duplicates; throws SystemError
  WakeFd(WakeFd&& other) noexcept;
  WakeFd& operator=(WakeFd&& other) noexcept;
  ~WakeFd();

  int fd() const { return fd_; }

  // Ends the present sleep, or the next one. Throws SystemError when the descriptor was closed.
  void wake() const;

  // One that is slept at, and who would wake it.
  struct Bed {
    const WakeFd* wake_fd;
    const ProcessHandle* peer;
  };

  // Until one is woken, one of the peers has exited, a signal arrives, or `slice` has passed. The
  // number of a bed whose peer has exited. Throws SystemError when a descriptor was closed.
  static std::optional<std::size_t> sleep(std::span<const Bed> beds,
                                          std::chrono::nanoseconds slice);

 private:
  struct Owned {};
  WakeFd(Owned, int fd) : fd_(fd) {}

  int fd_;
};

}  // namespace fkat
