// Takes the place of engine/backend/cuda/cuda_module.cc in test programs whose "cuda" is the host.

#include "engine/backend/cuda/cuda_backend.h"
#include "engine/backend/cuda/cuda_module.h"

namespace slim {

std::vector<std::string> CudaModulePaths() { return {}; }
absl::Status FindCudaDriver() { return absl::OkStatus(); }
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const std::vector<std::string>&) {
  return cuda::CudaBackend::Create();
}

}  // namespace slim
