#include "engine/backend/create_backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_backend.h"
#include "engine/backend/cuda/cuda_module.h"
#include "engine/base/status_macros.h"

namespace slim {

absl::StatusOr<BackendChoice> CreateBackend(const BackendOptions& options) {
  BackendChoice choice;
  if (options.kind == BackendKind::kAuto) choice.cuda = FindCudaDriver();
  if (options.kind != BackendKind::kCpu && choice.cuda.ok()) {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateCudaBackend();
    if (cuda.ok()) {
      choice.backend = *std::move(cuda);
      return choice;
    }
    if (options.kind == BackendKind::kCuda) {
      return absl::Status(cuda.status().code(),
                          absl::StrCat("--backend cuda: ", cuda.status().message()));
    }
    choice.cuda = cuda.status();
  }
  CpuBackendOptions cpu;
  cpu.num_threads = options.num_threads;
  cpu.isa = options.isa;
  SLIM_ASSIGN_OR_RETURN(choice.backend, CpuBackend::Create(cpu));
  return choice;
}

}  // namespace slim
