#include "shm/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "base/bytes.h"

namespace fkat {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// The value after `key` in a file of "key value" lines.
std::optional<std::uint64_t> field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t value = 0;
  while (file >> word) {
    if (word == key && file >> value) return value;
    file.clear();
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

// A file that holds one number; "max" (cgroup v2's unlimited) reads as nothing.
std::optional<std::uint64_t> number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// Version 1 says that there is no limit by one that no machine has: 2^63 less a page.
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 62;

struct CgroupFiles {
  const char* limit;
  const char* usage;
  // In memory.stat, of the group and those below it, as the usage is.
  const char* inactive_file;
  const char* active_file;
};

constexpr CgroupFiles kVersion2{"/memory.max", "/memory.current", "inactive_file", "active_file"};
constexpr CgroupFiles kVersion1{"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                                "total_inactive_file", "total_active_file"};

void tighten_by_cgroup(MemoryLimit& tightest, const std::string& directory,
                       const CgroupFiles& files) {
  const auto limit = number(directory + files.limit);
  const auto usage = number(directory + files.usage);
  if (!limit || !usage || *limit >= kNoLimit) return;
  if (tightest.cgroup_nbytes == 0 || *limit < tightest.cgroup_nbytes) {
    tightest.cgroup_nbytes = *limit;
  }
  const std::string stat = directory + "/memory.stat";
  const std::uint64_t cache =
      field(stat, files.inactive_file).value_or(0) + field(stat, files.active_file).value_or(0);
  const std::uint64_t used = *usage - std::min(*usage, cache);
  const std::uint64_t available = *limit - std::min(*limit, used);
  if (available >= tightest.available_nbytes) return;
  tightest.available_nbytes = available;
  tightest.reason = "cgroup limit " + format_nbytes(*limit) + ", used " + format_nbytes(used);
}

// Every group from `path` up to the root can carry the limit that binds.
void tighten_by_hierarchy(MemoryLimit& tightest, const std::string& mount, std::string path,
                          const CgroupFiles& files) {
  while (true) {
    tighten_by_cgroup(tightest, mount + path, files);
    if (path.empty()) return;
    path.resize(path.find_last_of('/'));
  }
}

}  // namespace

MemoryLimit memory_limit(const std::string& root) {
  const auto free_kib = field(root + "/proc/meminfo", "MemAvailable:");
  MemoryLimit tightest{free_kib ? *free_kib * KiB : kUnlimited, "MemAvailable of this machine", 0};

  // Lines of /proc/self/cgroup: "hierarchy-id:controllers:path"; no controllers means version 2.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path.empty() || path.front() != '/' || path == "/") path.clear();
    if (controllers.empty()) {
      tighten_by_hierarchy(tightest, root + "/sys/fs/cgroup", path, kVersion2);
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      tighten_by_hierarchy(tightest, root + "/sys/fs/cgroup/memory", path, kVersion1);
    }
  }
  return tightest;
}

}  // namespace fkat
