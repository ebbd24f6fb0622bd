#include "engine/base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

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

absl::optional<int64_t> MachineAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return absl::nullopt;
}

}  // namespace

int64_t AvailableMemoryBytes() {
  int64_t available = MachineAvailable().value_or(kFallbackBytes);
  // In a container its own cgroup is the root of what it sees.
  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const auto used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit.has_value() && used.has_value()) {
    available = std::min(available, std::max<int64_t>(0, *limit - *used));
  }
  return available;
}

}  // namespace slim
