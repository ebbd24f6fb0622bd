// What the program and the CUDA module (a shared library that is loaded when the program runs) must
// agree on. Both are built from one tree; the number keeps two builds apart that are not.
#ifndef ENGINE_BACKEND_CUDA_CUDA_MODULE_ABI_H_
#define ENGINE_BACKEND_CUDA_CUDA_MODULE_ABI_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace slim {

// To be raised with every change of backend.h, of what it includes, or of this file.
inline constexpr int32_t kCudaModuleAbi = 4;

struct CudaModule {
  int32_t abi_version = 0;  // first, so that any version can read it
  absl::StatusOr<std::unique_ptr<Backend>> (*create_backend)() = nullptr;
};

// extern "C" const CudaModule* slim_cuda_module();
using CudaModuleEntry = const CudaModule* (*)();
inline constexpr char kCudaModuleEntryName[] = "slim_cuda_module";

}  // namespace slim

#endif  // ENGINE_BACKEND_CUDA_CUDA_MODULE_ABI_H_
