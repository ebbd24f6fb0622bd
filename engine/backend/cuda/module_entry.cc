// The one symbol that the CUDA module exports.
#include "engine/backend/cuda/cuda_backend.h"
#include "engine/backend/cuda/cuda_module_abi.h"

extern "C" __attribute__((visibility("default"))) const slim::CudaModule* slim_cuda_module() {
  static constexpr slim::CudaModule kModule{slim::kCudaModuleAbi, &slim::cuda::CudaBackend::Create};
  return &kModule;
}
