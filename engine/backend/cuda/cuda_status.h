// Codes of the CUDA libraries as statuses. Thread-safe.
#ifndef ENGINE_BACKEND_CUDA_CUDA_STATUS_H_
#define ENGINE_BACKEND_CUDA_CUDA_STATUS_H_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace slim::cuda {

// OK, RESOURCE_EXHAUSTED for memory, else INTERNAL, with the name of the call and of the error.
absl::Status FromCuda(cudaError_t error, const char* call);
absl::Status FromCublas(cublasStatus_t status, const char* call);

inline absl::Status ToStatus(cudaError_t error, const char* call) { return FromCuda(error, call); }
inline absl::Status ToStatus(cublasStatus_t status, const char* call) {
  return FromCublas(status, call);
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_STATUS_H_
