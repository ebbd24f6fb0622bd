// The plain backend: every op as scalar loops over dequantised float weights and float KV, or
// whatever the layout says that it is configured with. The
// oracle that the fast backends are compared with. Rows of large products are split over threads,
// which changes no result. Thread rule and shapes: as Backend.
#ifndef TESTS_TESTING_REFERENCE_BACKEND_H_
#define TESTS_TESTING_REFERENCE_BACKEND_H_

#include <memory>

#include "engine/backend/backend.h"

namespace slim {

struct ReferenceOptions {
  KvType kv_type = KvType::kF32;  // what info() says
  int num_threads = 2;
};

std::unique_ptr<Backend> MakeReferenceBackend(const ReferenceOptions& options = {});

}  // namespace slim

#endif  // TESTS_TESTING_REFERENCE_BACKEND_H_
