// The limits that a process is given (ulimit), for the texts of errors: a system call that meets
// one says only which kind it was.

#pragma once

#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "base/bytes.h"
#include "base/error.h"

namespace fkat {

struct ProcessLimit {
  int error_number;  // of a system call that meets it
  __rlimit_resource_t resource;
  const char* name;
  bool is_in_bytes;
  const char* advice;
};

inline constexpr ProcessLimit kAddressSpace{
    ENOMEM, RLIMIT_AS, "RLIMIT_AS, ulimit -v", true,
    "lower max_microbatch_nbytes or num_microbatch_prefetches (a ring reserves address space for "
    "that many microbatches of that size, and a forked producer has it twice)"};
inline constexpr ProcessLimit kFileSize{
    EFBIG, RLIMIT_FSIZE, "RLIMIT_FSIZE, ulimit -f", true,
    "lower max_microbatch_nbytes or num_microbatch_prefetches (a ring is a file in memory, sparse "
    "and large enough for that many microbatches of that size)"};
inline constexpr ProcessLimit kDescriptors{
    EMFILE, RLIMIT_NOFILE, "RLIMIT_NOFILE, ulimit -n", false,
    "close files, or lower num_shard_prefetches (each producer has a ring and descriptors)"};
inline constexpr ProcessLimit kProcesses{
    EAGAIN, RLIMIT_NPROC, "RLIMIT_NPROC, ulimit -u", false,
    "lower num_shard_prefetches (producers) or num_workers (processes of each)"};

// Throws the SystemError of what failed; with the limit and what to change where that is why.
[[noreturn]] inline void throw_errno(int error_number, const std::string& what,
                                     const ProcessLimit& limit) {
  rlimit values{};
  if (error_number != limit.error_number || getrlimit(limit.resource, &values) != 0 ||
      values.rlim_cur == RLIM_INFINITY) {
    throw SystemError(error_number, what);
  }
  const std::string most =
      limit.is_in_bytes ? format_nbytes(values.rlim_cur) : std::to_string(values.rlim_cur);
  throw SystemError(error_number, what + ": this process may have " + most + " (" + limit.name +
                                      "); " + limit.advice + ", or raise the limit");
}

}  // namespace fkat
