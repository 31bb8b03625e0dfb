// What sysfs says of nodes and devices, in folders made up here.

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "check.h"
#include "shm/numa.h"

namespace fkat {
namespace {

namespace fs = std::filesystem;

struct Sysfs {
  Sysfs() {
    std::string pattern = (fs::temp_directory_path() / "fkat-sysfs-XXXXXX").string();
    CHECK(mkdtemp(pattern.data()) != nullptr);
    root = pattern;
  }
  ~Sysfs() { fs::remove_all(root); }

  void add(const std::string& path) { fs::create_directories(root + path); }
  void add_device(const std::string& bus_id, const std::string& node) {
    add("/bus/pci/devices/" + bus_id);
    std::ofstream(root + "/bus/pci/devices/" + bus_id + "/numa_node") << node;
  }

  std::string root;
};

TEST(nodes_are_counted_and_nothing_else) {
  Sysfs sysfs;
  for (const char* name :
       {"node0", "node1", "node12", "power", "node", "nodes", "node1x", "xnode2"}) {
    sysfs.add(std::string("/devices/system/node/") + name);
  }
  CHECK_EQ(num_numa_nodes(sysfs.root), 3);
}

TEST(a_machine_that_names_no_nodes_has_one) {
  Sysfs sysfs;
  CHECK_EQ(num_numa_nodes(sysfs.root), 1);
  sysfs.add("/devices/system/node");
  CHECK_EQ(num_numa_nodes(sysfs.root), 1);
}

TEST(this_machine_has_a_node) {
  CHECK(num_numa_nodes("/sys") >= 1);
}

TEST(a_device_is_found_whatever_the_case_of_its_id) {
  Sysfs sysfs;
  sysfs.add_device("0000:3b:00.0", "1\n");
  sysfs.add_device("0000:af:00.0", "0\n");
  CHECK_EQ(numa_node_of_pci(sysfs.root, "0000:3B:00.0").value(), 1);
  CHECK_EQ(numa_node_of_pci(sysfs.root, "0000:3b:00.0").value(), 1);
  CHECK_EQ(numa_node_of_pci(sysfs.root, "0000:AF:00.0").value(), 0);
}

TEST(a_device_that_is_unknown_or_nowhere_has_no_node) {
  Sysfs sysfs;
  sysfs.add_device("0000:3b:00.0", "-1\n");
  sysfs.add_device("0000:3c:00.0", "");
  for (const char* bus_id : {"0000:3b:00.0", "0000:3c:00.0", "0000:3d:00.0", ""}) {
    CHECK(!numa_node_of_pci(sysfs.root, bus_id));
  }
}

}  // namespace
}  // namespace fkat
