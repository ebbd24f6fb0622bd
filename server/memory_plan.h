// How much memory the KV cache gets when the operator does not say. Thread-safe.
#ifndef SERVER_MEMORY_PLAN_H_
#define SERVER_MEMORY_PLAN_H_

#include <cstdint>

#include "kvcache/kv_manager.h"

namespace slim {

struct KvBytes {
  int64_t device = 0;
  int64_t host = 0;  // discrete tier only
};

// Fills in what is 0 in `wanted`. Unified: half of what is available, but no more than
// `max_running` sequences of a whole context need (`bytes_per_sequence` each). Discrete: that is
// the host pool, and the device arena is a quarter of it. At least one sequence fits either way.
KvBytes PlanKvBytes(const KvBytes& wanted, KvTier tier, int64_t bytes_per_sequence, int max_running,
                    int64_t available_bytes);

}  // namespace slim

#endif  // SERVER_MEMORY_PLAN_H_
