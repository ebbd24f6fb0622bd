#include "server/memory_plan.h"

#include <algorithm>
#include <limits>

namespace slim {

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
