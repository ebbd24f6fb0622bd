#include "engine/base/available_memory.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace slim {
namespace {

constexpr int64_t kFallbackBytes = int64_t{1} << 30;

absl::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (!(file >> value)) return absl::nullopt;  // also for the word "max"
  return value;
}

absl::optional<int64_t> MachineAvailable(const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return absl::nullopt;
}

// The names of a version of the cgroup interface.
struct Files {
  const char* limit;
  const char* used;
  const char* cached[2];  // keys of memory.stat
};
constexpr Files kVersion2 = {"/memory.max", "/memory.current", {"active_file", "inactive_file"}};
constexpr Files kVersion1 = {"/memory.limit_in_bytes",
                             "/memory.usage_in_bytes",
                             {"total_active_file", "total_inactive_file"}};

int64_t CachedFileBytes(const std::string& folder, const Files& files) {
  std::ifstream file(folder + "/memory.stat");
  std::string key;
  int64_t value = 0, sum = 0;
  while (file >> key >> value) {
    if (key == files.cached[0] || key == files.cached[1]) sum += value;
  }
  return sum;
}

// What is left in the group at `path` and in those above it, in a hierarchy mounted at `mount`.
void LimitByGroups(const std::string& mount, std::string path, const Files& files,
                   int64_t* available) {
  while (true) {
    const std::string folder = mount + path;
    const auto limit = ReadNumber(folder + files.limit);
    const auto used = ReadNumber(folder + files.used);
    if (limit.has_value() && used.has_value()) {
      const int64_t needed = std::max<int64_t>(0, *used - CachedFileBytes(folder, files));
      *available = std::min(*available, std::max<int64_t>(0, *limit - needed));
    }
    if (path.empty()) return;
    path.erase(path.rfind('/'));
  }
}

}  // namespace

int64_t AvailableMemoryBytes(const std::string& root) {
  int64_t available = MachineAvailable(root).value_or(kFallbackBytes);
  const std::string mount = root + "/sys/fs/cgroup";
  // A line for each hierarchy: number, controllers, path. Inside a container, paths may be those
  // outside of it; the group itself is then at the root of what is mounted.
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    while (absl::EndsWith(path, "/")) path.pop_back();
    if (!path.empty() && path[0] != '/') continue;
    if (controllers.empty()) LimitByGroups(mount, path, kVersion2, &available);
    if (absl::StrContains(absl::StrCat(",", controllers, ","), ",memory,")) {
      LimitByGroups(mount + "/memory", path, kVersion1, &available);
    }
  }
  return available;
}

}  // namespace slim
