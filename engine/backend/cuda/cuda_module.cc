#include "engine/backend/cuda/cuda_module.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/backend/cuda/cuda_module_abi.h"

namespace slim {
namespace {

constexpr char kModuleName[] = "libsliminfer_cuda.so";

std::string DlError() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown reason";
}

}  // namespace

std::vector<std::string> CudaModulePaths() {
  char program[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof(program));
  if (length <= 0) return {kModuleName};
  const std::string path(program, static_cast<size_t>(length));
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  return {folder + kModuleName, folder + "../lib/" + kModuleName, folder + "../bin/" + kModuleName};
}

absl::Status FindCudaDriver() {
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("no CUDA driver: ", DlError()));
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const std::vector<std::string>& paths) {
  std::string path;
  for (const std::string& candidate : paths) {
    if (access(candidate.c_str(), R_OK) != 0) continue;
    path = candidate;
    break;
  }
  if (path.empty()) {
    return absl::NotFoundError(
        absl::StrCat("CUDA module not found, looked for ", absl::StrJoin(paths, ", ")));
  }
  // Never closed: buffers of the backend call into it.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA module ", path, " cannot be loaded: ", DlError()));
  }
  const auto entry = reinterpret_cast<CudaModuleEntry>(dlsym(library, kCudaModuleEntryName));
  if (entry == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no CUDA module of this program: ", DlError()));
  }
  const CudaModule* module = entry();
  if (module->abi_version != kCudaModuleAbi) {
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA module ", path, " has interface version ", module->abi_version,
                     ", this program needs ", kCudaModuleAbi));
  }
  return module->create_backend();
}

}  // namespace slim
