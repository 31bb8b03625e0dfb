// How much more memory this process may use, and which limit says so.

#pragma once

#include <cstdint>
#include <string>

namespace fkat {

struct MemoryLimit {
  std::uint64_t available_nbytes;
  std::string reason;               // names the tightest limit, for error messages
  std::uint64_t cgroup_nbytes = 0;  // the smallest limit of a memory cgroup; 0 where none has one
};

// The smallest of MemAvailable (/proc/meminfo) and, for each memory cgroup above this process
// (version 2 or 1), its limit less what it uses; page cache counts as free, since the kernel
// reclaims it first. Reads a few small files: tens of microseconds. The files are below `root`, so
// that a test can bring its own.
MemoryLimit memory_limit(const std::string& root = "");

}  // namespace fkat
