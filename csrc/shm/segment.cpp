#include "shm/segment.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "shm/memory_limit.h"
#include "shm/process_limit.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; defined here because older headers lack it
#endif

namespace fkat {
namespace {

// Left free when a slot grows, so that the rest of the process does not meet the limit instead.
constexpr std::uint64_t kReserve = 32 * MiB;

// Taken of it before the limit is asked for again: asking takes longer than backing 64 KiB.
// An eighth: as many producers may do so at once.
constexpr std::uint64_t kUnasked = kReserve / 8;

[[noreturn]] void throw_out_of_memory(std::uint64_t nbytes, const MemoryLimit& limit) {
  throw OutOfMemory("no memory for a slot: needed " + format_nbytes(nbytes) + " more, available " +
                    format_nbytes(limit.available_nbytes) + " (" + limit.reason +
                    "); lower memory_budget_nbytes or num_microbatch_prefetches, or make the "
                    "microbatches smaller");
}

// Kernels before 5.14: allocate first (which fails with a code), then touch every page.
int allocate_and_touch(int fd, std::byte* data, std::uint64_t offset, std::uint64_t nbytes) {
  if (fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(nbytes)) != 0) return errno;
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  for (std::uint64_t at = offset; at < offset + nbytes; at += page) {
    auto* byte = reinterpret_cast<volatile unsigned char*>(data + at);
    *byte = *byte;
  }
  return 0;
}

// The most that a kernel can be built for (CONFIG_NODES_SHIFT is at most 10).
constexpr int kMaxNodes = 1024;

}  // namespace

std::shared_ptr<Segment> Segment::create(std::uint64_t nbytes) {
  const int fd = memfd_create("fkat.data ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) throw_errno(errno, "opening a memfd for a ring", kDescriptors);
  if (ftruncate(fd, static_cast<off_t>(nbytes)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error_number = errno;
    close(fd);
    throw_errno(error_number, "sizing a memfd of " + format_nbytes(nbytes), kFileSize);
  }
  return map(fd, nbytes);
}

std::shared_ptr<Segment> Segment::attach(int fd) {
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    throw CorruptSegment("file descriptor " + std::to_string(fd) +
                         " is not a sealed memfd: not a fkat.data ring");
  }
  struct stat status;
  if (fstat(fd, &status) != 0) throw_errno("fstat of the ring's memfd");
  if (status.st_size <= 0) throw CorruptSegment("the memfd is empty: not a fkat.data ring");
  const int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own_fd < 0) throw_errno(errno, "duplicating the ring's memfd", kDescriptors);
  return map(own_fd, static_cast<std::uint64_t>(status.st_size));
}

std::shared_ptr<Segment> Segment::map(int fd, std::uint64_t nbytes) {
  void* address = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) {
    const int error_number = errno;
    close(fd);
    throw_errno(error_number, "mapping a segment of " + format_nbytes(nbytes), kAddressSpace);
  }
  // Free where the administrator enables huge pages for shared memory, ignored elsewhere.
  madvise(address, nbytes, MADV_HUGEPAGE);
  return std::shared_ptr<Segment>(new Segment(fd, static_cast<std::byte*>(address), nbytes));
}

Segment::~Segment() {
  munmap(data_, nbytes_);
  close(fd_);
}

void Segment::commit(std::uint64_t offset, std::uint64_t nbytes) {
  // Asked before touching: inside a memory cgroup the alternative to this error is SIGKILL.
  if (nbytes > unasked_nbytes_) {
    const MemoryLimit limit = memory_limit();
    if (limit.available_nbytes < nbytes + kReserve) throw_out_of_memory(nbytes, limit);
    unasked_nbytes_ = kUnasked;
  } else {
    unasked_nbytes_ -= nbytes;
  }

  int error_number = 0;
  if (madvise(data_ + offset, nbytes, MADV_POPULATE_WRITE) != 0) {
    error_number = errno == EINVAL ? allocate_and_touch(fd_, data_, offset, nbytes) : errno;
  }
  switch (error_number) {
    case 0:
      return;
    case ENOMEM:
    case ENOSPC:
    case EFAULT:  // what MADV_POPULATE_WRITE answers where a write would have raised SIGBUS
      throw_out_of_memory(nbytes, memory_limit());
    default:
      throw SystemError(error_number, "committing " + format_nbytes(nbytes) + " of a slot");
  }
}

void Segment::decommit(std::uint64_t offset, std::uint64_t nbytes) {
  if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(nbytes)) != 0) {
    throw_errno("returning the memory of a slot");
  }
}

bool Segment::prefer_node(int node) {
  if (node < 0 || node >= kMaxNodes) {
    throw ArgumentError("node is " + std::to_string(node) + ", must be 0 to " +
                        std::to_string(kMaxNodes - 1));
  }
  constexpr std::size_t kBits = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, kMaxNodes / kBits> nodes{};
  const auto bit = static_cast<std::size_t>(node);
  nodes[bit / kBits] = 1UL << (bit % kBits);
  // The system call itself, as no libnuma is needed for one. On a shared mapping the policy belongs
  // to the file, not to the mapping. The kernel reads one bit less than it is told.
  if (syscall(SYS_mbind, data_, nbytes_, MPOL_PREFERRED, nodes.data(), kMaxNodes + 1, 0) == 0) {
    return true;
  }
  if (errno == ENOSYS || errno == EPERM) return false;
  throw_errno("preferring NUMA node " + std::to_string(node) + " for a segment");
}

}  // namespace fkat
