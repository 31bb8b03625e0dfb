// How much more memory this process may use, and which limit says so.

#pragma once

#include <cstdint>
#include <string>

namespace fkat {

struct MemoryLimit {
  std::uint64_t available_nbytes;
  std::string reason;  // names the tightest limit, for error messages
};

// The smallest of MemAvailable (/proc/meminfo) and, for each memory cgroup above this process
// (version 2 or 1), its limit less what it uses; page cache counts as free, since the kernel
// reclaims it first. Reads a few small files: tens of microseconds.
MemoryLimit memory_limit();

}  // namespace fkat
