#include "shm/wake_fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/error.h"
#include "shm/process_limit.h"

namespace fkat {

namespace {

[[noreturn]] void throw_closed() {
  throw SystemError(EBADF,
                    "a descriptor of a loader was closed by other code of this process; teardown() "
                    "lets the loader begin anew");
}

// User code may have closed every descriptor, and have opened a file that got this number. Of an
// eventfd the kernel tells no type of file.
void require_eventfd(int fd) {
  struct stat status{};
  if (fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != 0) throw_closed();
}

}  // namespace

WakeFd WakeFd::create() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw_errno(errno, "opening an eventfd for a ring", kDescriptors);
  return {Owned{}, fd};
}

WakeFd::WakeFd(int eventfd) : fd_(fcntl(eventfd, F_DUPFD_CLOEXEC, 0)) {
  if (fd_ < 0) throw_errno(errno, "duplicating an eventfd", kDescriptors);
}

WakeFd::WakeFd(WakeFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

WakeFd& WakeFd::operator=(WakeFd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

WakeFd::~WakeFd() {
  if (fd_ >= 0) close(fd_);
}

void WakeFd::wake() const {
  require_eventfd(fd_);
  // Fails only when 2^64 - 2 wakes were not slept through: then it is set already.
  static_cast<void>(eventfd_write(fd_, 1));
}

std::optional<std::size_t> WakeFd::sleep(std::span<const Bed> beds,
                                         std::chrono::nanoseconds slice) {
  std::vector<pollfd> entries;
  for (const Bed& bed : beds) {
    entries.push_back({bed.wake_fd->fd_, POLLIN, 0});
    entries.push_back({bed.peer->pidfd(), POLLIN, 0});  // -1 is passed over
  }
  const timespec timeout{static_cast<time_t>(slice.count() / 1'000'000'000),
                         static_cast<long>(slice.count() % 1'000'000'000)};
  if (ppoll(entries.data(), entries.size(), &timeout, nullptr) <= 0) return std::nullopt;
  // Else the sleep would end at once, again and again.
  const auto is_closed = [](const pollfd& entry) { return (entry.revents & POLLNVAL) != 0; };
  if (std::ranges::any_of(entries, is_closed)) throw_closed();
  std::optional<std::size_t> exited;
  for (std::size_t i = 0; i < beds.size(); ++i) {
    // What was set before the caller looks at its condition again is of no more use.
    if (eventfd_t count; (entries[2 * i].revents & POLLIN) != 0) {
      require_eventfd(beds[i].wake_fd->fd_);
      static_cast<void>(eventfd_read(beds[i].wake_fd->fd_, &count));
    }
    if ((entries[2 * i + 1].revents & POLLIN) != 0) exited = i;
  }
  return exited;
}

}  // namespace fkat
