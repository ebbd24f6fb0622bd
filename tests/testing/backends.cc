#include "tests/testing/backends.h"

#include <algorithm>

#include "engine/backend/cpu/cpu_backend.h"
#include "engine/backend/cuda/cuda_module.h"
#include "engine/base/check.h"
#include "tests/testing/reference_backend.h"

namespace slim {

std::vector<BackendFactory> AllBackends() {
  std::vector<BackendFactory> all;
  all.push_back({"reference", true, [] { return MakeReferenceBackend(); }, true, ""});
  for (const CpuIsa isa : SupportedIsas(DetectCpuFeatures())) {
    std::string name = "cpu_" + std::string(CpuIsaName(isa));
    std::replace(name.begin(), name.end(), '+', '_');
    all.push_back({name, false,
                   [isa] {
                     CpuBackendOptions options;
                     options.num_threads = 2;
                     options.isa = isa;
                     auto backend = CpuBackend::Create(options);
                     SLIM_CHECK(backend.ok());
                     return *std::move(backend);
                   },
                   true, ""});
  }
  return all;
}

std::vector<BackendFactory> EngineBackends() {
  std::vector<BackendFactory> all = AllBackends();
  BackendFactory cuda;
  cuda.name = "cuda";
  cuda.batch_invariant = false;
  cuda.missing = CreateCudaBackend().status().ToString();
  if (cuda.missing == "OK") cuda.missing.clear();
  cuda.make = [] {
    auto backend = CreateCudaBackend();
    SLIM_CHECK(backend.ok());
    return *std::move(backend);
  };
  all.push_back(std::move(cuda));
  return all;
}

}  // namespace slim
