// Which NUMA node a device is on, as the kernel says in sysfs ("/sys").

#pragma once

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>

namespace fkat {

// Nodes of this machine; 1 where the kernel names none.
inline int num_numa_nodes(const std::string& sysfs_root) {
  std::error_code error;  // a folder that is missing or closed to us is an empty one
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(sysfs_root + "/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    count += name.size() > 4 && name.starts_with("node") &&
                     std::all_of(name.begin() + 4, name.end(),
                                 [](unsigned char c) { return std::isdigit(c) != 0; })
                 ? 1
                 : 0;
  }
  return std::max(count, 1);
}

// The node of the PCI device with the id "0000:3B:00.0" (in letters of any case); nothing where the
// kernel knows no such device, or not where it is (virtual machines often hide it).
inline std::optional<int> numa_node_of_pci(const std::string& sysfs_root,
                                           const std::string& bus_id) {
  std::string name = bus_id;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file(sysfs_root + "/bus/pci/devices/" + name + "/numa_node");
  int node = -1;
  if (!(file >> node) || node < 0) return std::nullopt;
  return node;
}

}  // namespace fkat
