// The memory under a ring: sealed, sparse, given back on request.

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "base/bytes.h"
#include "base/error.h"
#include "check.h"
#include "child.h"
#include "shm/process_limit.h"
#include "shm/segment.h"

namespace fkat {
namespace {

std::uint64_t allocated_nbytes(const Segment& segment) {
  struct stat status{};
  CHECK_EQ(fstat(segment.fd(), &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

TEST(starts_as_zeros_without_memory) {
  const auto segment = Segment::create(64 * MiB);
  CHECK_EQ(segment->nbytes(), 64 * MiB);
  CHECK_EQ(allocated_nbytes(*segment), 0);
  CHECK(segment->data()[64 * MiB - 1] == std::byte{0});
}

TEST(cannot_change_its_size) {
  const auto segment = Segment::create(4 * MiB);
  CHECK_EQ(ftruncate(segment->fd(), 2 * MiB), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(ftruncate(segment->fd(), 8 * MiB), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(fcntl(segment->fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
}

TEST(is_closed_on_exec) {
  const auto segment = Segment::create(MiB);
  CHECK((fcntl(segment->fd(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST(commit_takes_memory_and_decommit_returns_it) {
  const auto segment = Segment::create(16 * MiB);
  segment->commit(4 * MiB, 4 * MiB);
  CHECK_EQ(allocated_nbytes(*segment), 4 * MiB);
  std::memset(segment->data() + 4 * MiB, 0xA5, 4 * MiB);

  segment->decommit(6 * MiB, 2 * MiB);
  CHECK_EQ(allocated_nbytes(*segment), 2 * MiB);
  CHECK(segment->data()[6 * MiB - 1] == std::byte{0xA5});
  CHECK(segment->data()[6 * MiB] == std::byte{0});
}

TEST(commit_keeps_what_was_written) {
  const auto segment = Segment::create(4 * MiB);
  std::memset(segment->data(), 0x5A, MiB);
  segment->commit(0, 2 * MiB);
  CHECK(segment->data()[MiB - 1] == std::byte{0x5A});
}

TEST(commit_of_more_than_there_is_throws) {
  const auto segment = Segment::create(std::uint64_t{1} << 38);
  // The address space is there, the memory is not: an error, where a write would end the process.
  CHECK_THROWS(OutOfMemory, segment->commit(0, std::uint64_t{1} << 38), "memory_budget_nbytes");
  CHECK_EQ(allocated_nbytes(*segment), 0);
}

TEST(attached_mapping_shares_the_bytes_and_outlives_the_first) {
  auto segment = Segment::create(4 * MiB);
  const auto other = Segment::attach(segment->fd());
  CHECK(other->data() != segment->data());
  CHECK_EQ(other->nbytes(), 4 * MiB);
  std::memcpy(segment->data() + 12345, "hello", 5);
  segment.reset();
  CHECK_EQ(std::memcmp(other->data() + 12345, "hello", 5), 0);
}

TEST(attach_refuses_what_is_no_memfd) {
  const int fd = open("/dev/null", O_RDWR);
  CHECK_THROWS(CorruptSegment, Segment::attach(fd), "not a sealed memfd");
  close(fd);
  CHECK_THROWS(CorruptSegment, Segment::attach(-1), "not a sealed memfd");
}

TEST(attach_refuses_an_unsealed_memfd) {
  const int fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK_EQ(ftruncate(fd, 4096), 0);
  CHECK_THROWS(CorruptSegment, Segment::attach(fd), "not a sealed memfd");
  // A seal against growing alone does not keep a peer from raising SIGBUS here.
  CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
  CHECK_THROWS(CorruptSegment, Segment::attach(fd), "not a sealed memfd");
  close(fd);
}

// In a child: a limit cannot be raised again by everybody.
template <typename Body>
int exit_code_under(__rlimit_resource_t resource, rlim_t limit, const Body& body) {
  Child child([&] {
    signal(SIGXFSZ, SIG_IGN);  // as Python does
    const rlimit values{limit, limit};
    CHECK_EQ(setrlimit(resource, &values), 0);
    body();
  });
  return child.wait();
}

TEST(a_limit_that_is_met_is_told) {
  CHECK_EQ(exit_code_under(RLIMIT_FSIZE, 3 * MiB,
                           [] {
                             CHECK_THROWS(SystemError, Segment::create(4 * MiB),
                                          "sizing a memfd of 4.0 MiB: this process may have 3.0 "
                                          "MiB (RLIMIT_FSIZE, ulimit -f); lower "
                                          "max_microbatch_nbytes or num_microbatch_prefetches");
                           }),
           0);
}

// UBSan looks at an exception that is caught through a pipe of its own.
#ifndef __SANITIZE_ADDRESS__
TEST(a_limit_of_descriptors_is_told) {
  CHECK_EQ(exit_code_under(RLIMIT_NOFILE, 3,
                           [] {
                             CHECK_THROWS(SystemError, Segment::create(4 * MiB),
                                          "opening a memfd for a ring: this process may have 3 "
                                          "(RLIMIT_NOFILE, ulimit -n); close files, or lower "
                                          "num_shard_prefetches");
                           }),
           0);
  const auto segment = Segment::create(4 * MiB);
  CHECK_EQ(exit_code_under(RLIMIT_NOFILE, 3,
                           [&] {
                             CHECK_THROWS(SystemError, Segment::attach(segment->fd()),
                                          "duplicating the ring's memfd: this process may have 3 ");
                           }),
           0);
}
#endif

// A sanitizer's own address space is beyond any limit.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
TEST(a_limit_of_address_space_is_told) {
  const auto segment = Segment::create(16 * GiB);
  CHECK_EQ(exit_code_under(
               RLIMIT_AS, 24 * GiB,
               [&] {
                 for (const auto& body : {std::function([&] { Segment::create(16 * GiB); }),
                                          std::function([&] { Segment::attach(segment->fd()); })}) {
                   CHECK_THROWS(SystemError, body(),
                                "mapping a segment of 16.0 GiB: this process may have 24.0 "
                                "GiB (RLIMIT_AS, ulimit -v); lower max_microbatch_nbytes or "
                                "num_microbatch_prefetches");
                 }
               }),
           0);
}
#endif

TEST(an_error_that_no_limit_explains_says_what_failed) {
  const auto refused = [](int error_number) {
    throw_errno(error_number, "mapping a segment", kAddressSpace);
  };
  CHECK_THROWS(SystemError, refused(EACCES), "mapping a segment: Permission denied");
  CHECK_THROWS(SystemError, refused(ENOMEM), "mapping a segment: Cannot allocate memory");
}

struct Policy {
  int mode = -1;
  unsigned long nodes[16] = {};
};

Policy policy_at(const std::byte* address) {
  Policy policy;
  CHECK_EQ(syscall(SYS_get_mempolicy, &policy.mode, policy.nodes, 8 * sizeof policy.nodes, address,
                   MPOL_F_ADDR),
           0);
  return policy;
}

void check_prefers_node_0(const Segment& segment) {
  for (const std::uint64_t at : {std::uint64_t{0}, 2 * MiB, 4 * MiB - 1}) {
    const Policy policy = policy_at(segment.data() + at);
    CHECK_EQ(policy.mode, MPOL_PREFERRED);
    CHECK_EQ(policy.nodes[0], 1);
  }
}

// As far as one node can show it: the policy is the file's, so every mapping has it, also one made
// later, also in another process.
TEST(a_preferred_node_holds_for_every_mapping) {
  const auto segment = Segment::create(4 * MiB);
  const auto earlier = Segment::attach(segment->fd());
  CHECK_EQ(policy_at(segment->data()).mode, MPOL_DEFAULT);
  if (!segment->prefer_node(0)) {
    std::printf("mbind is not allowed here\n");
    CHECK_EQ(policy_at(segment->data()).mode, MPOL_DEFAULT);
    return;
  }
  check_prefers_node_0(*segment);
  check_prefers_node_0(*earlier);
  check_prefers_node_0(*Segment::attach(segment->fd()));
  Child child([&] { check_prefers_node_0(*Segment::attach(segment->fd())); });
  CHECK_EQ(child.wait(), 0);
  earlier->commit(0, 4 * MiB);
  CHECK_EQ(allocated_nbytes(*segment), 4 * MiB);
}

TEST(a_node_that_cannot_be_is_refused) {
  const auto segment = Segment::create(4 * MiB);
  CHECK_THROWS(ArgumentError, segment->prefer_node(-1), "node is -1");
  CHECK_THROWS(ArgumentError, segment->prefer_node(1024), "node is 1024");
  if (!segment->prefer_node(0)) return;
  CHECK_THROWS(SystemError, segment->prefer_node(1023), "NUMA node 1023");
}

TEST(a_sparse_tebibyte_costs_nothing) {
#ifdef __SANITIZE_THREAD__
  constexpr std::uint64_t kNbytes = 64 * GiB;  // its shadow leaves no room for more
#else
  constexpr std::uint64_t kNbytes = 1024 * GiB;
#endif
  const auto segment = Segment::create(kNbytes);
  segment->data()[kNbytes - 1] = std::byte{7};
  CHECK(allocated_nbytes(*segment) <= 2 * MiB);
}

}  // namespace
}  // namespace fkat
