// The limit is a number of this machine, and the tightest that its files name.

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "check.h"
#include "shm/memory_limit.h"

namespace fkat {
namespace {

namespace fs = std::filesystem;

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

// A root directory of its own, with the files that the limits are read from.
struct Root {
  Root() {
    std::string pattern = (fs::temp_directory_path() / "fkat-root-XXXXXX").string();
    CHECK(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
    write("proc/meminfo", "MemTotal: 32000000 kB\nMemAvailable: 16777216 kB\n");  // 16 GiB
  }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;
  ~Root() { fs::remove_all(path); }

  void write(const std::string& file, const std::string& text) const {
    const fs::path at = path + "/" + file;
    fs::create_directories(at.parent_path());
    std::ofstream(at) << text;
  }
  void write_group(const std::string& at, std::uint64_t limit, std::uint64_t usage,
                   std::uint64_t cache = 0) const {
    write("sys/fs/cgroup" + at + "/memory.max", std::to_string(limit) + "\n");
    write("sys/fs/cgroup" + at + "/memory.current", std::to_string(usage) + "\n");
    write("sys/fs/cgroup" + at + "/memory.stat",
          "anon 12345\ninactive_file " + std::to_string(cache) + "\nactive_file 0\n");
  }
  // Version 1 counts page cache twice: of the group itself, and of all below it, as the usage does.
  void write_old_group(const std::string& at, std::uint64_t limit, std::uint64_t usage,
                       std::uint64_t cache = 0) const {
    const std::string folder = "sys/fs/cgroup/memory" + at;
    write(folder + "/memory.limit_in_bytes", std::to_string(limit) + "\n");
    write(folder + "/memory.usage_in_bytes", std::to_string(usage) + "\n");
    write(folder + "/memory.stat", "inactive_file 0\nactive_file 0\ntotal_inactive_file " +
                                       std::to_string(cache) + "\ntotal_active_file 0\n");
  }

  void check(std::uint64_t available, std::uint64_t cgroup, const std::string& reason) const {
    const MemoryLimit limit = memory_limit(path);
    CHECK_EQ(limit.available_nbytes, available);
    CHECK_EQ(limit.cgroup_nbytes, cgroup);
    CHECK_EQ(limit.reason, reason);
  }

  std::string path;
};

const std::string kMachine = "MemAvailable of this machine";

TEST(without_a_cgroup_the_machine_s_memory_is_the_limit) {
  const Root root;
  root.check(16 * GiB, 0, kMachine);
  root.write("proc/self/cgroup", "0::/\n");
  root.check(16 * GiB, 0, kMachine);
}

TEST(a_group_without_a_limit_is_none) {
  const Root root;
  root.write("proc/self/cgroup", "0::/job\n");
  root.write("sys/fs/cgroup/job/memory.max", "max\n");
  root.write("sys/fs/cgroup/job/memory.current", "1000\n");
  root.check(16 * GiB, 0, kMachine);

  const Root old;
  old.write("proc/self/cgroup", "4:memory:/job\n");
  old.write_old_group("/job", 9223372036854771712U, 1000);
  old.check(16 * GiB, 0, kMachine);
}

TEST(a_limit_is_less_what_is_used_but_for_page_cache) {
  const Root root;
  root.write("proc/self/cgroup", "0::/job\n");
  root.write_group("/job", 4 * GiB, 3 * GiB, GiB);
  root.check(2 * GiB, 4 * GiB, "cgroup limit 4.0 GiB, used 2.0 GiB");
  root.write_group("/job", 4 * GiB, 5 * GiB);
  root.check(0, 4 * GiB, "cgroup limit 4.0 GiB, used 5.0 GiB");
}

TEST(a_limit_above_the_machine_s_memory_is_told_and_does_not_bind) {
  const Root root;
  root.write("proc/self/cgroup", "0::/job\n");
  root.write_group("/job", 64 * GiB, GiB);
  root.check(16 * GiB, 64 * GiB, kMachine);
}

TEST(the_tightest_of_nested_groups_binds) {
  const Root root;
  root.write("proc/self/cgroup", "0::/pod/container/job\n");
  root.write_group("/pod", 2 * GiB, GiB);
  root.write_group("/pod/container", 3 * GiB, MiB);
  root.write_group("/pod/container/job", 8 * GiB, MiB);
  root.check(GiB, 2 * GiB, "cgroup limit 2.0 GiB, used 1.0 GiB");
  root.write_group("/pod/container", 3 * GiB, 5 * GiB / 2);  // not the smallest, but nearly used up
  root.check(GiB / 2, 2 * GiB, "cgroup limit 3.0 GiB, used 2.5 GiB");
}

TEST(a_path_that_is_not_seen_from_inside_a_container_leaves_the_mount_s_own) {
  const Root root;
  root.write("proc/self/cgroup", "0::/kubepods/pod7/job\n");
  root.write_group("", 2 * GiB, GiB);
  root.check(GiB, 2 * GiB, "cgroup limit 2.0 GiB, used 1.0 GiB");
}

TEST(version_1_is_read_where_memory_is_its_controller) {
  const Root root;
  root.write("proc/self/cgroup", "5:cpu,cpuacct:/cpus\n4:hugetlb,memory:/pod/job\n0::/\n");
  root.write_old_group("", 9223372036854771712U, 20 * GiB);
  root.write_old_group("/pod", 2 * GiB, 3 * GiB / 2, GiB);
  root.write_old_group("/pod/job", 3 * GiB, GiB);
  root.write_old_group("/cpus", MiB, MiB);
  root.check(3 * GiB / 2, 2 * GiB, "cgroup limit 2.0 GiB, used 512.0 MiB");
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
