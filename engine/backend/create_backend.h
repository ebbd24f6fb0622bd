// Chooses and makes the backend that the program was asked for. Thread rule: thread-safe.
#ifndef ENGINE_BACKEND_CREATE_BACKEND_H_
#define ENGINE_BACKEND_CREATE_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_features.h"

namespace slim {

enum class BackendKind { kAuto, kCpu, kCuda };

struct BackendOptions {
  BackendKind kind = BackendKind::kAuto;  // kAuto: CUDA where module and GPU are there, else CPU
  int num_threads = 0;                    // CPU only; 0: what cpuset and cgroup allow
  absl::optional<CpuIsa> isa;             // CPU only; the best one by default
};

struct BackendChoice {
  std::unique_ptr<Backend> backend;
  absl::Status cuda;  // kAuto that chose the CPU: what CUDA lacks
};

// kCuda: the errors of CreateCudaBackend. The CPU: INVALID_ARGUMENT for a thread count or an
// instruction set that the machine cannot have.
absl::StatusOr<BackendChoice> CreateBackend(const BackendOptions& options);

}  // namespace slim

#endif  // ENGINE_BACKEND_CREATE_BACKEND_H_
