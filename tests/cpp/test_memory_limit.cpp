// The limit is a number of this machine, and moves when memory is used.

#include <unistd.h>

#include "base/bytes.h"
#include "check.h"
#include "shm/memory_limit.h"

namespace fkat {
namespace {

TEST(is_some_of_the_machine_s_memory) {
  const MemoryLimit limit = memory_limit();
  const auto machine = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                       static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  CHECK(limit.available_nbytes > 0);
  CHECK(limit.available_nbytes <= machine);
}

TEST(says_which_limit_binds) {
  const std::string reason = memory_limit().reason;
  CHECK(reason.starts_with("MemAvailable") || reason.starts_with("cgroup limit "));
}

TEST(sizes_read_well) {
  CHECK_EQ(format_nbytes(0), "0 bytes");
  CHECK_EQ(format_nbytes(10 * KiB - 1), "10239 bytes");
  CHECK_EQ(format_nbytes(10 * KiB), "10.0 KiB");
  CHECK_EQ(format_nbytes(3 * MiB / 2), "1.5 MiB");
  CHECK_EQ(format_nbytes(1536 * MiB), "1.5 GiB");
}

TEST(arithmetic_says_when_it_overflows) {
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  CHECK_EQ(round_up(0, 256), 0);
  CHECK_EQ(round_up(1, 256), 256);
  CHECK_EQ(round_up(256, 256), 256);
  CHECK_EQ(checked_add(kMost - 1, 1).value(), kMost);
  CHECK(!checked_add(kMost, 1));
  CHECK_EQ(checked_mul(kMost, 1).value(), kMost);
  CHECK(!checked_mul(kMost / 2 + 1, 2));
}

}  // namespace
}  // namespace fkat
