// Segment: one memfd, mapped shared and read-write.
//
// A memfd is not bound by the size of /dev/shm, has no name that could leak, and is freed by the
// kernel when its last holder dies. It is sealed against shrinking and growing, so a peer cannot
// turn our mapping into SIGBUS. It is sparse: pages cost nothing until `commit` touches them.
//
// Created by the trainer, attached by the producer through the file descriptor. Not copied: share
// it with shared_ptr; the mapping lives as long as the last view into it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fkat {

class Segment {
 public:
  // A new, sealed, zero-filled segment. Throws SystemError.
  static std::shared_ptr<Segment> create(std::uint64_t nbytes);

  // Maps the segment behind `fd`, which is duplicated (the caller keeps its own). Throws
  // CorruptSegment when the descriptor is not a memfd sealed against shrinking.
  static std::shared_ptr<Segment> attach(int fd);

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment();

  int fd() const { return fd_; }
  std::byte* data() const { return data_; }
  std::uint64_t nbytes() const { return nbytes_; }

  // Backs [offset, offset + nbytes) with memory and maps the pages for writing, so that a later
  // memcpy neither faults nor fails. Throws OutOfMemory, where a plain first write would raise
  // SIGBUS or wake the OOM killer. Called by one thread at a time.
  void commit(std::uint64_t offset, std::uint64_t nbytes);

  // Gives the memory of [offset, offset + nbytes) back to the kernel; it reads as zeros again.
  void decommit(std::uint64_t offset, std::uint64_t nbytes);

  // Asks that pages which anybody touches first from now on, through any mapping, come from the
  // memory of NUMA node `node` as long as there is some. False where the system does not let us
  // ask (no NUMA in the kernel; containers forbid the call). Throws ArgumentError, SystemError.
  bool prefer_node(int node);

 private:
  Segment(int fd, std::byte* data, std::uint64_t nbytes) : fd_(fd), data_(data), nbytes_(nbytes) {}
  static std::shared_ptr<Segment> map(int fd, std::uint64_t nbytes);

  int fd_;
  std::byte* data_;
  std::uint64_t nbytes_;
  std::uint64_t unasked_nbytes_ = 0;  // may be committed before the limit is asked for again
};

}  // namespace fkat
