// FKAT_CRASH_POINT("name"): where a process may die, for the tests to make it do so.
//
// Nothing, but in a build with FKAT_CRASH_POINTS. There, with FKAT_CRASH_AT=name:n in the
// environment, the process kills itself when it gets here for the n-th time (from 0), if it is the
// first of all processes to do so: FKAT_CRASH_ONCE names a file that it makes. tests/crashes finds
// every point by reading the sources, and fails for one that is never reached.

#pragma once

#ifdef FKAT_CRASH_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace fkat {

inline void crash_point(const char* name, std::atomic<int>& num_visits) {
  static const char* const wanted = std::getenv("FKAT_CRASH_AT");
  static const char* const once = std::getenv("FKAT_CRASH_ONCE");
  if (wanted == nullptr || once == nullptr) return;
  const std::size_t length = std::strlen(name);
  if (std::strncmp(wanted, name, length) != 0 || wanted[length] != ':') return;
  if (num_visits.fetch_add(1) != std::atoi(wanted + length + 1)) return;
  if (open(once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) < 0) return;
  kill(getpid(), SIGKILL);
  while (true) pause();
}

}  // namespace fkat

#define FKAT_CRASH_POINT(name)             \
  do {                                     \
    static std::atomic<int> num_visits{0}; \
    ::fkat::crash_point(name, num_visits); \
  } while (false)

#else

#define FKAT_CRASH_POINT(name) \
  do {                         \
  } while (false)

#endif
