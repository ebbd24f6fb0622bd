#include "server/memory_plan.h"

#include <algorithm>
#include <fstream>
#include <limits>
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

KvBytes PlanKvBytes(const KvBytes& wanted, KvTier tier, int64_t bytes_per_sequence, int max_running,
                    int64_t available_bytes) {
  const int64_t needed = bytes_per_sequence > std::numeric_limits<int64_t>::max() / max_running
                             ? std::numeric_limits<int64_t>::max()
                             : bytes_per_sequence * max_running;
  const int64_t pool = std::max(bytes_per_sequence, std::min(needed, available_bytes / 2));
  KvBytes plan = wanted;
  if (tier == KvTier::kUnified) {
    if (plan.device == 0) plan.device = pool;
    plan.host = 0;
    return plan;
  }
  if (plan.host == 0) plan.host = pool;
  if (plan.device == 0) plan.device = std::max(bytes_per_sequence, plan.host / 4);
  return plan;
}

}  // namespace slim
