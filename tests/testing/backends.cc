#include "tests/testing/backends.h"

#include "tests/testing/reference_backend.h"

namespace slim {

std::vector<BackendFactory> AllBackends() {
  std::vector<BackendFactory> all;
  all.push_back({"reference", true, [] { return MakeReferenceBackend(); }});
  return all;
}

}  // namespace slim
