#include "tests/testing/backends.h"

#include <utility>

#include "absl/strings/str_replace.h"
#include "engine/backend/cpu/cpu_backend.h"
#include "engine/base/check.h"
#include "tests/testing/reference_backend.h"

namespace slim {

std::vector<BackendFactory> AllBackends() {
  std::vector<BackendFactory> all;
  all.push_back({"reference", true, [] { return MakeReferenceBackend(); }});
  for (const CpuIsa isa : SupportedIsas()) {
    const std::string name = std::string(CpuIsaName(isa));
    all.push_back({"cpu_" + absl::StrReplaceAll(name, {{"+", "_"}}), false, [isa] {
                     CpuBackendOptions options;
                     options.isa = isa;
                     absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend(options);
                     SLIM_CHECK(backend.ok());
                     return *std::move(backend);
                   }});
  }
  return all;
}

}  // namespace slim
