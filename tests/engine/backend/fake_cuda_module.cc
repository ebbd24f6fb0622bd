// Stands for the CUDA module in cuda_module_test: another interface version, no GPU, or (with no
// macro set) a library that is no module at all.
#include "engine/backend/cuda/cuda_module_abi.h"

#ifdef SLIM_FAKE_ABI
namespace {
absl::StatusOr<std::unique_ptr<slim::Backend>> NoGpu() {
  return absl::UnavailableError("no usable GPU: cudaErrorNoDevice");
}
}  // namespace

extern "C" const slim::CudaModule* slim_cuda_module() {
  static constexpr slim::CudaModule kModule{SLIM_FAKE_ABI, &NoGpu};
  return &kModule;
}
#endif
