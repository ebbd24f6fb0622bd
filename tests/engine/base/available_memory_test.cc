#include "engine/base/available_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace slim {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// A small tree with proc and sys.
class AvailableMemoryTest : public testing::Test {
 protected:
  AvailableMemoryTest() : root_(testing::TempDir() + "/available_memory") {
    std::filesystem::remove_all(root_);
    Write("/proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n");
  }
  ~AvailableMemoryTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void WriteGroup(const std::string& path, int64_t limit, int64_t used) {
    Write("/sys/fs/cgroup" + path + "/memory.max", std::to_string(limit) + "\n");
    Write("/sys/fs/cgroup" + path + "/memory.current", std::to_string(used) + "\n");
  }
  int64_t Available() const { return AvailableMemoryBytes(root_); }

  const std::string root_;
};

TEST_F(AvailableMemoryTest, IsWhatTheMachineHasWhereNoGroupLimitsIt) {
  EXPECT_EQ(Available(), 16 * kGiB);
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "max\n");
  Write("/sys/fs/cgroup/memory.current", "123\n");
  EXPECT_EQ(Available(), 16 * kGiB);
  EXPECT_EQ(AvailableMemoryBytes("/nowhere"), kGiB);
}

TEST_F(AvailableMemoryTest, TheTightestGroupOnTheWayUpCounts) {
  Write("/proc/self/cgroup", "0::/system.slice/server.service\n");
  WriteGroup("/system.slice/server.service", 8 * kGiB, kGiB);
  EXPECT_EQ(Available(), 7 * kGiB);
  WriteGroup("/system.slice", 6 * kGiB, 2 * kGiB);
  EXPECT_EQ(Available(), 4 * kGiB);
  WriteGroup("/system.slice", kGiB, 2 * kGiB);
  EXPECT_EQ(Available(), 0);
}

TEST_F(AvailableMemoryTest, InAContainerTheGroupIsAtTheRoot) {
  Write("/proc/self/cgroup", "0::/docker/4711\n");  // its path outside
  WriteGroup("", 4 * kGiB, kGiB);
  EXPECT_EQ(Available(), 3 * kGiB);
}

TEST_F(AvailableMemoryTest, PagesOfFilesCountAsFree) {
  Write("/proc/self/cgroup", "0::/\n");
  WriteGroup("", 8 * kGiB, 7 * kGiB);
  Write("/sys/fs/cgroup/memory.stat",
        "anon 1\nfile 99\nactive_file 1073741824\ninactive_file 2147483648\n");
  EXPECT_EQ(Available(), 4 * kGiB);
}

TEST_F(AvailableMemoryTest, ReadsTheFirstVersionToo) {
  Write("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/jobs/1\nnonsense\n0::/\n");
  Write("/sys/fs/cgroup/memory/jobs/1/memory.limit_in_bytes", "4294967296\n");
  Write("/sys/fs/cgroup/memory/jobs/1/memory.usage_in_bytes", "3221225472\n");
  Write("/sys/fs/cgroup/memory/jobs/1/memory.stat",
        "inactive_file 5\ntotal_active_file 0\ntotal_inactive_file 1073741824\n");
  EXPECT_EQ(Available(), 2 * kGiB);
  // A group above without a limit has a number that is larger than any memory.
  Write("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "3221225472\n");
  EXPECT_EQ(Available(), 2 * kGiB);
}

}  // namespace
}  // namespace slim
