// Loads the CUDA backend from its shared library, so that the program itself starts on machines
// without CUDA libraries and can say what they lack. No CUDA type here.
// Thread rule: thread-safe. The library stays loaded until the program ends.
#ifndef ENGINE_BACKEND_CUDA_CUDA_MODULE_H_
#define ENGINE_BACKEND_CUDA_CUDA_MODULE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace slim {

// Where the module is looked for: beside the program, then in ../lib and ../bin from there.
std::vector<std::string> CudaModulePaths();

// Whether the driver's library can be loaded: a cheap question, where the module would bring half a
// gigabyte of libraries. UNAVAILABLE with the loader's message.
absl::Status FindCudaDriver();

// The backend on the first GPU, from the first of `paths` that exists.
// NOT_FOUND with the paths when there is none; FAILED_PRECONDITION with the loader's message when
// it needs a library that is missing (libcublasLt, for example), is no CUDA module, has another
// interface version, or the GPU is too old; UNAVAILABLE with the CUDA error when there is no driver
// or no GPU.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const std::vector<std::string>& paths = CudaModulePaths());

}  // namespace slim

#endif  // ENGINE_BACKEND_CUDA_CUDA_MODULE_H_
