#include "base/host_memory.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace skein {
namespace {

// A machine of 1000 kB of which 900 are available, with control groups that a test makes.
class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() {
    std::string folder = (std::filesystem::temp_directory_path() / "skein-memory-XXXXXX").string();
    root_ = mkdtemp(folder.data());
    file("proc/meminfo", "MemTotal:        1000 kB\nMemFree:   10 kB\nMemAvailable:   900 kB\n");
  }
  ~HostMemoryTest() override { std::filesystem::remove_all(root_); }

  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void group(const std::string& name, const std::string& limit, int64_t usage, int64_t kept_files = 0) {
    const std::string folder = "sys/fs/cgroup" + name;
    file(folder + "/memory.max", limit + "\n");
    file(folder + "/memory.current", std::to_string(usage) + "\n");
    file(folder + "/memory.stat", "anon 7\nactive_file " + std::to_string(kept_files) + "\ninactive_file 0\n");
  }
  int64_t available() const { return host_memory(root_.string()).available; }
  int64_t total() const { return host_memory(root_.string()).total; }

  std::filesystem::path root_;
};

TEST_F(HostMemoryTest, IsTheMachinesWithoutGroups) {
  EXPECT_EQ(total(), 1000 << 10);
  EXPECT_EQ(available(), 900 << 10);
  EXPECT_EQ(host_memory((root_ / "nothing").string()).available, 0);
}

TEST_F(HostMemoryTest, IsWhatTheGroupLeaves) {
  group("", "500000", 100000);
  EXPECT_EQ(total(), 500000);
  EXPECT_EQ(available(), 400000);
  group("", "max", 100000);
  EXPECT_EQ(available(), 900 << 10);
  group("", "500000", 600000);
  EXPECT_EQ(available(), 0);
}

TEST_F(HostMemoryTest, FilesThatTheKernelKeepsAreNotInTheWay) {
  group("", "500000", 490000, 300000);  // a model that was read once
  EXPECT_EQ(available(), 310000);
  group("", "500000", 10, 300000);
  EXPECT_EQ(available(), 500000);
  group("", "500000", 10, INT64_MAX);
  EXPECT_EQ(available(), 500000);
}

TEST_F(HostMemoryTest, IsOfTheTightestGroupThatHoldsTheProcess) {
  file("proc/self/cgroup", "1:cpu:/x\n0::/system.slice/skein.service\n");
  group("/system.slice/skein.service", "max", 0);
  group("/system.slice", "300000", 100000);
  group("/system.slice/other.service", "10", 0);
  EXPECT_EQ(available(), 200000);
  group("/system.slice/skein.service", "50000", 10000);
  EXPECT_EQ(available(), 40000);
}

TEST_F(HostMemoryTest, KnowsTheFirstVersionOfGroups) {
  file("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n");
  file("sys/fs/cgroup/memory/memory.usage_in_bytes", "390000\n");
  file("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\ntotal_active_file 50000\n");
  EXPECT_EQ(available(), 160000);
}

}  // namespace
}  // namespace skein
