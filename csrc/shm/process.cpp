#include "shm/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "shm/process_limit.h"

namespace fkat {
namespace {

int duplicate(int fd) {
  const int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own_fd < 0) throw_errno("duplicating a pidfd");
  return own_fd;
}

void watch(int pidfd) {
  pollfd entry{pidfd, POLLIN, 0};
  while (poll(&entry, 1, -1) < 0 && errno == EINTR) continue;
  if ((entry.revents & POLLIN) == 0) return;  // user code closed the descriptor under us
  if (getpgrp() == getpid()) kill(0, SIGKILL);
  _exit(1);
}

// Keeps signals with the threads that user code knows, in this scope and in threads born in it.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

ProcessHandle::ProcessHandle(int pidfd) : pidfd_(duplicate(pidfd)) {}

ProcessHandle::ProcessHandle(ProcessHandle&& other) noexcept
    : pidfd_(std::exchange(other.pidfd_, -1)) {}

ProcessHandle& ProcessHandle::operator=(ProcessHandle&& other) noexcept {
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

ProcessHandle::~ProcessHandle() {
  if (pidfd_ >= 0) close(pidfd_);
}

void die_with(int pidfd) {
  static std::atomic<pid_t> watching{0};  // a process number: what fork copies has no thread yet
  if (watching.load() == getpid()) return;
  const int own_fd = duplicate(pidfd);
  const BlockedSignals blocked;  // inherited by the thread
  try {
    std::thread(watch, own_fd).detach();
  } catch (const std::system_error& error) {
    close(own_fd);
    throw_errno(error.code().value(), "starting the thread that watches the trainer", kProcesses);
  }
  watching.store(getpid());
}

}  // namespace fkat
