// The CPU backend: quantised weights packed for integer dot products, activations quantised per row
// and group of 32, attention on a bf16 KV cache, kernels chosen at start by what the processor has.
//
// Memory is host memory; activations are float32. Thread rule: as Backend. Results do not depend on
// the number of threads, on batches or on chunks.
#ifndef ENGINE_BACKEND_CPU_CPU_BACKEND_H_
#define ENGINE_BACKEND_CPU_CPU_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_features.h"

namespace slim {

struct CpuBackendOptions {
  int num_threads = 0;         // 0: what cpuset and cgroup allow
  absl::optional<CpuIsa> isa;  // unset: the best one there is
};

// INVALID_ARGUMENT when num_threads is not 0 to 1024, or the processor lacks the variant asked for.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_CPU_BACKEND_H_
